"""Structures that a caller made, which have a calculator of their own or share one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.sample import Sample, from_atoms
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["labeled_sample", "own_results"]

#: Angstrom by which atoms that were wrapped, or rounded to five decimals, may move against each
#: other; displacements that are meant are a hundred times larger.
ROUNDING = 2e-5


def labeled_sample(atoms: Atoms, number: int | None = None) -> Sample:
    """Return the sample of a caller's own ``Atoms``, whose labels must be those of this structure.

    Structures that share a calculator all show the results of the last one, and atoms that were
    moved against each other those of the places where they were. An error names the ``number`` of
    the structure in its list, if there is one.

    Raises
    ------
    DatasetError
        The calculator holds results of other positions, elements or another cell; a label is no
        finite number; or this is no ``Atoms``.
    """
    own_results(atoms, number)
    return from_atoms(atoms)


def own_results(atoms: Atoms, number: int | None = None) -> dict[str, Any]:
    """Return the results of a structure's calculator, which must be those of this structure.

    Raises
    ------
    DatasetError
        As :func:`labeled_sample`.
    """
    if not hasattr(atoms, "calc"):
        raise DatasetError(f"{type(atoms).__name__} is no Atoms; one structure alone is [atoms]")
    where = "" if number is None else f"structure {number}: "
    results = dict(getattr(atoms.calc, "results", None) or {})
    known = getattr(atoms.calc, "atoms", None)

    changed = _changed(known, atoms) if results and known is not None else ""
    if changed:
        raise DatasetError(
            f"{where}its calculator holds results of a structure with other {changed}; give it "
            "results of its own (SinglePointCalculator(atoms, energy=...)), or none "
            "(atoms.calc = None)"
        )
    # Readers of files refuse the same: one NaN among the energies would be a NaN in every mean.
    for name in ("energy", "forces", "stress"):
        value = results.get(name)
        if value is not None and not np.isfinite(value).all():
            raise DatasetError(
                f"{where}the label {name} holds {_first_bad(value)}; leave it out where it is "
                "unknown"
            )
    return results


def _first_bad(value: Any) -> str:
    flat = np.ravel(np.asarray(value, dtype=np.float64))
    at = int(np.flatnonzero(~np.isfinite(flat))[0])
    return str(flat[at])


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
