"""``metadata.npz`` beside a dataset: atom counts, believed only as far as they were checked."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.shard import Shard
from ase_nnp.errors import DatasetError, UnsafeFileError
from ase_nnp.files.npz import check_members

__all__ = ["attach_natoms"]

NAME = "metadata.npz"
_CHECKED = 64  # records compared with the counts when the dataset is opened


def attach_natoms(shards: Sequence[Shard], suffix: str) -> None:
    """Give shards their part of ``metadata.npz``, if they are all files of one folder.

    The header is checked against the number of records, and a sample of the counts against the
    records; each record read later is compared too.

    Raises
    ------
    DatasetError
        The counts have another length than the dataset, are no integers, or are wrong. Delete the
        file, or open with ``metadata=False``.
    """
    folders = {shard.path.parent for shard in shards}
    if len(folders) != 1:
        return
    file = folders.pop() / NAME
    if not file.is_file():
        return

    here = {entry.name for entry in file.parent.iterdir() if entry.name.endswith(suffix)}
    if here != {shard.path.name for shard in shards}:
        return  # one file of many: the counts are those of the folder

    total = sum(map(len, shards))
    natoms = _SideColumn(file, total)
    start = 0
    for shard in shards:
        shard.side_natoms = (natoms, start)
        start += len(shard)
    _spot_check(shards, natoms, total)


def _spot_check(shards: Sequence[Shard], natoms: _SideColumn, total: int) -> None:
    if total == 0:
        return
    for position in np.unique(np.linspace(0, total - 1, min(total, _CHECKED)).astype(int)):
        shard = next(s for s in reversed(shards) if s.side_natoms[1] <= position)  # type: ignore[index]
        try:
            sample = shard.read(int(position) - shard.side_natoms[1])  # type: ignore[index]
            counted = len(sample["atomic_numbers"])
        except Exception:
            continue  # a broken record speaks for itself when it is read

        if counted != natoms.values()[position]:
            raise DatasetError(
                f"natoms[{position}] is {natoms.values()[position]}, the structure has {counted} "
                "atoms; delete this file or open with metadata=False",
                path=natoms.file,
            )


class _SideColumn:
    """``natoms`` of one ``metadata.npz``, loaded when it is asked for."""

    def __init__(self, file: Path, total: int) -> None:
        self.file = file
        self._values: np.ndarray[Any, Any] | None = None
        try:
            with zipfile.ZipFile(file) as archive:
                check_members(archive)
                names = archive.namelist()
                if "natoms.npy" not in names:
                    raise self._error(f"no natoms; it holds {', '.join(names[:5]) or 'nothing'}")
                with archive.open("natoms.npy") as stream:
                    version = np.lib.format.read_magic(stream)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(stream)
                size = archive.getinfo("natoms.npy").file_size
        except DatasetError:
            raise
        except Exception as error:
            raise self._error(f"not a readable npz file: {error}") from None

        if dtype.hasobject:
            raise UnsafeFileError("refused: natoms is a pickled object array", path=file)
        if shape != (total,):
            raise self._error(f"natoms of shape {shape} for {total} structures")
        if dtype.kind not in "iu":
            raise self._error(f"natoms of type {dtype}, not integers")
        if size > total * dtype.itemsize + 65536:
            raise self._error(f"natoms inflates to {size} bytes")

    def _error(self, message: str) -> DatasetError:
        return DatasetError(
            message + "; delete this file or open with metadata=False", path=self.file
        )

    def values(self) -> np.ndarray[Any, Any]:
        if self._values is None:
            try:
                with np.load(self.file, allow_pickle=False) as stored:
                    self._values = stored["natoms"]
            except Exception as error:
                raise self._error(f"not a readable npz file: {error}") from None
        return self._values

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "_values": None}
