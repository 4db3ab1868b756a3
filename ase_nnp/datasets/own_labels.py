"""Structures that a caller made, which have a calculator of their own or share one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ase_nnp.datasets.sample import Sample, from_atoms
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["labeled_sample"]

_PLACES = ("numbers", "positions", "cell", "pbc")


def labeled_sample(atoms: Atoms) -> Sample:
    """Return the sample of a caller's own ``Atoms``, whose labels must be those of this structure.

    Structures that share a calculator all show the results of the last one, and atoms that were
    moved those of the place where they were.

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

    changed = next((name for name in _PLACES if not _same(known, atoms, name)), None)
    if changed is not None:
        raise DatasetError(
            f"its calculator holds results of a structure with other {changed}; give it results of "
            "its own (SinglePointCalculator(atoms, energy=...)), or none (atoms.calc = None)"
        )
    return from_atoms(atoms)


def _same(one: Atoms, other: Atoms, name: str) -> bool:
    return np.array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name)))
