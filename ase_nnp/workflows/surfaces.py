"""Vacuum in a cell, slabs and molecules in one piece, adsorbates and their sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "VACUUM",
    "AdsorptionSite",
    "adsorption_site",
    "clean_slab",
    "vacuum_gaps",
    "whole_molecule",
    "whole_slab",
]

#: Two atoms bond within this many times the sum of their covalent radii (Cordero et al. 2008,
#: doi:10.1039/b801115j, as in ASE); metal-adsorbate bonds are up to a fifth longer than the sum.
BOND = 1.25
#: Angstrom of vacuum that make a slab of what is periodic in three directions.
VACUUM = 5.0
#: Share of a cell vector that atoms may lie outside the cell before they are moved back.
RIM = 0.2
#: Elements of molecules; all others are taken for those of a slab.
MOLECULAR = frozenset({1, 6, 7, 8, 9, 16, 17, 35, 53})


@dataclass(frozen=True)
class AdsorptionSite:
    """Where an adsorbate sits.

    Attributes
    ----------
    name
        ``"top"``, ``"bridge"``, ``"hollow"`` (``"fcc hollow"``, ``"hcp hollow"`` where the second
        layer tells them apart), ``"4-fold hollow"``.
    atom
        Index of the adsorbate's atom that is bound to the slab.
    neighbors
        Indices of the slab's atoms that it is bound to.
    """

    name: str
    atom: int
    neighbors: tuple[int, ...]


def vacuum_gaps(atoms: Atoms) -> tuple[float, float, float]:
    """Return the widest layer without atom centers along each cell vector, in Angstrom.

    The thickness is measured at right angles to the other two vectors; it is 0 for a vector that
    is missing or not periodic.
    """
    if atoms.cell.rank < 3:
        return (0.0, 0.0, 0.0)

    # Around the cell: a slab may lie across its border.
    fractions = np.sort(atoms.cell.scaled_positions(atoms.positions) % 1.0, axis=0)
    around = np.vstack([fractions, fractions[:1] + 1.0])
    heights = 1.0 / np.linalg.norm(atoms.cell.reciprocal()[:], axis=1)
    gaps = np.diff(around, axis=0).max(axis=0) * heights * np.asarray(atoms.pbc)
    return (float(gaps[0]), float(gaps[1]), float(gaps[2]))


def whole_molecule(atoms: Atoms) -> Atoms:
    """Return a copy whose atoms lie side by side, where the border of a cell cut them apart."""
    from ase.geometry import get_distances
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    whole: Atoms = atoms.copy()
    if not atoms.pbc.any() or len(atoms) < 2:
        return whole

    # From neighbor to neighbor: a chain may be longer than half its box.
    vectors, lengths = get_distances(atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    order, before = breadth_first_order(minimum_spanning_tree(lengths), 0, directed=False)
    for atom in order[1:]:
        whole.positions[atom] = whole.positions[before[atom]] + vectors[before[atom], atom]
    return whole


def whole_slab(atoms: Atoms) -> Atoms:
    """Return a copy of a slab in one piece, where the border of its cell cut it.

    Atoms move by cell vectors: along the third until the widest gap lies above all of them, along
    the first two into the cell. Where nothing is cut, nothing moves.
    """
    whole: Atoms = atoms.copy()
    if atoms.cell.rank < 3 or not len(atoms):
        return whole
    fractions = atoms.cell.scaled_positions(atoms.positions)
    outside = (fractions < -RIM) | (fractions >= 1 + RIM)
    moves = np.where(outside & atoms.pbc, -np.floor(fractions), 0.0)

    # A border in the vacuum cuts nothing, wherever a molecule above the slab may be.
    height = fractions[:, 2]
    thickness = 1.0 / np.linalg.norm(atoms.cell.reciprocal()[2])
    moves[:, 2] = 0.0
    if atoms.pbc[2] and (1.0 - np.ptp(height)) * thickness < VACUUM:
        folded = np.sort(height % 1.0)
        gaps = np.diff(np.append(folded, folded[0] + 1.0))
        bottom = folded[(int(gaps.argmax()) + 1) % len(folded)]
        cells = np.floor(height - bottom + 1e-9)
        # Most atoms stay where they are.
        moves[:, 2] = np.sort(cells)[len(cells) // 2] - cells
    whole.positions += moves @ atoms.cell[:]
    return whole


def clean_slab(atoms: Atoms) -> tuple[Atoms, list[int]] | None:
    """Return the slab without its adsorbate and the adsorbate's indices.

    None unless this is plainly an adsorbate on a slab: periodic in two directions with vacuum or
    no period in the third, atoms of molecules above atoms of other elements.
    """
    # Layers nearer than this see their images: that is a crystal and no slab.
    gap = vacuum_gaps(atoms)[2]
    if atoms.cell.rank < 3 or not atoms.pbc[:2].all() or (atoms.pbc[2] and gap < VACUUM):
        return None
    molecular = np.isin(atoms.numbers, list(MOLECULAR))
    tags = atoms.get_tags()
    if (tags == 2).any() and (tags < 2).any() and molecular[tags == 2].all():
        # OC20: 0 below, 1 at the surface, 2 adsorbate. ASE counts layers from 1 and has more.
        molecular = tags == 2
    if not 0 < molecular.sum() < len(atoms) / 2:
        return None

    # The surface looks into the vacuum; molecules inside a slab (an oxide's oxygen) are no guests.
    height = whole_slab(atoms).positions @ _normal(atoms)
    if height[molecular].min() < np.median(height[~molecular]):
        return None
    slab: Atoms = atoms[~molecular]
    slab.calc = None
    return slab, np.flatnonzero(molecular).tolist()


def adsorption_site(atoms: Atoms) -> AdsorptionSite | None:
    """Return where the adsorbate of :func:`clean_slab` sits; None if it is bound to no slab atom.

    The site is the number of slab atoms within bonding distance of the lowest bound atom of the
    adsorbate.
    """
    from ase.data import covalent_radii
    from ase.geometry import get_distances

    parts = clean_slab(atoms)
    if parts is None:
        return None
    guests, atoms = parts[1], whole_slab(atoms)
    hosts = np.setdiff1d(np.arange(len(atoms)), guests)
    _, lengths = get_distances(
        atoms.positions[guests], atoms.positions[hosts], cell=atoms.cell, pbc=atoms.pbc
    )
    radii = covalent_radii[atoms.numbers]
    bound = lengths < BOND * (radii[guests][:, None] + radii[hosts])
    if not bound.any():
        return None

    height = atoms.positions @ _normal(atoms)
    row = min(np.flatnonzero(bound.any(axis=1)), key=lambda k: height[guests[k]])
    atom, neighbors = guests[row], hosts[bound[row]]
    names = {1: "top", 2: "bridge", 3: "hollow", 4: "4-fold hollow"}
    name = names.get(len(neighbors), f"{len(neighbors)}-fold hollow")
    if len(neighbors) == 3:
        name = f"{_stacking(atoms, atom, neighbors, hosts)} hollow".strip()
    return AdsorptionSite(name, int(atom), tuple(int(k) for k in neighbors))


def _stacking(
    atoms: Atoms, atom: int, neighbors: NDArray[np.int64], hosts: NDArray[np.int64]
) -> str:
    """``hcp`` if an atom of the second layer lies beneath a three-fold hollow, else ``fcc``."""
    from ase.geometry import find_mic

    normal = _normal(atoms)
    height = atoms.positions @ normal
    top = height[neighbors].mean()
    second = hosts[(height[hosts] < top - 1.0) & (height[hosts] > top - 3.2)]
    if not len(second):
        return ""
    offsets, _ = find_mic(atoms.positions[second] - atoms.positions[atom], atoms.cell, atoms.pbc)

    # An atom of the second layer straight below (hcp), or none (fcc); relaxed sites are off by
    # tenths of an Angstrom, the next atom by 1.3 or more.
    lateral = np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1)
    return "hcp" if lateral.min() < 0.8 else "fcc"


def _normal(atoms: Atoms) -> NDArray[np.float64]:
    """Unit vector out of the surface, along the third cell vector."""
    across: NDArray[np.float64] = np.cross(atoms.cell[0], atoms.cell[1])
    normal = across / np.linalg.norm(across)
    return normal if normal @ atoms.cell[2] > 0 else -normal
