"""Relaxations that left the question: did the adsorbate break, leave, sink, or the surface change?

The four tests of AdsorbML (Lan et al. 2023, doi:10.1038/s41524-023-01121-5). Two atoms are bonded
if their distance is below ``m (r_a + r_b) + 0.6`` Angstrom with covalent radii r. Tags: 0 bulk,
1 surface, 2 adsorbate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ase_nnp.errors import StructureError

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

__all__ = [
    "Anomalies",
    "adsorbate_desorbed",
    "adsorbate_dissociated",
    "adsorbate_intercalated",
    "connectivity",
    "detect_anomalies",
    "surface_changed",
]

SKIN = 0.3
"""Angstrom an atom, added after the radii were scaled."""


@dataclass(frozen=True)
class Anomalies:
    """The four flags of one relaxation; ``bool(anomalies)`` is True if any holds."""

    dissociated: bool
    desorbed: bool
    surface_changed: bool
    intercalated: bool

    def __bool__(self) -> bool:
        return self.dissociated or self.desorbed or self.surface_changed or self.intercalated

    def as_dict(self) -> dict[str, bool]:
        """Return the flags by name."""
        return asdict(self)


def connectivity(atoms: Atoms, mult: float = 1.0) -> NDArray[np.bool_]:
    """Return which atoms are bonded, (N, N) bool; True on the diagonal: bonded to an own image."""
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    radii = mult * covalent_radii[atoms.numbers] + SKIN
    bonds = np.zeros((len(atoms), len(atoms)), dtype=bool)
    first, second = neighbor_list("ij", atoms, radii)
    bonds[first, second] = True
    return bonds


def _adsorbate(atoms: Atoms) -> NDArray[np.bool_]:
    mask = atoms.get_tags() == 2
    if not mask.any():
        raise StructureError("no atom has tag 2 (adsorbate); anomalies need OC20 tags 0, 1, 2")
    return np.asarray(mask)


def _same_atoms(init: Atoms, final: Atoms) -> None:
    if not np.array_equal(init.numbers, final.numbers):
        raise StructureError("the two structures do not hold the same atoms in the same order")


def adsorbate_dissociated(init: Atoms, final: Atoms) -> bool:
    """Whether the bonds inside the adsorbate differ between the two structures."""
    _same_atoms(init, final)
    mask = _adsorbate(init)
    return not np.array_equal(connectivity(init[mask]), connectivity(final[mask]))


def adsorbate_desorbed(final: Atoms, mask: NDArray[np.bool_] | None = None) -> bool:
    """Whether no adsorbate atom has a slab neighbor, with radii scaled by 1.5."""
    adsorbate = _adsorbate(final) if mask is None else mask
    return not connectivity(final, 1.5)[np.ix_(adsorbate, ~adsorbate)].any()


def surface_changed(slab: Atoms, final_slab: Atoms) -> bool:
    """Whether bonds of the slab appeared or vanished; both hold the slab atoms only.

    A bond counts as changed when it is there with radii scaled by 1 in one structure and not
    there with 1.5 in the other.
    """
    _same_atoms(slab, final_slab)
    gained = connectivity(final_slab) & ~connectivity(slab, 1.5)
    lost = connectivity(slab) & ~connectivity(final_slab, 1.5)
    return bool(gained.any() or lost.any())


def adsorbate_intercalated(final: Atoms, mask: NDArray[np.bool_] | None = None) -> bool:
    """Whether an adsorbate atom is bonded to an atom below the surface (tag 0)."""
    adsorbate = _adsorbate(final) if mask is None else mask
    return bool(connectivity(final)[np.ix_(adsorbate, final.get_tags() == 0)].any())


def detect_anomalies(init: Atoms, final: Atoms, slab: Atoms | None = None) -> Anomalies:
    """Return the four flags of a relaxation from ``init`` to ``final``.

    Parameters
    ----------
    init, final
        Initial and relaxed adsorbate on slab, with tags, the same atoms in the same order.
    slab
        The relaxed clean slab, its atoms in the order of those of ``init``; None takes the slab
        atoms of ``init``.

    Raises
    ------
    StructureError
        If the atoms differ or none is tagged as adsorbate.
    """
    _same_atoms(init, final)
    mask = _adsorbate(init)
    tagged = final.copy()
    tagged.set_tags(init.get_tags())
    return Anomalies(
        dissociated=adsorbate_dissociated(init, final),
        desorbed=adsorbate_desorbed(tagged, mask),
        surface_changed=surface_changed(init[~mask] if slab is None else slab, final[~mask]),
        intercalated=adsorbate_intercalated(tagged, mask),
    )
