"""What an LMDB file holds, by its first values; a file that was looked at is opened once."""

from __future__ import annotations

import itertools
from pathlib import Path

from ase_nnp.errors import DatasetError
from ase_nnp.files.lmdb import LmdbFile, looks_like_lmdb

__all__ = ["lmdb_kind", "open_lmdb"]

_KINDS = {b"\x80": "pickle", b"\x78": "zlib"}
_KEPT = 256

State = tuple[int, int, int]
#: Files that were sniffed and not yet opened by a reader, with their kind.
_sniffed: dict[Path, tuple[State, LmdbFile, str]] = {}


def lmdb_kind(path: Path) -> str | None:
    """Return ``"pickle"``, ``"zlib"``, ``"flat"``, ``"?"`` (LMDB of something else) or None."""
    try:
        state = _state(path)
    except OSError:
        return None
    known = _sniffed.get(path)
    if known is not None and known[0] == state:
        return known[2]

    try:
        with open(_file(path), "rb") as handle:
            if not looks_like_lmdb(handle.read(32)):
                return None
    except OSError:
        return None

    lmdb = LmdbFile(path)
    kind = _kind(lmdb)
    while len(_sniffed) >= _KEPT:
        _sniffed.pop(next(iter(_sniffed)))
    _sniffed[path] = state, lmdb, kind
    return kind


def open_lmdb(path: Path) -> LmdbFile:
    """Return the file, the one that :func:`lmdb_kind` looked at if it is still the same.

    Raises
    ------
    DatasetError
        It holds nothing.
    """
    known = _sniffed.pop(path, None)
    try:
        same = known is not None and known[0] == _state(path)
    except OSError:
        same = False
    lmdb = known[1] if known is not None and same else LmdbFile(path)
    if len(lmdb) == 0:
        raise DatasetError("an LMDB file without records", path=path)
    return lmdb


def _file(path: Path) -> Path:
    return path / "data.mdb" if path.is_dir() else path


def _state(path: Path) -> State:
    state = _file(path).stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _kind(lmdb: LmdbFile) -> str:
    try:
        if lmdb.get(b"__format__") is not None:
            return "flat"
        for key in itertools.islice(lmdb.keys(), 20):
            value = lmdb.get(key) if key.isdigit() or key in (b"length", b"nextid") else None
            if value is not None and value[:1] in _KINDS:
                return _KINDS[value[:1]]
    except DatasetError:
        pass  # the reader says what is wrong
    return "?"
