"""HDF5 datasets: torchmd-net, ANI, SPICE, QM7-X, Transition1x, AIMNet2, MACE, H5MD, torch-sim.

The layout is recognized in the file. Energies, lengths and forces become eV and Angstrom on
reading; most layouts have fixed units, H5MD says them, torchmd-net files are the user's own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.hdf5_ani import ANI1, AIMNet2, ANI1x, Transition1x
from ase_nnp.datasets.formats.hdf5_frames import MACE, TorchSim
from ase_nnp.datasets.formats.hdf5_h5md import H5MD
from ase_nnp.datasets.formats.hdf5_layouts import (
    BOHR,
    HARTREE,
    QM7X,
    SPICE,
    Block,
    Layout,
    Options,
    TorchMDNet,
)
from ase_nnp.datasets.formats.hdf5_safe import H5_ERRORS, attribute, children
from ase_nnp.datasets.formats.hdf5_sample import frame_to_sample
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import KINDS, SpeakingShard
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

if TYPE_CHECKING:
    import h5py

__all__ = ["FORMAT", "HDF5Shard", "open_hdf5"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_KJ_MOL = 0.010364269656262174
_ENERGY_UNITS = {"eV": 1.0, "Hartree": HARTREE, "kcal/mol": 4.184 * _KJ_MOL, "kJ/mol": _KJ_MOL}
_LENGTH_UNITS = {"Angstrom": 1.0, "Bohr": BOHR, "nm": 10.0}

#: Tried in this order; the first that recognizes a file reads it.
LAYOUTS: tuple[Layout, ...] = (
    H5MD(),
    MACE(),
    Transition1x(),
    TorchSim(),
    SPICE(),
    ANI1x(),
    TorchMDNet(),
    QM7X(),
    AIMNet2(),
    ANI1(),
)


def detect(root: h5py.File) -> Layout:
    """Return the layout of an open file, or say what was found instead."""
    for layout in LAYOUTS:
        if layout.matches(root):
            return layout

    names: list[str] = []

    def note(name: str) -> bool | None:
        names.append(name)
        return True if len(names) > 5 else None

    root.visit(note)
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise DatasetError(
        f"no known layout of HDF5 data ({known}); the file holds {', '.join(names) or 'nothing'}",
        path=root.filename,
    )


class HDF5Shard(SpeakingShard):
    """The frames of one HDF5 file, numbered through groups (natural order) and their entries.

    The table of contents holds one entry a *group*, so millions of conformers stay small.
    """

    format = "hdf5"

    def __init__(self, path: Path, options: Options) -> None:
        self.path = Path(path)
        self._choices = options
        self.options = (repr(options),)

        self._file: h5py.File | None = None
        self._pid = -1
        try:
            root = self._root()
            children(root)  # refuses links out of the file
            self.layout = detect(root)
            self.blocks = list(self.layout.blocks(root, options))
        except DatasetError as error:
            if error.path is not None:
                raise
            raise DatasetError(str(error), path=path) from error
        except H5_ERRORS as error:
            raise DatasetError(f"damaged HDF5 data ({error})", path=path) from error

        if not self.blocks:
            raise DatasetError(f"no frames in this {self.layout.name} file", path=path)
        self._note()
        self._ends = np.cumsum([block.frames for block in self.blocks], dtype=np.int64)

    def _note(self) -> None:
        """Take what our own writer noted of the energies; other layouts have total ones."""
        self._declared = "total"
        if isinstance(self.layout, MACE):
            kind = attribute(self._root(), "energy_kind")
            self._declared = kind if kind in (*KINDS, "mixed") else None
            self.energy_reference = attribute(self._root(), "energy_reference")

    def _root(self) -> h5py.File:
        import h5py

        if self._pid != os.getpid():  # after a fork the parent's handle is not ours
            self._file, self._pid = None, os.getpid()
        if self._file is None:
            try:
                self._file = h5py.File(self.path, "r", locking=False)
            except (OSError, RuntimeError) as error:
                raise DatasetError(f"no readable HDF5 file ({error})", path=self.path) from error
        return self._file

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": -1}

    def natoms(self) -> Any:
        """Return the atom counts, or None where only reading tells them."""
        if any(block.natoms < 0 for block in self.blocks):
            return None
        # Blocks keep one count for all their frames; only here it becomes a number a frame.
        counts = [block.natoms for block in self.blocks]
        return np.repeat(counts, [block.frames for block in self.blocks])

    def _find(self, index: int) -> tuple[Block, int]:
        place = int(np.searchsorted(self._ends, index, side="right"))
        block = self.blocks[place]
        return block, int(index - (self._ends[place] - block.frames))

    def key(self, index: int) -> str:
        """Return ``group/entry``, or the group alone where it is one frame."""
        block, frame = self._find(index)
        name = block.group.strip("/")
        return name if block.frames == 1 else f"{name}/{frame}"

    def read(self, index: int) -> Sample:
        """Read one frame, in eV and Angstrom."""
        block, entry = self._find(index)
        if block.problem:
            raise DatasetError(block.problem)
        try:
            frame = self.layout.read(self._root(), block, entry, self._choices)
        except H5_ERRORS as error:
            raise DatasetError(f"damaged HDF5 data ({error})") from error

        sample = frame_to_sample(frame)
        if frame.row is None:
            sample["info"].setdefault("sid", self.key(index))
        return sample

    def close(self) -> None:
        """Close the file; it opens again when needed."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None


