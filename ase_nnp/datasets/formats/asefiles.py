"""Files that ASE reads: its trajectories, crystal structures, outputs of many programs.

A trajectory is read frame by frame, everything else as a whole. A CIF with sites that are shared or
empty in part is refused: ASE would show whole atoms of the most frequent element there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.ase_structures import (
    StructureShard,
    guess_ase_name,
    refuse_partial,
)
from ase_nnp.datasets.formats.byteranges import without_compression
from ase_nnp.datasets.formats.framefile import first_bytes
from ase_nnp.datasets.sample import Sample, from_atoms
from ase_nnp.datasets.shard import Shard, SpeakingShard
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "TrajectoryShard", "open_asefiles"]

_ULM = b"- of UlmASE-Trajectory"
_SUFFIXES = {".cif": "cif", ".xsf": "xsf", ".res": "res", ".gen": "gen"}
#: Outputs with energies and forces that no other text can be taken for.
_MARKED = (
    *("abinit-out", "aims-output", "espresso-out", "gamess-us-out", "gaussian-out", "gpaw-out"),
    *("nwchem-out", "onetep-out", "orca-output", "qbox", "xsf"),
)


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
            what = str(error) or type(error).__name__
            raise DatasetError(f"not a readable trajectory: {what}", path=self.path) from None
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
        atoms = self._opened()[index]
        refuse_partial(atoms)
        return from_atoms(atoms)

    def close(self) -> None:
        """Close the file."""
        reader, self._reader = getattr(self, "_reader", None), None
        if reader is not None:
            reader.close()


def sniff(path: Path) -> bool:
    """Whether a file is an ASE trajectory, a named crystal structure, or has a mark ASE knows."""
    head = b"" if path.is_dir() else first_bytes(path, 4096)
    if head.startswith(_ULM):
        return True
    # Marks and endings are for text; a binary file with such a name is something else.
    if not head.strip() or b"\0" in head:
        return False

    kind = _by_ending(path)
    if kind == "cif":
        return b"data_" in head
    return kind is not None or _by_mark(head) is not None


def _by_ending(path: Path) -> str | None:
    return _SUFFIXES.get(Path(without_compression(path.name)).suffix)


def _by_mark(head: bytes) -> str | None:
    """Return ASE's name of a text with a mark that only one program writes."""
    from ase.io.formats import UnknownFileTypeError, match_magic

    try:
        name = str(match_magic(head[:2000]).name)
    except UnknownFileTypeError:
        return None
    return name if name in _MARKED else None


def open_asefiles(files: Sequence[Path], *, energy_kind: str | None = None) -> AtomsDataset:
    """Open trajectories and whatever else ASE recognizes as one dataset.

    Parameters
    ----------
    files
        ``.traj``, CIF, XSF, RES, GEN files, outputs of programs that ASE knows by a mark.
    energy_kind
        Convert to this kind on reading.

    Raises
    ------
    DatasetError
        With the message of ASE's reader.
    """
    shards: list[Shard] = []
    for path in files:
        head = first_bytes(path, 4096)
        name = _by_ending(path) or _by_mark(head) or guess_ase_name(path)
        if head.startswith(_ULM) or name is None:
            shards.append(TrajectoryShard(path))
        else:
            shards.append(StructureShard(path, name))
    return AtomsDataset(shards, energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="ase",
    summary="ASE trajectories (.traj), CIF, XSF, RES, GEN, and outputs that ASE knows",
    sniff=sniff,
    open=open_asefiles,
    suffixes=(".traj", ".cif"),
)
