"""Where the values inside a JSON file begin and end, in memory that does not grow with the file.

Only quotes, brackets and commas are looked at, a few megabytes at a time; what lies between them
is parsed later, a piece at a time. Several values in one file, one after the other, are JSON lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ase_nnp.errors import DatasetError

__all__ = ["Spans", "find_spans"]

Array = np.ndarray[Any, Any]

_QUOTE, _BACKSLASH, _COMMA = 34, 92, 44
_STEP = np.zeros(256, np.int8)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1
_EVENT = _STEP != 0
_EVENT[[_QUOTE, _COMMA]] = True
_MAX_SPANS = 20_000_000  # 320 MB of offsets; the largest published file has 1.6 million structures


@dataclass
class Spans:
    """Byte offsets of the values of a file, and of what stands inside the first one.

    Attributes
    ----------
    values
        (k, 2) where each value in brackets begins and ends.
    inner
        (n, 2) elements of the first value: items of a list, ``"key": value`` of an object. A lone
        blank one is an empty list or object.
    """

    values: Array = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    inner: Array = field(default_factory=lambda: np.zeros((0, 2), np.int64))


class _State:
    """What is carried from one chunk to the next."""

    def __init__(self) -> None:
        self.base = 0
        self.depth = 0
        self.inside = False  # of a string
        self.escaped = False  # an odd number of backslashes ends the chunk


def find_spans(chunks: Iterable[bytes], start: int = 0) -> Spans:
    """Return the spans of a file, or of a part of it that begins at byte ``start``.

    Raises
    ------
    DatasetError
        The text ends inside a value, closes what was not opened, or has too many values.
    """
    state = _State()
    marks: list[tuple[Array, Array]] = []  # offset, and the depth after it, where depth <= 1
    count, first_closed = 0, False
    for chunk in chunks:
        offsets, depths, steps = _outside_strings(chunk, state)

        # Inside the first value commas of depth 1 count; of later values only the brackets.
        top = (depths <= 1) & ((steps == 0) | (depths == (steps > 0)))
        ends = np.flatnonzero((depths == 0) & (steps < 0))
        if first_closed:
            top &= steps != 0
        elif len(ends):
            later = np.arange(len(top)) > ends[0]
            top &= ~later | (steps != 0)
            first_closed = True

        kept = np.flatnonzero(top)
        count += len(kept)
        if count > _MAX_SPANS:
            raise DatasetError(f"more than {_MAX_SPANS} values in one list")
        marks.append((offsets[kept] + start, np.where(steps[kept] == 0, 2, depths[kept])))
    if state.inside or state.depth:
        raise DatasetError("not JSON: the text ends inside a value")
    return _from_marks(marks)


def _outside_strings(chunk: bytes, state: _State) -> tuple[Array, Array, Array]:
    """Return offset, depth afterwards and step (1, -1, 0 for a comma) of all events."""
    text = np.frombuffer(chunk, np.uint8)
    events = np.flatnonzero(_EVENT[text])
    kinds = text[events]
    quotes = kinds == _QUOTE
    quotes &= ~_escaped(chunk, text, events, quotes, state)

    # Between an odd and an even quote lies a string; brackets and commas there are text.
    inside = (np.cumsum(quotes, dtype=np.int64) + state.inside) % 2 == 1
    outside = ~inside & (kinds != _QUOTE)
    if len(inside):
        state.inside = bool(inside[-1])

    steps = _STEP[kinds[outside]]
    depths = np.cumsum(steps, dtype=np.int64) + state.depth
    if len(depths):
        state.depth = int(depths[-1])
        if depths.min() < 0:
            raise DatasetError("not JSON: more brackets are closed than opened")
    offsets = events[outside] + state.base
    state.base += len(chunk)
    return offsets, depths, steps


def _escaped(chunk: bytes, text: Array, events: Array, quotes: Array, state: _State) -> Array:
    """Return which events are quotes behind an odd number of backslashes."""
    escaped = np.zeros(len(events), bool)
    carried, state.escaped = state.escaped, False
    if b"\\" not in chunk and not carried:
        return escaped

    # Few quotes have a backslash before them; only of these the run of backslashes is counted.
    before = np.where(events > 0, text[events - 1] == _BACKSLASH, carried)
    for number in np.flatnonzero(quotes & before):
        end = int(events[number])
        begin = end
        while begin > 0 and chunk[begin - 1] == _BACKSLASH:
            begin -= 1
        odd = (end - begin) % 2 == 1
        escaped[number] = odd != (carried and begin == 0)
    tail = len(chunk) - len(chunk.rstrip(b"\\"))
    state.escaped = (tail % 2 == 1) != (carried and tail == len(chunk))
    return escaped


def _from_marks(marks: list[tuple[Array, Array]]) -> Spans:
    if not marks:
        return Spans()
    offsets = np.concatenate([part[0] for part in marks])
    kinds = np.concatenate([part[1] for part in marks])  # 1 opens, 0 closes, 2 is a comma

    opens, closes = np.flatnonzero(kinds == 1), np.flatnonzero(kinds == 0)
    if not len(opens):
        return Spans()
    values = np.stack([offsets[opens], offsets[closes] + 1], axis=1)
    borders = offsets[opens[0] : closes[0] + 1]
    return Spans(values, np.stack([borders[:-1] + 1, borders[1:]], axis=1))