def _is_hdf5(path: Path) -> bool:
    """Whether a file begins like HDF5 (a user block of 512 or 1024 bytes may come first)."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(2048 + 8)
    except OSError:
        return False
    return any(head[at : at + 8] == _SIGNATURE for at in (0, 512, 1024, 2048))


def open_hdf5(
    files: Sequence[Path],
    *,
    energy_unit: str = "eV",
    length_unit: str = "Angstrom",
    level: str | None = None,
    group: str | None = None,
    properties: Sequence[str] = (),
    energy_kind: str | None = None,
) -> AtomsDataset:
    """Open HDF5 files of one layout as one dataset.

    Parameters
    ----------
    files
        The files; several are shards, read in this order.
    energy_unit, length_unit
        Units of torchmd-net files, which do not say them: eV, Hartree, kcal/mol, kJ/mol;
        Angstrom, Bohr, nm. Forces are energy over length.
    level
        ANI-1x: the level of theory whose labels count, such as ``"ccsd(t)_cbs"``. Default
        wb97x_dz. A frame without that label (NaN in the file) has no energy.
    group
        H5MD: the group of particles, where there are several.
    properties
        Further datasets to put into ``atoms.info`` under their own names, unconverted.
    energy_kind
        ``"total"`` or ``"adsorption"``; see :class:`~ase_nnp.datasets.AtomsDataset`.

    Raises
    ------
    DatasetError
        No HDF5 file, no known layout, links to other files, or files of different layouts.
    """
    for name, unit, known in (
        ("energy_unit", energy_unit, _ENERGY_UNITS),
        ("length_unit", length_unit, _LENGTH_UNITS),
    ):
        if unit not in known:
            raise DatasetError(f"{name} {unit!r} is not known; choose from {', '.join(known)}")

    # Only torchmd-net's files are read in these units; other layouts have their own.
    options = Options(
        _ENERGY_UNITS[energy_unit], _LENGTH_UNITS[length_unit], level, group, tuple(properties)
    )
    shards = [HDF5Shard(Path(file), options) for file in files]
    # Layouts differ in units and names; one reader must serve all frames.
    layouts = {shard.layout.name: shard.path.name for shard in shards}
    if len(layouts) > 1:
        listed = ", ".join(f"{path} ({name})" for name, path in layouts.items())
        raise DatasetError(f"files of different layouts are no one dataset: {listed}")
    return AtomsDataset(shards, energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="hdf5",
    summary="HDF5: ANI, SPICE, QM7-X, Transition1x, AIMNet2, MACE, torchmd-net, H5MD, torch-sim",
    sniff=_is_hdf5,
    open=open_hdf5,
    suffixes=(".h5", ".hdf5", ".hdf", ".h5md"),
)
