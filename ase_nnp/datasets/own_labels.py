"""Structures that a caller made, which have a calculator of their own or share one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ase_nnp.datasets.sample import Sample, from_atoms
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["labeled_sample"]

#: Angstrom by which rounding may move atoms that were wrapped.
ROUNDING = 1e-6


def labeled_sample(atoms: Atoms) -> Sample:
    """Return the sample of a caller's own ``Atoms``, whose labels must be those of this structure.

    Structures that share a calculator all show the results of the last one, and atoms that were
    moved against each other those of the places where they were.

    Raises
    ------
    DatasetError
        The calculator holds results of other positions, elements or another cell; or this is no
        ``Atoms``.
    """
    if not hasattr(atoms, "calc"):
        raise DatasetError(f"{type(atoms).__name__} is no Atoms; one structure alone is [atoms]")
    known = getattr(atoms.calc, "atoms", None)
    if known is None or not getattr(atoms.calc, "results", None):
        return from_atoms(atoms)

    changed = _changed(known, atoms)
    if changed:
        raise DatasetError(
            f"its calculator holds results of a structure with other {changed}; give it results of "
            "its own (SinglePointCalculator(atoms, energy=...)), or none (atoms.calc = None)"
        )
    return from_atoms(atoms)


def _changed(known: Atoms, atoms: Atoms) -> str:
    """Return what makes it another structure than the known one, or nothing.

    Moved as a whole, or atoms by cell vectors (``wrap``, ``center``), it is the same one, and so is
    a molecule in another box.
    """
    for name in ("numbers", "pbc"):
        if not np.array_equal(getattr(known, name), getattr(atoms, name)):
            return name
    periodic = bool(atoms.pbc.any())
    if periodic and not np.array_equal(known.cell[:], atoms.cell[:]):
        return "cell"

    shift = atoms.positions - known.positions
    if not shift.any():
        return ""
    shift = shift - shift[0]
    if periodic:
        from ase.geometry import find_mic

        shift, _ = find_mic(shift, atoms.cell, atoms.pbc)
    # Not by what is larger: positions that are no numbers are other ones too.
    return "" if (np.abs(shift) < ROUNDING).all() else "positions"
