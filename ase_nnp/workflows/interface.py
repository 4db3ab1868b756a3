r"""Solid-liquid interfaces: a slab, a liquid of given density above it, ions and an adsorbate.

Molecules are rigid; their centers and angles are moved by L-BFGS until no two atoms of different
molecules overlap, which is how packmol packs (Martinez, Andrade, Birgin, Martinez, J. Comput. Chem.
30, 2157 (2009), doi:10.1002/jcc.21224): with the smallest distance :math:`d_{ij}` of a pair,

.. math:: f = \sum_{i<j} \max(0, d_{ij}^2 - r_{ij}^2)^2 + \sum_i \max(0, z_i - z_\mathrm{high})^2
              + \max(0, z_\mathrm{low} - z_i)^2 .

Written here since packmol's boxes are rectangular, and cells of slabs are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.datasets.catalog.describe import NONMETALS
from ase_nnp.errors import StructureError
from ase_nnp.workflows.surfaces import whole_molecule, whole_slab

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["SOLVENTS", "interface"]

Array = NDArray[np.float64]

#: Molecule of ASE's collection and density at room temperature in g/cm^3 (CRC Handbook).
SOLVENTS: Mapping[str, tuple[str, float]] = {
    "water": ("H2O", 0.997),
    "methanol": ("CH3OH", 0.787),
    "carbon tetrachloride": ("CCl4", 1.584),
    "dimethyl sulfoxide": ("C2H6SO", 1.095),
    "benzene": ("C6H6", 0.873),
}
TRIES = 12
#: Overlap in Angstrom that a packing may have left.
LEFT = 0.02
_IMAGES = np.array([[a, b, c] for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)])


def interface(
    slab: Atoms,
    solvent: str | Atoms = "water",
    *,
    ions: Sequence[str | Atoms] = (),
    adsorbate: str | Atoms | None = None,
    density: float | None = None,
    thickness: float = 10.0,
    vacuum: float = 0.0,
    tolerance: float = 2.0,
    seed: int = 0,
) -> Atoms:
    """Fill the space above a slab with a liquid.

    Parameters
    ----------
    slab
        Periodic in its plane, its surface towards +z; constraints are kept. Its top layer gets tag
        1, the rest 0. Atoms with tag 2 stay an adsorbate, unless they are of a metal that the slab
        consists of: ASE's builders number layers in the tags.
    solvent
        One of :data:`SOLVENTS`, a formula that ``ase.build.molecule`` knows, or a molecule.
    ions
        Symbols, formulas or molecules, one each; they come in addition to the solvent.
    adsorbate
        Placed on top of the highest atom at bonding distance, its first atom down.
    density
        Of the solvent, g/cm^3; by default that of the pure liquid.
    thickness
        Of the liquid, Angstrom; it is changed by as much as a whole number of molecules asks for.
    vacuum
        Angstrom above the liquid; with none it fills the space up to the slab's next image.
    tolerance
        No two atoms of different molecules come closer, Angstrom, nor closer than the sum of
        their covalent radii.
    seed
        Of the random start; the same seed gives the same structure.

    Returns
    -------
    ase.Atoms
        With OC25's tags (3: solvent and ions), the names in ``info``; not relaxed. The liquid
        lies between the surface's covalent radii.

    Raises
    ------
    StructureError
        An unknown molecule, a slab without a plane, or a box that cannot be filled so densely.
    """
    base = _prepared(slab, adsorbate)
    molecule, name, usual = _molecule(solvent)
    density = usual if density is None else density
    if density is None or not density > 0 or not thickness > 0:
        raise StructureError(f"density = {density} g/cm^3 and thickness = {thickness} A: positive.")
    others = [_molecule(ion) for ion in ions]

    area = float(np.linalg.norm(np.cross(base.cell[0], base.cell[1])))
    mass = float(molecule.get_masses().sum())
    count = max(1, round(density * _UNIT * area * thickness / mass))
    height = count * mass / (density * _UNIT * area)
    low, high = _box(base, height, vacuum)

    rigid = [molecule] * count + [ion for ion, _, _ in others]
    _check_room(rigid, area * height)
    filled = _pack(base, rigid, low, high, tolerance, np.random.default_rng(seed))
    filled.info = {
        "solvent": name,
        "ions": [ion for _, ion, _ in others],
        "density": density,
        "seed": seed,
    }
    return filled


#: u/A^3 of one g/cm^3.
_UNIT = 0.602214076


def _check_room(rigid: Sequence[Atoms], volume: float) -> None:
    """Refuse at once what cannot fit: spheres of covalent radii fill less than their box."""
    from ase.data import covalent_radii

    spheres = sum(float((covalent_radii[m.numbers] ** 3).sum()) for m in rigid) * 4 / 3 * np.pi
    if spheres > 0.6 * volume:
        raise StructureError(
            f"{len(rigid)} molecules do not fit: their atoms fill {spheres / volume:.0%} of the "
            "liquid's space; take a lower density or a thicker liquid."
        )


def _molecule(given: str | Atoms) -> tuple[Atoms, str, float | None]:
    from ase import Atoms
    from ase.build import molecule
    from ase.data import atomic_numbers

    if not isinstance(given, str):
        return whole_molecule(given), given.get_chemical_formula(), None
    formula, density = SOLVENTS.get(given, (given, None))
    if formula in atomic_numbers:
        return Atoms(formula), given, density
    try:
        return molecule(formula), given, density
    except KeyError:
        raise StructureError(
            f"No molecule {given!r}; there are {', '.join(SOLVENTS)}, the names of "
            "ase.build.molecule, and any Atoms."
        ) from None


def _prepared(slab: Atoms, adsorbate: str | Atoms | None) -> Atoms:
    """Return the slab, tagged, with its adsorbate, and with c along z."""
    from ase.data import covalent_radii

    if np.linalg.norm(np.cross(slab.cell[0], slab.cell[1])) < 1.0:
        raise StructureError("A slab needs two lattice vectors in its plane.")
    if np.abs(slab.cell[:2, 2]).max() > 1e-3:
        raise StructureError("The surface must lie in the xy plane, its normal along z.")
    base = whole_slab(slab)
    base.info, base.calc = {}, None
    numbers, tags = base.numbers, base.get_tags()
    adsorbed = tags == 2
    # ASE's builders number layers: metal of tag 2 that the slab consists of is no adsorbate.
    layered = np.isin(numbers, numbers[~adsorbed]) & ~np.isin(numbers, list(NONMETALS))
    adsorbed &= ~layered
    solid = base.positions[~adsorbed, 2]
    base.set_tags(np.where(adsorbed, 2, np.where(base.positions[:, 2] > solid.max() - 0.7, 1, 0)))

    if adsorbate is not None:
        guest, _, _ = _molecule(adsorbate)
        top = int(np.flatnonzero(~adsorbed)[solid.argmax()])
        distance = covalent_radii[numbers[top]] + covalent_radii[guest.numbers[0]]
        guest.translate(base.positions[top] + [0, 0, distance] - guest.positions[0])
        if guest.positions[:, 2].min() < guest.positions[0, 2] - 1e-6:
            guest.rotate(180, "x", center=guest.positions[0])
        guest.set_tags([2] * len(guest))
        base += guest
    return base


def _box(base: Atoms, height: float, vacuum: float) -> tuple[float, float]:
    """Set the cell, and return the lowest and highest z of the liquid."""
    from ase.data import covalent_radii

    solid = base[base.get_tags() < 2]
    radius = covalent_radii[solid.numbers]
    bottom = float((solid.positions[:, 2] - radius).min())
    top = float((solid.positions[:, 2] + radius).max())
    base.cell[2] = [0.0, 0.0, top - bottom + height + vacuum]
    base.pbc = True
    base.translate([0, 0, -bottom])
    return top - bottom, top - bottom + height


@dataclass(frozen=True)
class _Problem:
    """What does not change while molecules move."""

    local: Array  # (N, 3) positions of the movable atoms in their molecule
    owner: NDArray[np.int64]  # (N,) molecule of each
    fixed: Array  # (F, 3)
    cell: Array
    near: Array  # (N, N + F) smallest distance of each pair
    low: float
    high: float

    def positions(self, x: Array) -> Array:
        """Atoms of molecules with centers and Euler angles ``x``."""
        centers, angles = x.reshape(2, -1, 3)
        turned = np.einsum("nij,nj->ni", _rotations(angles)[0][self.owner], self.local)
        return np.asarray(turned + centers[self.owner])

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Overlap and its gradient."""
        centers, angles = x.reshape(2, -1, 3)
        rotations, slopes = _rotations(angles)
        here = np.einsum("nij,nj->ni", rotations[self.owner], self.local) + centers[self.owner]
        value, force = self._overlap(here)

        above, below = here[:, 2] - self.high, self.low - here[:, 2]
        value += float((np.maximum(above, 0) ** 2 + np.maximum(below, 0) ** 2).sum())
        force[:, 2] += 2 * np.maximum(above, 0) - 2 * np.maximum(below, 0)

        gradient = np.zeros((2, len(centers), 3))
        np.add.at(gradient[0], self.owner, force)
        for axis in range(3):
            moved = np.einsum("nij,nj->ni", slopes[axis][self.owner], self.local)
            np.add.at(gradient[1][:, axis], self.owner, (moved * force).sum(axis=1))
        return value, gradient.ravel()

    def _pairs(self, here: Array) -> tuple[Array, Array, Array]:
        """Vectors (images, N, N + F, 3) to all atoms, squared distances, whether they count."""
        everyone = np.concatenate([here, self.fixed])
        base = here[:, None] - everyone[None]
        same = np.zeros(self.near.shape, bool)
        same[:, : len(here)] = self.owner[:, None] == self.owner[None]

        # In a cell twice as wide as any contact, rounding finds the one image that can touch.
        if _width(self.cell) >= 2 * self.near.max():
            shifts = np.rint(base @ np.linalg.inv(self.cell))
            vectors = (base - shifts @ self.cell)[None]
            counted = ~(same & ~shifts.any(axis=-1))[None]
        else:
            vectors = base[None] - (_IMAGES @ self.cell)[:, None, None]
            counted = np.ones(vectors.shape[:-1], bool)
            counted[len(_IMAGES) // 2][same] = False
        return vectors, (vectors**2).sum(axis=-1), counted

    def _overlap(self, here: Array) -> tuple[float, Array]:
        vectors, squares, counted = self._pairs(here)
        depth = np.maximum(self.near**2 - squares, 0.0) * counted
        # Pairs of movable atoms are met from both ends.
        weight = np.ones(self.near.shape)
        weight[:, : len(here)] = 0.5
        value = float((weight * depth**2).sum())
        force = -4 * np.einsum("kij,kijx->ix", depth, vectors)
        return value, force

    def worst(self, x: Array) -> float:
        """Largest overlap in Angstrom."""
        here = self.positions(x)
        _, squares, counted = self._pairs(here)
        gap = np.where(counted, self.near - np.sqrt(squares), -np.inf)
        walls = max(float((here[:, 2] - self.high).max()), float((self.low - here[:, 2]).max()))
        return max(float(gap.max()), walls - 0.1)


def _width(cell: Array) -> float:
    """Smallest distance of two opposite faces of a cell."""
    return float(1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0).max())


