"""ASE databases: SQLite (``.db``) and JSON (``.json``). Opened read-only, without lock files."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.rows import parse_json, row_to_sample
from ase_nnp.datasets.formats.schnetpack import SchNetPackUnits
from ase_nnp.datasets.sample import Sample, from_atoms
from ase_nnp.datasets.shard import KINDS, Shard, SpeakingShard
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "JsonShard", "SqliteShard", "open_asedb"]

ATOMREFS = "energies of single atoms, atomrefs in the metadata of the database"
_SQLITE = b"SQLite format 3\0"
_FIRST_ROW = re.compile(rb'\s*\{\s*"\d+"\s*:\s*\{')


class SqliteShard(SpeakingShard):
    """One SQLite database of ASE; record k is the k-th row id."""

    format = "ase-db"

    def __init__(self, path: str | Path, units: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self.options = tuple(sorted((units or {}).items()))
        self._database: Any = None
        metadata: Any = {}
        try:
            with closing(self._connected()) as connection:
                rows = connection.execute("select id from systems order by id").fetchall()
                metadata = _metadata(connection)
            self._ids = [int(row[0]) for row in rows]
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise DatasetError(f"not a readable ASE database: {error}", path=self.path) from None

        if not self._ids:
            raise DatasetError("an ASE database without rows", path=self.path)
        self._units = SchNetPackUnits(metadata, units)

    def _connected(self) -> sqlite3.Connection:
        # Opened to write, SQLite would make journals beside files of others.
        return sqlite3.connect(self.path.resolve().as_uri() + "?mode=ro", uri=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_database": None}

    def __len__(self) -> int:
        return len(self._ids)

    def key(self, index: int) -> object:
        """Return the row id of a record."""
        return self._ids[index]

    def files(self) -> list[Path]:
        """Return the database and the log of what was not yet moved into it."""
        log = self.path.with_name(self.path.name + "-wal")
        return [self.path, log] if log.is_file() else [self.path]

    def read(self, index: int) -> Sample:
        """Decode one row."""
        if self._database is None:
            from ase.db import connect

            self._database = connect(self.path, type="db", use_lock_file=False)
        row = self._database.get(id=self._ids[index])
        _unflatten(row)
        sample = from_atoms(row.toatoms())
        info = sample["info"]
        pairs = dict(row.key_value_pairs)
        info.update(pairs)
        if pairs:
            info["key_value_pairs"] = pairs
        info.update(row.data)
        self._units.apply(sample)
        info.setdefault("sid", index)
        return sample

    def _kinds(self) -> set[str]:
        """Return the kinds of energy that rows name as a key: all of them, in one query."""
        named = "from text_key_values where key = 'energy_kind'"
        try:
            with closing(self._connected()) as connection:
                kinds = {
                    str(row[0]) for row in connection.execute(f"select distinct value {named}")
                }
                silent = connection.execute(
                    "select 1 from systems where (energy is not null or free_energy is not null) "
                    f"and id not in (select id {named}) limit 1"
                ).fetchone()
        except sqlite3.Error:
            return super()._kinds()
        kinds &= set(KINDS)
        return kinds | {"total"} if silent and kinds else kinds or super()._kinds()

    @property
    def energy_reference(self) -> str | None:  # type: ignore[override]
        """To what formation energies are referred."""
        return ATOMREFS if self.energy_kind == "formation" else None

    def close(self) -> None:
        """Drop the connection."""
        self._database = None


def _unflatten(row: Any) -> None:
    """Give magnetic moments of three components their rows, which SQLite's bytes do not keep."""
    n = len(row.numbers)
    for name in ("initial_magmoms", "magmoms"):
        moments = row.get(name)
        if moments is not None and np.shape(moments) == (3 * n,):
            row[name] = moments.reshape(n, 3)


class JsonShard(SpeakingShard):
    """One JSON database of ASE, parsed as a whole on first use."""

    format = "ase-db"
    _looked_at = 1 << 62

    def __init__(self, path: str | Path, units: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self.options = tuple(sorted((units or {}).items()))
        self._rows: dict[str, Any] | None = None
        self._ids: list[int] = []
        self._units = SchNetPackUnits(self._load().get("metadata"), units)

    def _load(self) -> dict[str, Any]:
        try:
            rows = parse_json(self.path.read_bytes())
        except OSError as error:
            raise DatasetError(f"cannot be read: {error.strerror}", path=self.path) from None
        except DatasetError as error:
            raise DatasetError(str(error), path=self.path) from None
        if not isinstance(rows, dict):
            raise DatasetError("not a JSON database of ASE", path=self.path)
        ids = rows.get("ids", [int(key) for key in rows if key.isdigit()])
        if not isinstance(ids, list) or not all(type(number) is int for number in ids) or not ids:
            raise DatasetError("a JSON database without row ids", path=self.path)
        self._ids, self._rows = ids, rows
        return rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    def __len__(self) -> int:
        return len(self._ids)

    def key(self, index: int) -> object:
        """Return the row id of a record."""
        return self._ids[index]

    def read(self, index: int) -> Sample:
        """Decode one row."""
        rows = self._load() if self._rows is None else self._rows
        row = rows.get(str(self._ids[index]))
        if row is None:
            raise DatasetError("no such row, although 'ids' lists it")
        sample = row_to_sample(row)
        self._units.apply(sample)
        sample["info"].setdefault("sid", index)
        return sample

    @property
    def energy_reference(self) -> str | None:  # type: ignore[override]
        """To what formation energies are referred."""
        return ATOMREFS if self.energy_kind == "formation" else None

    def close(self) -> None:
        """Drop what is held of the file; it is parsed anew when needed."""
        self._rows = None


def sniff(path: Path) -> bool:
    """Whether a file is a database of ASE, in SQLite or JSON."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(4096)
            if head.startswith(_SQLITE):
                return b"systems" in head or b"systems" in stream.read(1 << 16)
            if not _FIRST_ROW.match(head):
                return False
            # ASE writes the next id last.
            stream.seek(max(0, path.stat().st_size - 65536))
            return b'"nextid"' in stream.read()
    except OSError:
        return False


def _metadata(connection: sqlite3.Connection) -> Any:
    try:
        query = "select value from information where name = 'metadata'"
        row = connection.execute(query).fetchone()
    except sqlite3.Error:  # versions of ASE before 3.12 have no such table
        return {}
    return parse_json(str(row[0]).encode()) if row is not None else {}


def open_asedb(
    files: Sequence[Path],
    *,
    units: Mapping[str, str] | None = None,
    energy_kind: str | None = None,
) -> AtomsDataset:
    """Open ASE databases as one dataset.

    Labels are those of a row's calculator; ``key_value_pairs`` and ``data`` go to ``info``.
    Databases of SchNetPack have labels in ``data``, see
    :mod:`ase_nnp.datasets.formats.schnetpack`.

    Parameters
    ----------
    files
        SQLite or JSON files.
    units
        Units of labels in ``data`` where the database does not say them:
        ``{"energy": "Hartree", "forces": "Hartree/Ang"}``.
    energy_kind
        Convert to this kind on reading.
    """
    shards: list[Shard] = []
    for path in files:
        try:
            with open(path, "rb") as stream:
                head = stream.read(16)
        except OSError as error:
            raise DatasetError(f"cannot be read: {error.strerror}", path=path) from None
        shards.append((SqliteShard if head == _SQLITE else JsonShard)(path, units))
    return AtomsDataset(shards, energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="ase-db",
    summary="ASE databases in SQLite and JSON",
    sniff=sniff,
    open=open_asedb,
    suffixes=(".db",),
)
