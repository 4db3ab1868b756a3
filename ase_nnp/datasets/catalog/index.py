"""``DatasetIndex``: questions to a dataset, answered from a SQLite file beside it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.catalog.conditions import conditions
from ase_nnp.datasets.catalog.grammar import parse
from ase_nnp.datasets.catalog.mapping import read_mappings
from ase_nnp.datasets.catalog.query_tree import And, Node
from ase_nnp.datasets.catalog.schema import BY_NAME, COLUMNS
from ase_nnp.datasets.catalog.sql import selection
from ase_nnp.datasets.catalog.store import build, damaged_file, opened
from ase_nnp.datasets.columns import cache_folder
from ase_nnp.errors import DatasetError, QueryError

if TYPE_CHECKING:
    from ase_nnp.datasets.shard import Shard

__all__ = ["DatasetIndex"]

Array = np.ndarray[Any, Any]


class DatasetIndex:
    """One row a record of a dataset's files, in SQLite.

    The file lies in the cache folder (:func:`~ase_nnp.datasets.columns.cache_folder`) unless
    ``path`` says otherwise. It is built once; an interrupted build is continued; it is refused
    when the files have another content than those that were indexed. :mod:`.schema` lists the
    columns, :mod:`.grammar` the query language.

    Parameters
    ----------
    shards
        The files of a dataset.
    path
        The SQLite file; None for one in the cache folder.
    mapping
        Pickled mappings of OC20, OC22 or OC20-Dense, or dictionaries, by system id; read
        without running anything. None takes an index with whatever mappings it has.
    rebuild
        Build it anew, even if the files have changed.
    progress
        Called as ``progress(done, total)``.

    Raises
    ------
    DatasetError
        The file is no index, is damaged, or belongs to other content or other mappings.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        path: str | os.PathLike[str] | None = None,
        *,
        mapping: Any = None,
        rebuild: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.shards = tuple(shards)
        if not self.shards:
            raise DatasetError("no files, no index")
        named = None if path is None else Path(os.path.expanduser(path))
        self.path = _usual_path(self.shards) if named is None else named
        mappings = None if mapping is None else read_mappings(mapping)
        build(self.path, self.shards, mappings, rebuild=rebuild, progress=progress)
        self._connection: sqlite3.Connection | None = None
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}

    def __len__(self) -> int:
        return int(self.execute("SELECT COUNT(*) FROM records")[0][0])

    def __repr__(self) -> str:
        return f"<DatasetIndex of {len(self)} records, {self.path}>"

    def execute(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement of ours that reads; for values there are placeholders."""
        # A connection of SQLite must not be carried through a fork.
        if self._connection is None or self._owner != os.getpid():
            self._connection, self._owner = opened(self.path), os.getpid()
        with damaged_file(self.path):
            return self._connection.execute(text, values).fetchall()

    def close(self) -> None:
        """Close the file; it opens again when needed."""
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = None

    # ---- questions

    def positions(self, query: str = "", *, wanted: str | None = None, **given: Any) -> Array:
        """Return the positions of the records that meet a query and all keyword conditions.

        Parameters
        ----------
        query
            In the language of :mod:`.grammar`, such as ``"adsorbate = '*CO' and Cu"``.
        wanted
            Kind of energy that ``energy`` is converted to in the query; None as stored.
        given
            See :func:`~.conditions.conditions`.

        Returns
        -------
        array
            (k,) int64 in the order of the dataset. Damaged records are left out, unless the
            query asks about ``error``.
        """
        text, values = selection(tree_of(query, given), wanted)
        ((joined,),) = self.execute(text, values)
        # SQLite promises no order of what it joins.
        return np.sort(np.fromstring(joined or "", np.int64, sep=","))

    def rows(self, positions: Sequence[int] | Array, *columns: str) -> list[dict[str, Any]]:
        """Return rows as dictionaries, in the order asked for; all columns by default."""
        for name in columns:
            _known(name)
        names = list(columns) or [column.name for column in COLUMNS]
        wanted = [int(one) for one in positions]
        by_id: dict[int, tuple[Any, ...]] = {}
        for first in range(0, len(wanted), 500):
            part = wanted[first : first + 500]
            marks = ", ".join("?" * len(part))
            text = f"SELECT id, {', '.join(names)} FROM records WHERE id IN ({marks})"
            by_id |= {row[0]: row[1:] for row in self.execute(text, part)}
        return [dict(zip(names, by_id[one], strict=True)) for one in wanted]

    def values(self, column: str) -> Array:
        """Return a column for all records, None or NaN where there is none."""
        name = _known(column)
        listed = [row[0] for row in self.execute(f"SELECT {name} FROM records ORDER BY id")]
        if BY_NAME[name].kind == "text":
            return np.array(listed, object)
        return np.array([np.nan if one is None else one for one in listed], float)

    def damaged(self) -> list[tuple[int, str]]:
        """Return position and reason of every record that cannot be read."""
        return [
            (int(number), str(error))
            for number, error in self.execute(
                "SELECT id, error FROM records WHERE error IS NOT NULL ORDER BY id"
            )
        ]


def tree_of(query: str, given: Mapping[str, Any]) -> Node:
    """Return one tree of a query and of keyword conditions."""
    return And((parse(query), conditions(given)))


def _known(name: str) -> str:
    if name not in BY_NAME:
        raise QueryError(f"no column {name!r}; there are {', '.join(BY_NAME)}")
    return name


def _usual_path(shards: Sequence[Shard]) -> Path:
    """Return the place of an index in the cache folder, by the paths and how they are read."""
    names = [(os.path.abspath(shard.path), shard.format, repr(shard.options)) for shard in shards]
    digest = hashlib.sha256(repr(names).encode()).hexdigest()[:32]
    return cache_folder() / f"{digest}.index.sqlite"
