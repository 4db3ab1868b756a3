"""Identity by content: digests of structures, and what differs between two runs.

Work that was interrupted may go on only with what it began with. Names and lengths do not tell:
another file may lie under the same path, another list have the same size.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["STRUCTURES", "differences", "digest", "list_digest", "structure_digest"]

#: The setting under which a run keeps the digests of its structures, in their order.
STRUCTURES = "structures"
#: Stands for a structure that cannot be read, or is none.
UNREADABLE = "unreadable"


def structure_digest(atoms: Any) -> str:
    """Return 16 hexadecimal digits that depend on all a model or a run may read of a structure.

    Numbers, positions and every other array, cell, periodicity, constraints and ``info`` count;
    labels of an attached calculator do not.

    Parameters
    ----------
    atoms
        An ase.Atoms, or anything else, which is :data:`UNREADABLE`.
    """
    if not hasattr(atoms, "arrays") or not hasattr(atoms, "cell"):
        return UNREADABLE

    constraints = [
        one.todict() if hasattr(one, "todict") else type(one).__name__ for one in atoms.constraints
    ]
    cell = np.asarray(atoms.cell[:], dtype=np.float64)
    parts = [dict(atoms.arrays), cell, np.asarray(atoms.pbc), constraints, dict(atoms.info)]
    return digest(parts)


def list_digest(digests: Iterable[str]) -> str:
    """Return one digest of many, which depends on their order and number."""
    return digest(list(digests))


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits of nested lists, dictionaries, arrays and plain values."""
    state = hashlib.sha256()
    _feed(state, value)
    return state.hexdigest()[:16]


def _feed(state: Any, value: Any) -> None:
    """Add a value with its kind and length, so that no two values give the same bytes."""
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: str(item[0]))
        state.update(b"D%d;" % len(items))
        for name, inner in items:
            _feed(state, str(name))
            _feed(state, inner)
    elif isinstance(value, (list, tuple)):
        state.update(b"L%d;" % len(value))
        for inner in value:
            _feed(state, inner)
    elif isinstance(value, (np.ndarray, np.generic)):
        _feed_array(state, np.asarray(value))
    elif isinstance(value, float):
        state.update(b"F" + struct.pack("<d", value + 0.0))
    else:
        # What is no plain value has no content that could be told apart in another process.
        plain = value is None or isinstance(value, (str, bytes, int))
        text = repr(value) if plain else type(value).__qualname__
        state.update(b"P%d;" % len(text) + text.encode("utf-8", "surrogatepass"))


def _feed_array(state: Any, array: Any) -> None:
    if array.dtype.kind not in "biufc":
        _feed(state, array.tolist())
        return

    # Every stored width of a number is the same number; -0.0 + 0.0 is 0.0.
    wide = {"b": "?", "i": "<i8", "u": "<u8", "f": "<f8", "c": "<c16"}[array.dtype.kind]
    values = array.astype(wide)
    if array.dtype.kind in "fc":
        values = values + 0.0
    state.update(f"A{wide}{array.shape};".encode())
    state.update(np.ascontiguousarray(values).tobytes())


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between the settings of two runs, a phrase for each; empty if nothing.

    Parameters
    ----------
    before, now
        Plain values by name; under :data:`STRUCTURES` the list of the structures' digests.
    """
    phrases = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name == STRUCTURES and isinstance(old, list) and isinstance(new, list):
            phrases.append(_other_structures(old, new))
        else:
            phrases.append(f"{name}: {_short(old)} there, {_short(new)} here")
    return phrases


def _other_structures(old: Sequence[str], new: Sequence[str]) -> str:
    if len(old) != len(new):
        return f"structures: {len(old)} there, {len(new)} here"
    others = [k for k, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"structures: number {others[0]}{more} of {len(new)} differ in content"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:60]}... ({len(text)} characters)"
