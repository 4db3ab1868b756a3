"""HDF5 files of molecules at many conformations: ANI-1, ANI-1x, ANI-2x, Transition1x, AIMNet2.

ANI's energies are in Hartree, its forces in Hartree/Angstrom (Smith et al., Sci. Data 7, 134
(2020)). Transition1x (Schreiner et al., Sci. Data 9, 779 (2022)) and AIMNet2 (Anstine, Zubatyuk and
Isayev, Chem. Sci. 16, 10228 (2025)) are in eV and eV/Angstrom.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.formats.hdf5_layouts import (
    HARTREE,
    Block,
    Frame,
    Layout,
    Options,
    extras,
    first_groups,
    frames_of,
)
from ase_nnp.datasets.formats.hdf5_safe import children, groups, row, shape, whole
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    import h5py


def _numbers_of(group: h5py.Group, name: str, frame: int) -> Any:
    """Return the atomic numbers of a frame, from a table for each frame, or from one for all."""
    from ase.data import atomic_numbers

    per_frame = len(shape(group, name) or ()) == 2
    species = row(group, name, frame) if per_frame else whole(group, name)
    if species is None or np.asarray(species).dtype.kind in "iu":
        return species
    try:
        return [atomic_numbers[str(symbol)] for symbol in species]
    except KeyError as error:
        raise DatasetError(f"{error} is no element") from None


def _labels(group: h5py.Group, frame: int, energy: str, forces: str, unit: float) -> dict[str, Any]:
    """Return energy and forces of a frame, where a group has them, in eV and eV/Angstrom."""
    results: dict[str, Any] = {}
    if (value := row(group, energy, frame)) is not None:
        results["energy"] = float(np.reshape(value, ())[()]) * unit
    if (value := row(group, forces, frame)) is not None:
        results["forces"] = np.asarray(value, dtype=float) * unit
    return results


class ANI1x(Layout):
    """ANI-1x and ANI-1ccx: labels by level of theory, NaN where a level was not computed."""

    name = "ani1x"
    levels = ("wb97x_dz", "wb97x_tz", "ccsd(t)_cbs", "hf_dz", "hf_tz", "hf_qz")

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        return any("coordinates" in g and "atomic_numbers" in g for g in first_groups(root))

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        for group in groups(root):
            checks = {"atomic_numbers": "N"}
            for name in children(group):
                if name.endswith(".energy"):
                    checks[name] = "M"
                elif name.endswith(".forces"):
                    checks[name] = "MN3"
            yield frames_of(group, "coordinates", checks)

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        group = root[block.group]
        names = children(group)

        stored = [name.removesuffix(".energy") for name in names if name.endswith(".energy")]
        level = options.level
        if level is None:
            level = next((one for one in (*self.levels, *stored) if one in stored), "")
        elif level not in stored:
            raise DatasetError(f"no level {level!r}; stored are {', '.join(stored)}")

        results: dict[str, Any] = {}
        info: dict[str, Any] = {"level_of_theory": level}
        # NaN marks a level that was not computed for this frame.
        for one in stored:
            energy = float(row(group, f"{one}.energy", frame)) * HARTREE
            if np.isfinite(energy):
                info[f"{one}.energy"] = energy
        if f"{level}.energy" in info:
            results["energy"] = info[f"{level}.energy"]

        forces = row(group, f"{level}.forces", frame)
        if forces is not None and np.isfinite(forces).all():
            results["forces"] = np.asarray(forces, dtype=float) * HARTREE
        dipole = row(group, f"{level}.dipole", frame)
        if dipole is not None and np.isfinite(dipole).all():
            results["dipole"] = dipole

        info |= extras(group, frame, block.frames, options)
        numbers = whole(group, "atomic_numbers")
        return Frame(numbers, row(group, "coordinates", frame), results=results, info=info)


class ANI1(Layout):
    """ANI-1, COMP6, ANI-2x: ``species``, ``coordinates``, ``energies`` and ``forces`` in a group.

    A group is one molecule (ANI-1, COMP6: species of N atoms, as symbols or numbers), or all those
    of one number of atoms (ANI-2x: species of each frame).
    """

    name = "ani1"

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        leaves = self._leaves(root, limit=20)
        return any("species" in group and "coordinates" in group for group in leaves)

    def _leaves(
        self, group: h5py.Group, depth: int = 3, limit: int | None = None
    ) -> Iterator[h5py.Group]:
        for number, sub in enumerate(groups(group)):
            if number == limit:
                return
            if "species" in sub or "coordinates" in sub:  # one alone is damaged, not no group
                yield sub
            elif depth > 1:
                yield from self._leaves(sub, depth - 1, limit)

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        checks = {"species": "N|MN", "energies": "M|M1", "forces": "MN3"}
        for group in self._leaves(root):
            yield frames_of(group, "coordinates", checks)

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        group = root[block.group]
        numbers = _numbers_of(group, "species", frame)
        results = _labels(group, frame, "energies", "forces", HARTREE)
        info = extras(group, frame, block.frames, options)
        if (smiles := whole(group, "smiles")) is not None:
            info["smiles"] = "".join(map(str, smiles)) if isinstance(smiles, list) else str(smiles)
        return Frame(numbers, row(group, "coordinates", frame), results=results, info=info)


class Transition1x(Layout):
    """Transition1x: ``/data/<formula>/<reaction>``, frames of nudged elastic bands.

    The groups ``train``, ``val`` and ``test`` repeat what ``data`` holds and are not read, nor are
    the groups of end points and transition state inside a reaction: they repeat frames of the band.
    """

    name = "transition1x"
    level = "wB97x_6-31G(d)"

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        import h5py

        return isinstance(root.get("data"), h5py.Group) and any(
            "atomic_numbers" in reaction and f"{self.level}.energy" in reaction
            for formula in first_groups(root["data"], 2)
            for reaction in first_groups(formula, 2)
        )

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        checks = {"atomic_numbers": "N", f"{self.level}.energy": "M", f"{self.level}.forces": "MN3"}
        for formula in groups(root["data"]):
            for reaction in groups(formula):
                yield frames_of(reaction, "positions", checks)

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        group = root[block.group]
        results = _labels(group, frame, f"{self.level}.energy", f"{self.level}.forces", 1.0)
        info = {"reaction": block.group.rpartition("/")[2]}
        info |= extras(group, frame, block.frames, options)
        numbers = whole(group, "atomic_numbers")
        return Frame(numbers, row(group, "positions", frame), results=results, info=info)


class AIMNet2(Layout):
    """AIMNet2: a group for each number of atoms, ``coord``, ``numbers``, ``charge``, ``energy``."""

    name = "aimnet2"

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        return any("coord" in group and "numbers" in group for group in first_groups(root))

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        checks = {"numbers": "MN|N", "energy": "M|M1", "forces": "MN3", "charges": "MN"}
        for group in groups(root):
            yield frames_of(group, "coord", checks | {"charge": "M|M1"})

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        group = root[block.group]
        results = _labels(group, frame, "energy", "forces", 1.0)
        if (charges := row(group, "charges", frame)) is not None:
            results["charges"] = charges

        info = extras(group, frame, block.frames, options)
        for ours, theirs in (("charge", "charge"), ("spin", "mult")):
            if (value := row(group, theirs, frame)) is not None:
                info[ours] = round(float(np.reshape(value, ())[()]))
        numbers = _numbers_of(group, "numbers", frame)
        return Frame(numbers, row(group, "coord", frame), results=results, info=info)
