"""Structures of pymatgen as JSON, read without pymatgen and in memory that does not grow.

A file holds one ``Structure`` or ``Molecule`` (``as_dict``), a list of them, a dict of them by id,
or entries around them (``ComputedStructureEntry``, and dicts with a ``structure`` and labels beside
it, nested by id as in MPtrj), task documents of the Materials Project (each ionic step is a
record), JSON lines of any of these, or a table by columns (CHGNet's ``structures``, ``energies``,
``forces``; pandas' ``to_json`` in every orientation). :mod:`.pymatgen_entries` says what is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.framefile import first_bytes
from ase_nnp.datasets.formats.json_pieces import JsonPieces
from ase_nnp.datasets.formats.pymatgen_entries import entries, entry_to_sample, is_structure
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import DatasetWarning, Shard
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "PymatgenShard", "open_pymatgen"]

#: Members that make an object one record, however large it is.
_RECORDS = frozenset(["sites", "structure", "structures", "calcs_reversed"])
_COLUMNS = ("structure", "structures")


def _is_table(members: Mapping[str, Any], first: Callable[[str], Any]) -> bool:
    return any(name in members and is_structure(first(name)) for name in _COLUMNS)


class PymatgenShard(Shard):
    """One JSON file (``.gz``, ``.bz2`` and ``.xz`` too), of which a piece is parsed at a time.

    Opening reads the file once to find the structures and keeps offsets, 20 bytes a piece.
    """

    format = "pymatgen"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._last: tuple[int, list[tuple[str, dict[str, Any]]]] = (-1, [])
        self._warned = False
        try:
            self._pieces = JsonPieces(self.path, _RECORDS, _is_table)
            counts = [self._count(number) for number in range(len(self._pieces))]
        except DatasetError as error:
            if error.path is not None:
                raise
            raise DatasetError(str(error), path=self.path) from None
        self._ends = np.cumsum(np.array(counts, np.int64))
        if len(self) == 0:
            raise DatasetError("no structures in this JSON", path=self.path)

    def _count(self, piece: int) -> int:
        return 1 if self._pieces.is_record(piece) else len(self._entries(piece))

    def _entries(self, piece: int) -> list[tuple[str, dict[str, Any]]]:
        if self._last[0] != piece:
            key, value = self._pieces[piece]
            self._last = (piece, list(entries(value, key)))
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": (-1, [])}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _entry(self, index: int) -> tuple[str, dict[str, Any]]:
        piece = int(np.searchsorted(self._ends, index, side="right"))
        inside = self._entries(piece)
        before = int(self._ends[piece - 1]) if piece else 0
        if index - before >= len(inside):
            raise DatasetError("a row of the table without a structure")
        return inside[index - before]

    def key(self, index: int) -> object:
        """Return the path of a structure inside the JSON."""
        try:
            return self._entry(index)[0] or 0
        except DatasetError:
            return index

    def read(self, index: int) -> Sample:
        """Decode one structure."""
        key, entry = self._entry(index)
        sample, dropped = entry_to_sample(entry)
        if dropped and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.path}: left out what is neither numbers nor text: {', '.join(dropped)}",
                DatasetWarning,
                stacklevel=2,
            )
        sample["info"].setdefault("sid", key or index)
        return sample

    def close(self) -> None:
        """Close the file and drop what is held of it."""
        self._last = (-1, [])
        self._pieces.close()


def sniff(path: Path) -> bool:
    """Whether a file is JSON with a structure of pymatgen near its beginning."""
    if path.is_dir():
        return False
    head = first_bytes(path).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] not in (b"{", b"["):
        return False
    # Columns of numbers or inputs of a task may come before the first structure.
    return _has_sites(head) or (len(head) > 60000 and _has_sites(first_bytes(path, 4 << 20)))


def _has_sites(text: bytes) -> bool:
    return (
        b'"sites"' in text and b'"species"' in text and (b'"lattice"' in text or b'"xyz"' in text)
    )


def open_pymatgen(files: Sequence[Path], *, energy_kind: str | None = None) -> AtomsDataset:
    """Open JSON files of pymatgen structures as one dataset.

    Parameters
    ----------
    files
        JSON files.
    energy_kind
        Convert to this kind on reading.
    """
    return AtomsDataset([PymatgenShard(path) for path in files], energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="pymatgen",
    summary="structures and entries of pymatgen as JSON",
    sniff=sniff,
    open=open_pymatgen,
)