def _rotations(angles: Array) -> tuple[Array, list[Array]]:
    """Rotations about z, y, x by three angles each, and their derivatives in each angle."""
    c, s = np.cos(angles), np.sin(angles)
    zero, one = np.zeros(len(angles)), np.ones(len(angles))

    def about(axis: int, cos: Array, sin: Array, unit: Array) -> Array:
        rows = [[unit, zero, zero], [zero, cos, -sin], [zero, sin, cos]]
        order = [(k - axis) % 3 for k in range(3)]
        turned = [[rows[order[i]][order[j]] for j in range(3)] for i in range(3)]
        return np.moveaxis(np.array(turned), -1, 0)

    plain = [about(2 - k, c[:, k], s[:, k], one) for k in range(3)]
    slope = [about(2 - k, -s[:, k], c[:, k], zero) for k in range(3)]
    z, y, x = plain
    return z @ y @ x, [slope[0] @ y @ x, z @ slope[1] @ x, z @ y @ slope[2]]


def _pack(
    base: Atoms,
    rigid: Sequence[Atoms],
    low: float,
    high: float,
    tolerance: float,
    rng: np.random.Generator,
) -> Atoms:
    from ase.data import covalent_radii
    from scipy.optimize import minimize

    local = np.concatenate([m.positions - m.positions.mean(axis=0) for m in rigid])
    owner = np.repeat(np.arange(len(rigid)), [len(m) for m in rigid])
    numbers = np.concatenate([m.numbers for m in rigid])
    everyone = np.concatenate([numbers, base.numbers])
    radii = covalent_radii[numbers][:, None] + covalent_radii[everyone][None]
    near = np.maximum(tolerance, radii + 2 * LEFT)
    cell = np.asarray(base.cell)
    problem = _Problem(local, owner, base.positions.copy(), cell, near, low, high)

    best: tuple[float, Any] = (np.inf, None)
    for _ in range(TRIES):
        fractions = rng.random((len(rigid), 3))
        centers = fractions[:, :2] @ cell[:2]
        centers[:, 2] += low + 0.5 + fractions[:, 2] * max(high - low - 1.0, 0.1)
        start = np.concatenate([centers.ravel(), rng.uniform(0, 2 * np.pi, 3 * len(rigid))])
        result = minimize(problem, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
        worst = problem.worst(result.x)
        best = min(best, (worst, result.x), key=lambda one: one[0])
        if worst <= LEFT:
            break
    else:
        raise StructureError(
            f"{len(rigid)} molecules do not fit without overlap ({best[0]:.2f} A left after "
            f"{TRIES} starts); take a lower density, a wider cell or a smaller tolerance."
        )
    return _joined(base, rigid, problem.positions(best[1]))


def _joined(base: Atoms, rigid: Sequence[Atoms], positions: Array) -> Atoms:
    joined: Atoms = base.copy()
    start = 0
    for molecule in rigid:
        placed = molecule.copy()
        placed.set_constraint()
        placed.positions = positions[start : start + len(molecule)]
        placed.set_tags([3] * len(molecule))
        placed.set_cell(base.cell)
        joined += placed
        start += len(molecule)
    return joined
