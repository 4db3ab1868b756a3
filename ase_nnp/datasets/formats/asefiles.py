"""Files that ASE reads: its trajectories, and crystal structures without labels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase_nnp.datasets.base import AtomsDataset, Shard, SpeakingShard
from ase_nnp.datasets.sample import Sample, from_atoms
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "StructureShard", "TrajectoryShard", "open_asefiles"]

_ULM = b"- of UlmASE-Trajectory"
_NAMES = {"poscar": "vasp", "contcar": "vasp"}
_SUFFIXES = {".cif": "cif", ".vasp": "vasp", ".xsf": "xsf", ".res": "res", ".gen": "gen"}


class TrajectoryShard(SpeakingShard):
    """One ``.traj`` file of ASE."""

    format = "ase"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader: Any = None
        self._pid = -1
        try:
            self._length = len(self._opened())
        except Exception as error:
            raise DatasetError(f"not a readable trajectory: {error}", path=self.path) from None
        if self._length == 0:
            raise DatasetError("a trajectory without frames", path=self.path)

    def _opened(self) -> Any:
        if self._reader is None or self._pid != os.getpid():
            from ase.io.trajectory import TrajectoryReader

            self._reader, self._pid = TrajectoryReader(str(self.path)), os.getpid()
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_pid": -1}

    def __del__(self) -> None:
        self.close()

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> Sample:
        """Decode one frame."""
        return from_atoms(self._opened()[index])

    def close(self) -> None:
        """Close the file."""
        reader, self._reader = getattr(self, "_reader", None), None
        if reader is not None:
            reader.close()


class StructureShard(Shard):
    """One small file of structures (CIF, POSCAR, ...), read as a whole."""

    format = "ase"
    energy_kind = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._images: list[Any] = self._load()

    def _load(self) -> list[Any]:
        import ase.io

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                images = ase.io.read(self.path, index=":", format=_ase_format(self.path))
        except Exception as error:
            raise DatasetError(f"cannot be read: {error}", path=self.path) from None
        if not images:
            raise DatasetError("no structures", path=self.path)
        return list(images)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Sample:
        """Return one structure."""
        sample = from_atoms(self._images[index])
        # What a reader of CIF keeps here are objects of ASE, which no file can hold.
        sample["info"] = {
            k: v for k, v in sample["info"].items() if isinstance(v, (str, int, float))
        }
        if (sample.get("arrays") or {}).get("spacegroup_kinds") is not None:
            del sample["arrays"]["spacegroup_kinds"]
        return sample


def _ase_format(path: Path) -> str | None:
    return _SUFFIXES.get(path.suffix.lower()) or _NAMES.get(path.name.lower())


def sniff(path: Path) -> bool:
    """Whether a file is an ASE trajectory, or is named and looks like a structure file."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(4096)
    except OSError:
        return False
    if head.startswith(_ULM):
        return True
    kind = _ase_format(path)
    if kind == "cif":
        return b"data_" in head
    return kind is not None and b"\0" not in head and head.strip() != b""


def open_asefiles(files: Sequence[Path], *, energy_kind: str | None = None) -> AtomsDataset:
    """Open trajectories and structure files as one dataset.

    Parameters
    ----------
    files
        ``.traj``, CIF, POSCAR, XSF, RES or GEN files.
    energy_kind
        Convert to this kind on reading.
    """
    shards: list[Shard] = []
    for path in files:
        if _ase_format(path) is None:
            shards.append(TrajectoryShard(path))
        else:
            shards.append(StructureShard(path))
    return AtomsDataset(shards, energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="ase",
    summary="ASE trajectories (.traj) and structure files (CIF, POSCAR, XSF, RES, GEN)",
    sniff=sniff,
    open=open_asefiles,
    suffixes=(".traj", ".cif"),
)
