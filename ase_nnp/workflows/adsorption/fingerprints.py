"""Which places and structures are the same, told by distances to the slab's atoms.

The sorted distances to the nearest atoms of each element do not change under translations of the
supercell, rotations, reflections and other orders of the atoms, and move continuously with the
structure: no symmetry has to be found first, which fails on relaxed slabs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Array", "Frame", "adsorbate_distance", "adsorbate_fingerprint", "distances_to_slab"]

Array = NDArray[np.float64]

#: Nearest slab atoms of each element that count; some 5 Angstrom deep on a metal.
NEAREST = 24
#: Angstrom that periodic images are looked for at least.
REACH = 9.0


class Frame:
    """A slab's own axes: two in the surface, the third out of it, along the third cell vector.

    Parameters
    ----------
    slab
        Any slab; its cell may lie anyhow in space.
    """

    def __init__(self, slab: Atoms) -> None:
        first, second, third = np.asarray(slab.cell[:])
        normal = np.cross(first, second)
        normal = normal / np.linalg.norm(normal)
        self.normal: Array = normal if normal @ third > 0 else -normal
        x = first / np.linalg.norm(first)
        self.axes: Array = np.array([x, np.cross(self.normal, x), self.normal])
        self.lateral: Array = np.array([first, second]) @ self.axes[:2].T

    def inside(self, positions: Array) -> Array:
        """Return positions (N, 3) in the slab's axes; the last column is the height."""
        return np.asarray(positions) @ self.axes.T

    def outside(self, local: Array) -> Array:
        """Return positions (N, 3) in space from those in the slab's axes."""
        return np.asarray(local) @ self.axes

    def shifts(self, reach: float) -> Array:
        """Return lateral translations (S, 3) in the slab's axes that cover ``reach``."""
        area = abs(np.linalg.det(self.lateral))
        widths = area / np.linalg.norm(self.lateral, axis=1)[::-1]
        counts = np.ceil(reach / widths).astype(int)
        grid = np.mgrid[-counts[0] : counts[0] + 1, -counts[1] : counts[1] + 1].reshape(2, -1).T
        return np.column_stack([grid @ self.lateral, np.zeros(len(grid))])


def distances_to_slab(points: Array, slab: Atoms) -> Array:
    """Return the fingerprint (P, F) of points: sorted distances to each element's atoms.

    Parameters
    ----------
    points
        (P, 3) Angstrom.
    slab
        Without adsorbate. Periodic along its first two vectors.
    """
    frame = Frame(slab)
    local = frame.inside(slab.positions)
    images = (local[None] + frame.shifts(REACH)[:, None]).reshape(-1, 3)
    numbers = np.tile(slab.numbers, len(images) // len(slab))

    # A point outside the cell has its neighbors there: bring it to the cell's middle first.
    places = frame.inside(np.atleast_2d(points))
    fractions = places[:, :2] @ np.linalg.inv(frame.lateral)
    places[:, :2] -= np.floor(fractions) @ frame.lateral
    columns = []
    for number in np.unique(slab.numbers):
        of_kind = images[numbers == number]
        lengths = np.linalg.norm(places[:, None] - of_kind[None], axis=2)
        columns.append(np.sort(lengths, axis=1)[:, :NEAREST])
    return np.concatenate(columns, axis=1)


def adsorbate_fingerprint(atoms: Atoms, guests: NDArray[np.int64]) -> Array:
    """Return one row for each adsorbate atom: distances to the slab, and within the adsorbate."""
    hosts = np.setdiff1d(np.arange(len(atoms)), guests)
    outer = distances_to_slab(atoms.positions[guests], atoms[hosts])
    inner = np.sort(atoms[guests].get_all_distances(mic=True), axis=1)
    return np.concatenate([outer, inner], axis=1)


def adsorbate_distance(one: Array, other: Array, numbers: NDArray[np.int64]) -> float:
    """Return by how much two adsorbates on one slab differ, Angstrom.

    Parameters
    ----------
    one, other
        Of :func:`adsorbate_fingerprint`, for the same atoms in any order.
    numbers
        Atomic numbers of the rows.

    Returns
    -------
    float
        The largest difference of any distance, atoms of one element matched as well as can be.
    """
    from scipy.optimize import linear_sum_assignment

    if one.shape != other.shape:
        return float("inf")
    gaps = np.abs(one[:, None] - other[None]).max(axis=2)
    gaps[numbers[:, None] != numbers[None]] = 1e6
    rows, columns = linear_sum_assignment(gaps)
    return float(gaps[rows, columns].max())
