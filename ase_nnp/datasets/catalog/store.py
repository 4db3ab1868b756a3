"""The SQLite file of an index: made row by row, resumable, checked, opened read-only."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ase_nnp.datasets.catalog.describe import describe, facts_of_file
from ase_nnp.datasets.catalog.identity import described_files, differences, refreshed
from ase_nnp.datasets.catalog.mapping import Mappings
from ase_nnp.datasets.catalog.schema import (
    APPLICATION_ID,
    COLUMNS,
    CREATE,
    INDEXES,
    LIGHT,
    VERSION,
)
from ase_nnp.errors import DatasetError
from ase_nnp.files.atomic import locked

__all__ = ["build", "damaged_file", "opened"]

BATCH = 1000
_NAMES = ("id", "light", "heavy", *(column.name for column in COLUMNS))
_INSERT = (
    f"INSERT INTO records ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)})"
)
_EMPTY = dict.fromkeys(_NAMES)
REBUILD = "build it again with rebuild=True"

Progress = Callable[[int, int], None]


def build(
    path: Path,
    shards: tuple[Any, ...],
    mappings: Mappings | None,
    *,
    rebuild: bool = False,
    progress: Progress | None = None,
) -> None:
    """Make the index of files, or finish or check the one that is there.

    Parameters
    ----------
    path
        The SQLite file.
    shards
        The files of a dataset.
    mappings
        Tables by system id; None takes an index with whatever mappings it was built.
    rebuild
        Make it anew, even if the files have changed.
    progress
        Called as ``progress(done, total)``.

    Raises
    ------
    DatasetError
        The file is no index, is damaged, or belongs to other content.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock")
        if _is_finished(path) and not rebuild and not os.access(path.parent, os.W_OK):
            _check(path, shards, mappings)
            return

        with locked(lock):
            if rebuild:
                _remove(path)
            _undo_what_was_cut(path)
            if path.exists() and path.stat().st_size:
                _check(path, shards, mappings)
            else:
                _begin(path, shards, mappings or Mappings({}, []))
            _finish(path, shards, mappings or Mappings({}, []), progress)
    except OSError as error:
        raise DatasetError(
            f"an index cannot be kept here: {error.strerror}; name a file with path= (--index)",
            path=path,
        ) from None


