"""What an HDF5 layout is, and three that keep molecules in groups: torchmd-net, SPICE, QM7-X.

A layout knows three things: whether a file is of its kind, which blocks of frames the file has, and
how to read one frame. Units become eV and Angstrom here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ase_nnp.datasets.formats.hdf5_safe import children, groups, natural, numeric, row, shape, whole
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    import h5py

# CODATA 2018.
HARTREE = 27.211386245988
BOHR = 0.529177210903


@dataclass(frozen=True)
class Block:
    """Frames that lie together: one group, ``frames`` entries of ``natoms`` atoms (-1: unknown)."""

    group: str
    frames: int = 1
    natoms: int = -1
    problem: str = ""


@dataclass
class Frame:
    """One frame in eV and Angstrom, before it becomes ``ase.Atoms``."""

    numbers: Any
    positions: Any
    cell: Any = None
    pbc: Any = False
    results: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    row: dict[str, Any] | None = None  # what our own writer keeps beside the layout


@dataclass(frozen=True)
class Options:
    """What the caller may choose; see :func:`ase_nnp.datasets.formats.hdf5.open_hdf5`."""

    energy_unit: float = 1.0
    length_unit: float = 1.0
    level: str | None = None
    group: str | None = None
    properties: tuple[str, ...] = ()


class Layout:
    """Base of all layouts."""

    name: ClassVar[str]

    def matches(self, root: h5py.File) -> bool:
        """Whether the file is of this kind; looks at few groups."""
        raise NotImplementedError

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the blocks in file order (numbers in numeric order)."""
        raise NotImplementedError

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Read one frame."""
        raise NotImplementedError


def first_groups(root: h5py.Group, count: int = 20) -> Iterator[h5py.Group]:
    """Yield a few groups to judge the layout by."""
    for number, group in enumerate(groups(root)):
        if number == count:
            return
        yield group


def frames_of(group: h5py.Group, positions: str, checks: dict[str, str]) -> Block:
    """Return the block of a group; ``checks`` maps dataset names to ``"M"``, ``"N"``, ``"MN3"``.

    A dataset whose shape does not fit becomes the block's problem, reported for each frame.
    """
    have = shape(group, positions)
    if have is None:
        names = ", ".join(children(group)) or "nothing"
        return Block(group.name, problem=f"no {positions!r}; the group holds {names}")
    if len(have) != 3 or have[2] != 3:
        return Block(group.name, problem=f"{positions!r} has shape {have}, wanted (M, N, 3)")

    # Shapes are compared for the whole group, so that no frame is read against another's atoms.
    sizes = {"M": have[0], "N": have[1], "3": 3, "1": 1}
    problems = []
    for name, form in checks.items():
        actual = shape(group, name)
        wanted = [tuple(sizes[letter] for letter in one) for one in form.split("|")]
        if actual is not None and actual not in wanted:
            problems.append(f"{name!r} has shape {actual}, wanted {wanted[0]}")
    return Block(group.name, have[0], have[1], "; ".join(problems))


def extras(group: h5py.Group, frame: int, frames: int, options: Options) -> dict[str, Any]:
    """Read what ``properties=`` asks for, untouched; the first axis is the frame where it fits."""
    out = {}
    for name in options.properties:
        have = shape(group, name)
        if have is not None:
            per_frame = bool(have) and have[0] == frames
            out[name] = row(group, name, frame) if per_frame else whole(group, name)
    return out


def scalar(value: Any) -> float | None:
    """Return a number from a scalar or a one-element array; None stays None."""
    if value is None:
        return None
    if not numeric(value) or np.size(value) != 1:
        raise DatasetError(f"a number was wanted, not {np.asarray(value).dtype} {np.shape(value)}")
    return float(np.reshape(value, ())[()])


class TorchMDNet(Layout):
    """``types``, ``pos``, ``energy``, ``forces`` per group; units are the user's own."""

    name = "torchmd-net"

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        return any("pos" in g and "types" in g for g in [root, *first_groups(root)])

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        checks = {"types": "MN|N", "energy": "M|M1", "forces": "MN3", "partial_charges": "MN"}
        if "pos" in root and "types" in root:
            yield frames_of(root, "pos", checks)
        for group in groups(root):
            if not group.name.startswith("/_"):
                yield frames_of(group, "pos", checks)

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        group, e, x = root[block.group], options.energy_unit, options.length_unit
        types = shape(group, "types")
        numbers = row(group, "types", frame) if len(types or ()) == 2 else whole(group, "types")

        results: dict[str, Any] = {}
        if shape(group, "energy") is not None:
            results["energy"] = e * float(np.reshape(row(group, "energy", frame), ())[()])
        if (forces := row(group, "forces", frame)) is not None:
            results["forces"] = np.asarray(forces, dtype=float) * (e / x)
        if (charges := row(group, "partial_charges", frame)) is not None:
            results["charges"] = charges

        positions = np.asarray(row(group, "pos", frame), dtype=float) * x
        info = extras(group, frame, block.frames, options)
        return Frame(numbers, positions, results=results, info=info)


