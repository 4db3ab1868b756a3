"""Ends of reaction paths: which atom becomes which, and a first band between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import StructureError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["SAME_MINIMUM", "first_band", "match_atoms"]

#: The given order of atoms is kept unless another makes the squared path this many times shorter.
CLEARLY_SHORTER = 2.0
#: Where the best order leaves no atom that moves further (Angstrom), equal atoms are meant to
#: change places: there would be no reaction otherwise.
NO_REACTION = 0.5
#: Ends are one minimum where no atom is so far (Angstrom) from its place in the other.
SAME_MINIMUM = 0.1


def match_atoms(start: Atoms, end: Atoms, reorder: bool = True) -> tuple[Atoms, list[int] | None]:
    """Return the end with its atoms in the order of the start, and unwrapped next to them.

    Parameters
    ----------
    start, end
        The same atoms in one cell; left as they are.
    reorder
        Assign atoms of one element anew where the given order makes them travel much further than
        they need, or has other elements.

    Returns
    -------
    tuple
        The end, and for each atom of the start its index in the end as given; None where the order
        was kept.

    Raises
    ------
    StructureError
        Other atoms, another cell, or another order that may not be changed.
    """
    if sorted(start.numbers) != sorted(end.numbers) or len(start) == 0:
        raise StructureError(
            f"The ends have different atoms: {start.get_chemical_formula()} and "
            f"{end.get_chemical_formula()}."
        )
    if not np.allclose(start.cell[:], end.cell[:], atol=1e-3) or (start.pbc != end.pbc).any():
        raise StructureError("The ends have different cells or periodicity.")
    same_order = bool((start.numbers == end.numbers).all())
    if not same_order and not reorder:
        raise StructureError("The ends have the same atoms in another order.")

    order = np.arange(len(start))
    if reorder:
        best = _assignment(start, end)
        given = _squared_path(start, end, order) if same_order else np.inf
        shorter = _squared_path(start, end, best) * CLEARLY_SHORTER < given
        reacts = np.linalg.norm(_moves(start, end, best), axis=1).max() > NO_REACTION
        if shorter and (reacts or not same_order):
            order = best
    matched: Atoms = end[order]
    matched.set_constraint(start.constraints)
    matched.set_tags(start.get_tags())
    matched.positions = start.positions + _moves(start, end, order)
    return matched, None if (order == np.arange(len(start))).all() else order.tolist()


def _moves(start: Atoms, end: Atoms, order: NDArray[np.int64]) -> NDArray[np.float64]:
    from ase.geometry import find_mic

    given = end.positions[order] - start.positions
    shortest, lengths = find_mic(given, start.cell, start.pbc)
    # A move of half a cell has two shortest images: the one that was given is meant.
    longer = np.linalg.norm(given, axis=1) > lengths + 1e-3
    return np.asarray(np.where(longer[:, None], shortest, given))


def _squared_path(start: Atoms, end: Atoms, order: NDArray[np.int64]) -> float:
    return float((_moves(start, end, order) ** 2).sum())


def _assignment(start: Atoms, end: Atoms) -> NDArray[np.int64]:
    """Return the order of the end's atoms that makes the sum of squared paths smallest."""
    from ase.geometry import get_distances
    from scipy.optimize import linear_sum_assignment

    order = np.zeros(len(start), dtype=np.int64)
    for element in np.unique(start.numbers):
        here, there = (np.flatnonzero(a.numbers == element) for a in (start, end))
        _, lengths = get_distances(
            start.positions[here], end.positions[there], cell=start.cell, pbc=start.pbc
        )
        rows, columns = linear_sum_assignment(lengths**2)
        order[here[rows]] = there[columns]
    return order


def first_band(start: Atoms, end: Atoms, images: int, interpolation: str) -> list[Atoms]:
    """Return start, ``images`` structures between, and end.

    Parameters
    ----------
    start, end
        Matched and unwrapped (:func:`match_atoms`).
    images
        Between the ends.
    interpolation
        ``"idpp"`` (Smidstrup et al. 2014, doi:10.1063/1.4878664) or ``"linear"``.
    """
    from ase.mep import NEB

    band = [start.copy(), *(start.copy() for _ in range(images)), end.copy()]
    chain = NEB(band, method="improvedtangent")
    # Unwrapped ends: a path longer than half a cell stays the one that was given.
    chain.interpolate(interpolation, mic=False, apply_constraint=False)
    return band