@contextmanager
def damaged_file(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a broken file into our error."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise DatasetError(f"a damaged index ({error}); {REBUILD}", path=path) from None


def opened(path: Path) -> sqlite3.Connection:
    """Open an index to read; views and triggers that others put in it may do nothing."""
    connection = sqlite3.connect(
        path.resolve().as_uri() + "?mode=ro", uri=True, check_same_thread=False
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA query_only = ON")
    return connection


def _writable(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _remove(path: Path) -> None:
    if not path.exists():
        return
    if path.stat().st_size:
        _refuse_foreign(path)
    path.unlink()
    # The journal of a killed process would be played back into the new file.
    _journal(path).unlink(missing_ok=True)


def _undo_what_was_cut(path: Path) -> None:
    """Let SQLite take back what a killed process had half written; only a writer may."""
    if _journal(path).exists() and path.exists() and path.stat().st_size:
        _refuse_foreign(path)
        with damaged_file(path), closing(_writable(path)) as connection:
            connection.execute("PRAGMA user_version").fetchall()


def _journal(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


def _refuse_foreign(path: Path) -> None:
    """Raise for a file that is no index of ours: it must never be replaced."""
    head = b""
    if path.is_file():
        with open(path, "rb") as file:
            head = file.read(72)
    ours = head[:16] == b"SQLite format 3\0" and head[68:72] == APPLICATION_ID.to_bytes(4, "big")
    if not ours:
        raise DatasetError("is no index of a dataset; name another file", path=path)


def _is_finished(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    try:
        with closing(opened(path)) as connection:
            return _meta(connection).get("finished") is True
    except (sqlite3.Error, ValueError):
        return False


def _meta(connection: sqlite3.Connection) -> dict[str, Any]:
    rows = connection.execute("SELECT name, value FROM meta").fetchall()
    return {name: json.loads(value) for name, value in rows}


def _set(connection: sqlite3.Connection, **values: Any) -> None:
    rows = [(name, json.dumps(value)) for name, value in values.items()]
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)


def _check(path: Path, shards: tuple[Any, ...], mappings: Mappings | None) -> None:
    """Refuse an index of other content, of other mappings, or of another version."""
    _refuse_foreign(path)
    with damaged_file(path), closing(opened(path)) as connection:
        try:
            meta = _meta(connection)
            files = list(meta["files"])
        except (KeyError, TypeError, ValueError):
            raise DatasetError(f"a damaged index; {REBUILD}", path=path) from None
    if meta.get("version") != VERSION:
        raise DatasetError(f"an index of another version; {REBUILD}", path=path)
    other = differences(files, shards)
    if other:
        raise DatasetError(
            f"an index of other content ({'; '.join(other[:3])}); {REBUILD}", path=path
        )
    if mappings is not None and mappings.digests != meta.get("mappings"):
        raise DatasetError(f"built with other mappings; {REBUILD}", path=path)

    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        fresh = refreshed(files, shards)
        if fresh != files:
            with damaged_file(path), closing(_writable(path)) as connection, connection:
                _set(connection, files=fresh)


def _begin(path: Path, shards: tuple[Any, ...], mappings: Mappings) -> None:
    files = described_files(shards)
    with closing(_writable(path)) as connection, connection:
        # All or nothing, which Python's module does of its own accord for rows only: tables without
        # the note of what they belong to are a damaged index.
        connection.execute("BEGIN")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for statement in CREATE:
            connection.execute(statement)
        _set(
            connection,
            version=VERSION,
            files=files,
            mappings=mappings.digests,
            finished=False,
        )


def _finish(
    path: Path, shards: tuple[Any, ...], mappings: Mappings, progress: Progress | None
) -> None:
    with damaged_file(path), closing(_writable(path)) as connection:
        meta = _meta(connection)
        if meta.get("finished") is True:
            return
        if meta.get("mappings") != mappings.digests:
            raise DatasetError(
                "an unfinished index that was begun with mappings; give the same ones, or "
                + REBUILD,
                path=path,
            )
        # Rows go in their order, a batch a transaction: what is there is a whole beginning.
        (done,) = connection.execute("SELECT COUNT(*) FROM records").fetchone()
        _insert(connection, shards, mappings, done, progress)

        with connection:
            for statement in INDEXES:
                connection.execute(statement)
            connection.execute("ANALYZE")
            _set(connection, finished=True)


def _insert(
    connection: sqlite3.Connection,
    shards: tuple[Any, ...],
    mappings: Mappings,
    done: int,
    progress: Progress | None,
) -> None:
    total = sum(map(len, shards))
    rows: list[dict[str, Any]] = []
    counts: list[tuple[int, ...]] = []

    for row, elements in _rows(shards, mappings, done):
        rows.append(row)
        counts += [(z, row["id"], n, inside, solvent) for z, n, inside, solvent in elements]
        if len(rows) >= BATCH or row["id"] == total - 1:
            with connection:
                connection.executemany(_INSERT, rows)
                connection.executemany("INSERT INTO composition VALUES (?, ?, ?, ?, ?)", counts)
            if progress is not None:
                progress(row["id"] + 1, total)
            rows, counts = [], []


def _rows(
    shards: tuple[Any, ...], mappings: Mappings, done: int
) -> Iterator[tuple[dict[str, Any], list[tuple[int, int, int, int]]]]:
    """Yield every record from number ``done`` on; a damaged one as a row with the reason."""
    number = 0
    for place, shard in enumerate(shards):
        if number + len(shard) <= done:
            number += len(shard)
            continue
        facts = facts_of_file(Path(shard.path))
        for index in range(len(shard)):
            if number >= done:
                yield _row(shard, index, number, place, facts, mappings)
            number += 1


def _row(
    shard: Any, index: int, number: int, place: int, facts: dict[str, Any], mappings: Mappings
) -> tuple[dict[str, Any], list[tuple[int, int, int, int]]]:
    row = {**_EMPTY, "light": 0, "heavy": 0, "id": number, "shard": place}
    try:
        row["key"] = _key(shard.key(index))
        sample = shard.arrays(index)
        if "energy" in sample and "energy_kind" not in sample["info"]:
            sample["info"]["energy_kind"] = shard.silent_kind
        known, counts = describe(sample, facts, mappings)
    except DatasetError as error:
        return {**row, "error": _storable(str(error))}, []
    row |= {name: _storable(value) for name, value in known.items()}
    numbers = [z for z, *_ in counts]
    row["light"] = sum(1 << z for z in numbers if z <= LIGHT)
    row["heavy"] = sum(1 << (z - LIGHT) for z in numbers if z > LIGHT)
    return row, counts


def _key(key: object) -> str:
    text = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
    return str(_storable(text))


def _storable(value: Any) -> Any:
    """Return a value that SQLite takes: text without lone surrogates or zero bytes."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "")
    return value
