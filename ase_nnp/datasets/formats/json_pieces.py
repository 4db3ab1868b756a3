"""A JSON file of any size in pieces that are small enough to parse one at a time.

A value is divided into its elements until these are smaller than a megabyte or are one record. A
table that is written by columns (an object of lists, or pandas' objects by index; pandas' ``split``
too) is read by rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.formats.byteranges import ByteRanges
from ase_nnp.datasets.formats.json_spans import Spans, find_spans
from ase_nnp.datasets.formats.rows import parse_json
from ase_nnp.errors import DatasetError

__all__ = ["JsonPieces"]

Array = np.ndarray[Any, Any]

_SMALL = 1 << 20
_LARGEST = 1 << 30
_CHUNK = 4 << 20
_FEW = 1000  # members of an object whose names are worth looking at
_DEPTH = 12
_NAME = re.compile(rb'\s*("(?:[^"\\]|\\.)*")\s*:\s*')


@dataclass
class _Rows:
    """Pieces that lie inside one value: ``spans`` (n, 2), or a column each of a table."""

    spans: Array
    path: str = ""
    member: bool = False  # "key": value
    numbered: bool = True  # the place in the list is part of a record's name
    columns: dict[str, _Rows] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # of the values in a row that is a list


class JsonPieces:
    """The pieces of one JSON file, by number.

    Parameters
    ----------
    path
        The file; ``.gz``, ``.bz2`` and ``.xz`` are inflated.
    records
        Names that make an object one record, which is not divided.
    tables
        ``tables(names, first)``: whether an object with members of these names is a table by
        columns; ``first(name)`` is the first element of such a column.

    Raises
    ------
    DatasetError
        The file is no JSON.
    """

    def __init__(
        self,
        path: Path,
        records: frozenset[str],
        tables: Callable[[Mapping[str, Any], Callable[[str], Any]], bool],
    ) -> None:
        self._file = ByteRanges(path)
        self._records, self._tables = records, tables
        self._groups = list(self._divide_file())
        self._ends = np.cumsum([len(rows.spans) for rows in self._groups], dtype=np.int64)
        self._file.close()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: int) -> tuple[str, Any]:
        """Return the place of a piece (names and numbers joined by ``/``) and its value."""
        group = int(np.searchsorted(self._ends, number, side="right"))
        rows = self._groups[group]
        place = int(number - (self._ends[group] - len(rows.spans)))
        name, value = self._parse(rows, place)

        if rows.columns:
            value = {}
            for title, column in rows.columns.items():
                title_of_row, entry = self._parse(column, place)
                if title_of_row != name:
                    raise DatasetError(f"column {title!r} has row {title_of_row!r}, not {name!r}")
                value[title] = entry
        elif rows.names:
            if not isinstance(value, list) or len(value) != len(rows.names):
                raise DatasetError(f"a row that is no list of {len(rows.names)} values")
            value = dict(zip(rows.names, value, strict=True))
        return "/".join(part for part in (rows.path, name) if part), value

    def is_record(self, number: int) -> bool:
        """Whether a piece is one row of a table, so that it need not be parsed to be counted."""
        rows = self._groups[int(np.searchsorted(self._ends, number, side="right"))]
        return bool(rows.columns or rows.names)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _parse(self, rows: _Rows, place: int) -> tuple[str, Any]:
        start, stop = map(int, rows.spans[place])
        if stop - start > _LARGEST:
            raise DatasetError(f"one record of {stop - start} bytes")
        text = self._file.read(start, stop)
        if rows.member:
            ((name, value),) = parse_json(b"{" + text + b"}").items()
            return str(name), value
        return str(place) if rows.numbered else "", parse_json(text.strip())

    # ---- dividing

    def _divide_file(self) -> Iterator[_Rows]:
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for chunk in self._file.chunks(_CHUNK):
                size += len(chunk)
                yield chunk

        # The only pass over the whole file; later reads go to the pieces.
        spans = find_spans(counted())
        self._file.hold(size)
        if not len(spans.values):
            raise DatasetError("not JSON: no list or object")
        self._refuse_text_between(spans.values, size)
        if len(spans.values) > 1:  # JSON lines
            yield _Rows(spans.values)
        else:
            yield from self._divide(spans, "", 0)

    def _refuse_text_between(self, values: Array, size: int) -> None:
        gaps = np.stack([np.r_[0, values[:, 1]], np.r_[values[:, 0], size]], axis=1)
        # A line end is one byte or two; only longer gaps are looked at.
        for start, stop in gaps[gaps[:, 1] - gaps[:, 0] > 2].tolist():
            text = self._file.read(start, min(stop, start + 4096)).strip()
            if text.removeprefix(b"\xef\xbb\xbf"):
                raise DatasetError(f"not JSON: {text[:40]!r} at byte {start}")

    def _divide(self, spans: Spans, path: str, depth: int) -> Iterator[_Rows]:
        """Yield the pieces of a value whose elements are known."""
        start, stop = map(int, spans.values[0])
        brackets = self._file.read(start, start + 1) + self._file.read(stop - 1, stop)
        if brackets not in (b"{}", b"[]"):
            raise DatasetError(f"not JSON: {brackets[:1]!r} is closed by {brackets[1:]!r}")
        is_object = brackets == b"{}"
        members = self._names(spans.inner) if is_object and len(spans.inner) <= _FEW else {}
        if depth == 0 and members:
            table = self._table(members)
            if table is not None:
                yield table
                return

        undivided = stop - start <= _SMALL or depth >= _DEPTH or self._records & members.keys()
        if undivided:
            yield _Rows(spans.values[:1], path, numbered=False)
            return

        # Names are read with their values, so a piece can tell its own place.
        small = spans.inner[:, 1] - spans.inner[:, 0] <= _SMALL
        if small.all():
            yield _Rows(spans.inner, path, member=is_object)
            return
        for number, (begin, end) in enumerate(spans.inner.tolist()):
            match = _NAME.match(self._file.read(begin, min(end, begin + 4096)))
            name = str(parse_json(match[1])) if is_object and match else str(number)
            inner = self._spans(begin + (match.end() if is_object and match else 0), end)
            if len(inner.values):
                yield from self._divide(inner, "/".join(filter(None, (path, name))), depth + 1)

    def _spans(self, start: int, stop: int) -> Spans:
        def chunks() -> Iterator[bytes]:
            for begin in range(start, stop, _CHUNK):
                yield self._file.read(begin, min(begin + _CHUNK, stop))

        return find_spans(chunks(), start)

    def _names(self, inner: Array) -> dict[str, tuple[int, int]]:
        """Return where the values of an object's members lie, by name."""
        places = {}
        for start, stop in inner.tolist():
            match = _NAME.match(self._file.read(start, min(stop, start + 4096)))
            if match is not None:
                places[str(parse_json(match[1]))] = (start + match.end(), stop)
        return places

    def _table(self, members: dict[str, tuple[int, int]]) -> _Rows | None:
        """Return the rows of a table by columns, or of pandas' ``split``; None of anything else."""
        if {"columns", "data"} <= members.keys():
            names = parse_json(self._file.read(*members["columns"]))
            rows = self._column(*members["data"])
            if isinstance(names, list) and rows is not None and not rows.member:
                row = self._parse(rows, 0)[1]
                titled = dict(zip(map(str, names), row, strict=False)) if type(row) is list else {}
                if self._tables(titled, titled.get):
                    rows.names = tuple(map(str, names))
                    return rows

        columns: dict[str, _Rows] = {}

        def first(name: str) -> Any:
            column = columns.get(name) or self._column(*members[name])
            if column is None:
                return None
            columns[name] = column
            return self._parse(column, 0)[1]

        if not self._tables(members, first):
            return None
        for name, place in members.items():
            column = columns.get(name) or self._column(*place)
            if column is not None:
                columns[name] = column
        # Columns of the same length belong together by rows; anything else would shift labels.
        counts = {name: len(column.spans) for name, column in columns.items()}
        if len(set(counts.values())) > 1:
            raise DatasetError(f"columns of different lengths: {counts}")
        first_column = next(iter(columns.values()))
        return _Rows(first_column.spans, member=first_column.member, columns=columns)

    def _column(self, start: int, stop: int) -> _Rows | None:
        if self._file.read(start, start + 1) not in (b"[", b"{"):
            return None
        spans = self._spans(start, stop)
        begin, end = spans.inner[0].tolist() if len(spans.inner) else (0, 0)
        if len(spans.inner) == 1 and not self._file.read(begin, end).strip():
            return None
        return _Rows(spans.inner, member=self._file.read(start, start + 1) == b"{")
