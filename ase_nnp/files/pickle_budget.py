"""What one pickle may unfold to: a few times the size of its file, whatever it shares.

A pickle of 400 bytes can hold a list of 40 lists that each hold the next one twice, a thousand
views of one number that each look like a million, or a word that is joined with itself 30 times.
All of these are small until somebody copies, prints or hashes them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

from ase_nnp.files.pickle_scan import MAX_HASH_WORK, UnpickleError

__all__ = ["Budget", "check_unfolded"]

#: Values (numbers, characters, entries) that any file may unfold to, and how many a byte of it.
SMALL_FILE, PER_BYTE = 1 << 22, 8
MAX_BITS = 1 << 13  # of an integer: Python refuses to print longer ones


class Budget:
    """Counts what the calls of one pickle make, the pickles inside it included.

    Parameters
    ----------
    size
        Bytes of the file, or of the record of a database.
    """

    def __init__(self, size: int) -> None:
        self.left = SMALL_FILE + PER_BYTE * size
        self.hashing = MAX_HASH_WORK // 4
        self.odd_keys = 0

    def spend(self, count: int) -> None:
        """Count values that a call makes.

        Raises
        ------
        UnpickleError
            More than the file may unfold to.
        """
        self.left -= count
        if self.left < 0:
            raise UnpickleError("it unfolds to many times the size of its file")

    def hash_keys(self, keys: Iterable[Any]) -> None:
        """Count the steps of hashing keys, before anything hashes them."""
        for key in keys:
            if type(key) in (str, bytes, bool, type(None)):
                continue
            self.odd_keys += type(key) is not int or key.bit_length() > 60
            waiting = [key]
            while waiting:
                part = waiting.pop()
                self.hashing -= 8 + self.odd_keys  # this walk is slower than hashing
                if self.hashing < 0:
                    raise UnpickleError("keys that are built to take for ever")
                if isinstance(part, (tuple, frozenset)):
                    waiting.extend(part)


def check_unfolded(value: Any, budget: Budget) -> None:
    """Count a value as a tree, what is shared as often as it occurs; each object is seen once.

    Raises
    ------
    UnpickleError
        The tree is too large for its file, or a number in it is too long.
    """
    small = _small_tree(value)
    if small is not None and small <= budget.left:
        return

    sizes: dict[int, int] = {}
    keep: list[Any] = []  # parts made for the walk: their ids must not be used again
    waiting: list[tuple[Any, Any]] = [(value, None)]
    while waiting:
        item, parts = waiting.pop()
        if parts is None:
            if id(item) in sizes:
                continue
            parts = _parts(item)
            if parts is None:
                continue
            keep.append(parts)
            sizes[id(item)] = 1  # inside itself
            waiting.append((item, parts))
            waiting.extend((part, None) for part in parts if type(part) not in _LEAVES)
        else:
            total = 1 + sum(sizes.get(id(part)) or _leaf(part) for part in parts)
            if total > budget.left:
                raise UnpickleError("it unfolds to many times the size of its file")
            sizes[id(item)] = total


_CONTAINERS = (dict, OrderedDict, list, tuple, set, frozenset)
_LEAVES = frozenset([float, bool, type(None)])
_SHORT = 1 << 60  # integers up to here need no look at their length
_FEW = 400  # values that are counted one by one, as often as they occur


def _small_tree(value: Any) -> int | None:
    """Return the size of a value of few parts, as records of datasets are; None of any other."""
    waiting, total = [value], 0
    for item in waiting:  # grows
        kind = type(item)
        if kind in _LEAVES:
            continue
        if kind is np.ndarray:
            total += item.size
        elif kind is str or kind is bytes:
            total += len(item) >> 3
        elif kind is int:
            total += 1 if -_SHORT < item < _SHORT else _leaf(item)
        else:
            parts = _parts(item)
            if parts is None:
                continue
            if len(waiting) + len(parts) > _FEW:
                return None
            # The storage of newer records knows the record that it is in.
            waiting += [part for part in parts if part is not value]

    return total + len(waiting)


def _parts(item: Any) -> list[Any] | None:
    kind = type(item)
    if kind is dict or kind is OrderedDict:
        return [*item, *item.values()]
    if kind in _CONTAINERS:
        return list(item)
    if isinstance(getattr(item, "__dict__", None), dict) and kind is not type:
        return list(item.__dict__.values())  # a stand-in
    return None


def _leaf(item: Any) -> int:
    if type(item) is np.ndarray:
        return 1 + int(item.size)
    if type(item) in (str, bytes):
        return 1 + len(item) // 8
    if type(item) is int and item.bit_length() > MAX_BITS:
        raise UnpickleError(f"an integer of {item.bit_length()} bits")
    return 1
