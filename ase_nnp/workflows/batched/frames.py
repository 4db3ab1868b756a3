"""The frames of one structure while it runs: a file that a kill cannot break.

Records have one size, so that a file is cut back to a number of frames by its length alone. When
the structure is done, the frames become an ASE trajectory or an HDF5 file, whole or not at all.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import DatasetError
from ase_nnp.files.atomic import whole_file
from ase_nnp.models.structures import with_labels
from ase_nnp.workflows.batched.state import Array

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["FrameFile", "pack"]

_HEAD = 20  # step, energy, cell (9), stress (9)


def pack(
    step: int,
    energy: float,
    cell: Array,
    stress: Array | None,
    positions: Array,
    forces: Array,
    momenta: Array,
) -> bytes:
    """Return one record: float64 numbers, (20 + 9 n) of them; no stress is NaN."""
    none = np.full(9, np.nan)
    parts = [
        np.array([step, energy]),
        cell.reshape(-1),
        none if stress is None else stress.reshape(-1),
        positions.reshape(-1),
        forces.reshape(-1),
        momenta.reshape(-1),
    ]

    # Records of one length: after a kill the whole ones are known by the file's size.
    return np.concatenate(parts).astype("<f8").tobytes()


class FrameFile:
    """The frames of one structure.

    Parameters
    ----------
    path
        The file; it need not exist.
    atoms
        The structure as it was given.
    """

    def __init__(self, path: Path, atoms: Atoms) -> None:
        self.path, self.atoms = path, atoms
        self.width = _HEAD + 9 * len(atoms)

    def __len__(self) -> int:
        return self.path.stat().st_size // (8 * self.width) if self.path.exists() else 0

    def append(self, records: bytes) -> None:
        """Add records at the end."""
        with self.path.open("ab") as file:
            file.write(records)

    def truncate(self, frames: int, checksum: int) -> None:
        """Cut the file back to ``frames`` records, whose CRC-32 is ``checksum``.

        Raises
        ------
        DatasetError
            If it holds fewer, or others.
        """
        size = frames * 8 * self.width
        present = self.path.stat().st_size if self.path.exists() else 0
        if present < size:
            raise DatasetError(
                f"holds {len(self)} frames, and the checkpoint counts {frames}. The folder has "
                "been changed by hand; start again in a new one.",
                path=self.path,
            )
        if not present:
            return

        os.truncate(self.path, size)
        running = 0
        with self.path.open("rb") as file:
            # Long trajectories do not fit into memory.
            while part := file.read(2**20):
                running = zlib.crc32(part, running)
        if running != checksum:
            raise DatasetError(
                "has been changed since it was written; start again in a new folder.",
                path=self.path,
            )

    def __iter__(self) -> Iterator[Atoms]:
        if not len(self):
            return

        # A half-written record at the end is left out by the length.
        rows = np.memmap(self.path, dtype="<f8", mode="r", shape=(len(self), self.width))
        for row in rows:
            atoms: Atoms = self.atoms.copy()
            vectors = np.array(row[_HEAD:]).reshape(3, -1, 3)
            atoms.cell[:] = np.array(row[2:11]).reshape(3, 3)
            atoms.arrays["positions"] = vectors[0]
            if vectors[2].any():
                atoms.arrays["momenta"] = vectors[2]

            results: dict[str, Any] = {"energy": float(row[1]), "forces": vectors[1]}
            if np.isfinite(row[11]):
                results["stress"] = np.array(row[11:20]).reshape(3, 3)

            atoms.info["step"] = int(row[0])
            yield with_labels(atoms, results)

    def export(self, path: Path) -> None:
        """Write all frames as ``.traj`` or ``.h5``; the file appears whole or not at all."""
        if path.suffix == ".traj":
            from ase.io.trajectory import Trajectory

            with whole_file(path) as beside, Trajectory(str(beside), "w") as file:
                for atoms in self:
                    file.write(atoms)
            return

        from ase_nnp.datasets.writing.write import write_dataset

        write_dataset(path, iter(self), overwrite=True)
