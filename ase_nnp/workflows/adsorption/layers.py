"""Which atoms of a slab are its surface, told by the neighbors that they have lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ase_nnp.workflows.adsorption.fingerprints import Array, Frame

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "coordination_numbers",
    "is_second_layer_below",
    "layer_heights",
    "surface_atoms",
    "under_coordinated",
]

#: Atoms are neighbors within this many times the sum of their covalent radii.
NEIGHBORS = 1.25
#: A surface atom has lost this share of its neighbors at least: 17 % below the edge of fcc(211),
#: but only 8 % in the second layer of fcc(110), which ends in hollows.
LOST = 0.15
#: Atoms this far below the highest are the top layer in any case; Angstrom.
TOP = 0.9
#: An atom is covered by a higher one that is nearer than this share of its radius, seen from above.
COVERED = 0.6
#: Steps are looked for where the surface's heights differ by this; Angstrom.
STEP = 0.5
#: The longest side of a close-packed triangle over its shortest; 1.15 on bcc(110).
EQUAL_SIDES = 1.1


def coordination_numbers(atoms: Atoms) -> NDArray[np.int64]:
    """Return the number of neighbors of each atom, (N,)."""
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    radii = NEIGHBORS * covalent_radii[atoms.numbers]
    return np.bincount(neighbor_list("i", atoms, radii), minlength=len(atoms))


def under_coordinated(slab: Atoms) -> NDArray[np.float64]:
    """Return the share of neighbors that each atom has lost, (N,).

    What an atom has without a surface is what the best-coordinated atom of its element has.
    """
    numbers = coordination_numbers(slab)
    full = np.zeros(len(slab))
    for element in np.unique(slab.numbers):
        mask = slab.numbers == element
        full[mask] = numbers[mask].max()
    return np.asarray(1 - numbers / np.maximum(full, 1))


def surface_atoms(slab: Atoms) -> tuple[NDArray[np.int64], frozenset[int]]:
    """Return the indices of the atoms that can be touched from above, and those of step edges."""
    from ase.data import covalent_radii

    frame = Frame(slab)
    local = frame.inside(slab.positions)
    height = local[:, 2]
    lost = under_coordinated(slab)
    upper = height > (height.max() + height.min()) / 2
    exposed = (upper & (lost >= LOST)) | (height > height.max() - TOP)

    # Full coordination and all the same: oxygen among the metal atoms of an oxide's surface.
    lowest = height[exposed].min()
    exposed |= upper & (height > lowest - 0.1)
    shifts = frame.shifts(3.0)
    free = []
    for atom in np.flatnonzero(exposed):
        above = local[height > height[atom] + 0.3]
        if len(above):
            across = (above[:, None, :2] - local[atom, :2] + shifts[None, :, :2]).reshape(-1, 2)
            radius = covalent_radii[slab.numbers[atom]]
            if np.linalg.norm(across, axis=1).min() < COVERED * radius:
                continue
        free.append(atom)

    top = np.array(free, dtype=np.int64)
    return top, _edges(slab, top, height, lost)


def _edges(
    slab: Atoms, top: NDArray[np.int64], height: NDArray[np.float64], lost: NDArray[np.float64]
) -> frozenset[int]:
    """Surface atoms of a step's edge: higher than the terrace, and with the fewest neighbors."""
    from ase.neighborlist import neighbor_list

    edges: set[int] = set()
    for element in np.unique(slab.numbers[top]):
        kind = top[slab.numbers[top] == element]
        most, least = lost[kind].max(), lost[kind].min()
        if most - least >= 0.1 and np.ptp(height[kind]) >= STEP:
            edges |= {int(a) for a in kind if lost[a] > most - 0.05}

    # An edge is a row of bonded atoms; what stands alone is the top of an open face (bcc(111)).
    from ase.data import covalent_radii

    members = np.array(sorted(edges), dtype=int)
    if not len(members):
        return frozenset()
    row = slab[members]
    bonded = neighbor_list("i", row, NEIGHBORS * covalent_radii[row.numbers])
    return frozenset(int(a) for a in members[np.unique(bonded)])


def layer_heights(slab: Atoms, tolerance: float = 0.3) -> list[float]:
    """Return the mean height of each layer of atoms, lowest first; Angstrom."""
    height = np.sort(Frame(slab).inside(slab.positions)[:, 2])
    layers = np.split(height, np.flatnonzero(np.diff(height) > tolerance) + 1)
    return [float(layer.mean()) for layer in layers]


def is_second_layer_below(slab: Atoms, corners: Array) -> bool | None:
    """Whether an atom lies below the middle of a close-packed triangle of surface atoms.

    Parameters
    ----------
    slab
        Without adsorbate.
    corners
        (3, 3) the triangle, in the slab's axes.

    Returns
    -------
    bool or None
        None if the triangle is not close-packed, or no layer lies below it.
    """
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
    if sides.max() > EQUAL_SIDES * sides.min():
        return None

    # Down is at right angles to the triangle: the terraces of a stepped surface are tilted.
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal /= np.linalg.norm(normal) * (1 if normal[2] > 0 else -1)
    frame = Frame(slab)
    images = frame.inside(slab.positions)[:, None] + frame.shifts(6.0)[None]
    below = corners.mean(axis=0) - images.reshape(-1, 3)
    depth = below @ normal
    # Beneath a close-packed face the next layer is 1.8 to 2.9 Angstrom down.
    near = (depth > 1.0) & (depth < 3.2)
    if not near.any():
        return None
    across = below[near] - depth[near][:, None] * normal
    return bool(np.linalg.norm(across, axis=1).min() < 0.8)