class SPICE(Layout):
    """SPICE 1 and 2: Bohr, Hartree, and gradients instead of forces."""

    name = "spice"

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        return any("conformations" in g and "atomic_numbers" in g for g in first_groups(root))

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        checks = {
            "atomic_numbers": "N",
            "dft_total_energy": "M",
            "formation_energy": "M",
            "dft_total_gradient": "MN3",
        }
        for group in groups(root):
            yield frames_of(group, "conformations", checks)

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        group = root[block.group]
        results: dict[str, Any] = {}
        info: dict[str, Any] = extras(group, frame, block.frames, options)

        if (energy := row(group, "dft_total_energy", frame)) is not None:
            results["energy"] = float(energy) * HARTREE
        if (gradient := row(group, "dft_total_gradient", frame)) is not None:
            # Psi4 writes gradients: forces are the other way.
            results["forces"] = np.asarray(gradient, dtype=float) * (-HARTREE / BOHR)
        if (dipole := row(group, "scf_dipole", frame)) is not None:
            results["dipole"] = np.asarray(dipole, dtype=float) * BOHR
        if (charges := row(group, "mbis_charges", frame)) is not None:
            results["charges"] = np.asarray(charges, dtype=float).reshape(-1)

        if (formation := row(group, "formation_energy", frame)) is not None:
            info["formation_energy"] = float(formation) * HARTREE
        for name in ("smiles", "subset"):
            value = whole(group, name)
            if value is not None:
                info[name] = value[0] if isinstance(value, list) and value else value

        positions = np.asarray(row(group, "conformations", frame), dtype=float) * BOHR
        return Frame(whole(group, "atomic_numbers"), positions, results=results, info=info)


def _conformer_order(name: str) -> tuple[list[tuple[int, int, str]], bool, list[Any]]:
    """Order ``...-opt`` before ``...-d1``, ``...-d2``, ... of the same conformer."""
    stem, _, last = name.rpartition("-")
    return natural(stem), last != "opt", natural(last)


class QM7X(Layout):
    """QM7-X: one group a molecule, one sub-group a conformer."""

    name = "qm7x"

    def matches(self, root: h5py.File) -> bool:
        """Return whether a file's root group is of this layout."""
        return any(
            "atNUM" in conformer and "atXYZ" in conformer
            for molecule in first_groups(root)
            for conformer in first_groups(molecule, 2)
        )

    def blocks(self, root: h5py.File, options: Options) -> Iterator[Block]:
        """Yield the groups of frames of a file, in order."""
        for molecule in groups(root):
            for name in sorted(children(molecule), key=_conformer_order):
                yield Block(f"{molecule.name}/{name}")

    def read(self, root: h5py.File, block: Block, frame: int, options: Options) -> Frame:
        """Return one frame of a block."""
        group = root[block.group]
        results: dict[str, Any] = {}
        if (energy := whole(group, "ePBE0+MBD")) is not None:
            results["energy"] = scalar(energy)
        if (forces := whole(group, "totFOR")) is not None:
            results["forces"] = forces

        info = {name: whole(group, name) for name in options.properties if name in group}
        if (atomization := whole(group, "eAT")) is not None:
            info["atomization_energy"] = scalar(atomization)
        info["conformer"] = block.group.rpartition("/")[2]
        return Frame(whole(group, "atNUM"), whole(group, "atXYZ"), results=results, info=info)
