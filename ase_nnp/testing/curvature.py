"""Second derivatives at sites of high symmetry, and repulsion at short range: ASE and numpy alone.

At a perfect lattice site every feature of degree above 0 vanishes. A network that scales such
features to unit size amplifies nothing into something, and its response to a small displacement or
strain has little to do with that to a larger one: energies and forces look right on every rattled
structure, elastic constants and phonons are wrong by factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

__all__ = ["STEPS", "curvature_jumps", "rigid_shift", "symmetric_structures", "unrepelled"]

#: Results of several structures: energy, forces, and stress (3x3 or Voigt) where there is one.
Evaluate = Callable[[Sequence[Atoms]], Sequence[Mapping[str, Any]]]

#: The two displacements in Angstrom, which are also the two strains.
STEPS = (1e-3, 2e-2)
#: Part of the sum of covalent radii at which a pair is as close as in no molecule.
CORE = 0.6
#: The shortest distance that the check of a repulsive core looks at, in Angstrom.
SHORTEST = 0.4


def symmetric_structures(
    numbers: Sequence[int], molecules: bool = True, cutoff: float | None = None
) -> dict[str, Atoms]:
    """Perfect crystals and a tetrahedral molecule of two elements, bonds of covalent length.

    Parameters
    ----------
    numbers
        Two atomic numbers; the first makes the crystals of one element.
    molecules
        Whether to add a molecule without a cell.
    cutoff
        Of the model, Angstrom: crystals are up to a tenth wider, so that no shell of neighbors
        crosses it within the steps. Where a usual cutoff function ends, second derivatives jump.
    """
    one, two = numbers[0], numbers[1]
    bond, mixed = 2 * covalent_radii[one], covalent_radii[one] + covalent_radii[two]
    structures = {
        "fcc": bulk("Cu", "fcc", a=np.sqrt(2) * bond, cubic=True),
        "bcc": bulk("Fe", "bcc", a=2 / np.sqrt(3) * bond, cubic=True),
        "diamond": bulk("C", "diamond", a=4 / np.sqrt(3) * bond, cubic=True),
        "rocksalt": bulk("NaCl", "rocksalt", a=2 * mixed, cubic=True),
    }

    for name, atoms in structures.items():
        second = (atoms.numbers == 17) if name == "rocksalt" else np.zeros(len(atoms), bool)
        atoms.numbers[:] = np.where(second, two, one)
        if cutoff is not None:
            width = max(np.linspace(1.0, 1.1, 11), key=lambda w: _room(atoms, cutoff / w))
            atoms.set_cell(atoms.cell * width, scale_atoms=True)

    if molecules:
        corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
        structures["tetrahedron"] = Atoms(
            [one] + [two] * 4, np.vstack([[0, 0, 0], mixed * corners])
        )

    return structures


def _room(atoms: Atoms, cutoff: float) -> float:
    """How far the nearest shell of neighbors is from the cutoff, relative; enough is enough."""
    distances = neighbor_list("d", atoms, 1.1 * cutoff)
    gap = float(np.abs(distances / cutoff - 1).min(initial=1.0))
    # max() keeps the first of equals: no crystal is wider than it must be.
    return min(gap, 2 * STEPS[1])


def curvature_jumps(structures: Mapping[str, Atoms], evaluate: Evaluate) -> dict[str, float]:
    """How far second derivatives from a small and a larger step disagree; 0 for a smooth surface.

    The response of the forces to one displaced atom, and of the stress to strains, by central
    differences of both STEPS. The difference is relative to the larger response of the structure.

    Returns
    -------
    dict
        By structure and kind of change, as ``{"fcc displacement": 0.01, "fcc strain": 0.02}``.
    """
    jumps = {}
    for name, atoms in structures.items():
        for kind, changes in (("displacement", _displaced), ("strain", _strained)):
            if kind == "strain" and atoms.cell.rank != 3:
                continue
            small, large = (_responses(atoms, changes, step, evaluate) for step in STEPS)
            scale = max(np.abs(small).max(), np.abs(large).max(), 1e-6)
            jumps[f"{name} {kind}"] = float(np.abs(small - large).max() / scale)
    return jumps


def rigid_shift(structures: Mapping[str, Atoms], evaluate: Evaluate) -> dict[str, float]:
    """Largest sum of the forces' response to one displaced atom, relative to the response.

    It is what shifting the whole crystal would do to one force: where it is not zero, acoustic
    modes do not vanish at the zone center.
    """
    sums = {}
    for name, atoms in structures.items():
        response = _responses(atoms, _displaced, STEPS[1], evaluate)
        total = response.reshape(len(response), -1, 3).sum(axis=1)
        sums[name] = float(np.abs(total).max() / max(np.abs(response).max(), 1e-6))
    return sums


def unrepelled(numbers: Sequence[int], evaluate: Evaluate) -> list[str]:
    """Pairs of elements whose energy falls when they come closer than any bond.

    Looks at distances from 0.6 of the sum of the covalent radii down to 0.4 Angstrom.

    Returns
    -------
    list of str
        As ``["C-Cu falls by 1.20 eV below 0.80 A"]``; empty if all pairs repel.
    """
    from itertools import combinations_with_replacement

    falling = []
    for a, b in combinations_with_replacement(numbers, 2):
        reach = CORE * float(covalent_radii[a] + covalent_radii[b])
        distances = np.geomspace(max(reach, 1.2 * SHORTEST), SHORTEST, 12)
        pairs = [Atoms([a, b], [[0, 0, 0], [0, 0, d]]) for d in distances]
        rise = np.diff([float(result["energy"]) for result in evaluate(pairs)])
        if (rise < 0).any():
            where = distances[int(np.argmax(rise < 0))]
            name = pairs[0].get_chemical_symbols()
            falling.append(f"{'-'.join(name)} falls by {-rise.min():.2g} eV below {where:.2f} A")
    return falling


def _displaced(atoms: Atoms, step: float) -> list[Atoms]:
    """The last atom moved by ``step`` along x and along the diagonal."""
    moved = []
    for direction in (np.array([1.0, 0, 0]), np.ones(3) / np.sqrt(3)):
        copy = atoms.copy()
        copy.positions[-1] += step * direction
        moved.append(copy)
    return moved


def _strained(atoms: Atoms, step: float) -> list[Atoms]:
    """Stretched along x, sheared in xy, and blown up."""
    strains = []
    for entries in ([(0, 0)], [(0, 1), (1, 0)], [(0, 0), (1, 1), (2, 2)]):
        strain = np.zeros((3, 3))
        for i, j in entries:
            strain[i, j] = step if i == j else step / 2
        copy = atoms.copy()
        copy.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        strains.append(copy)
    return strains


def _responses(
    atoms: Atoms,
    changes: Callable[[Atoms, float], list[Atoms]],
    step: float,
    evaluate: Evaluate,
) -> np.ndarray:
    """One row a change: central differences of forces, of stresses, or of the energy twice."""
    forward, backward = changes(atoms, step), changes(atoms, -step)
    results = evaluate([*forward, *backward, atoms])
    plus, minus = results[: len(forward)], results[len(forward) : -1]
    key = "forces" if changes is _displaced else "stress"
    if key in results[0]:
        pairs = zip(plus, minus, strict=True)
        rows = [(np.ravel(p[key]) - np.ravel(m[key])) / (2 * step) for p, m in pairs]
        return np.array(rows, float)

    # Direct-force models give no stress; the energy's second difference says the same.
    middle, volume = float(results[-1]["energy"]), atoms.get_volume()
    energies = [(float(p["energy"]), float(m["energy"])) for p, m in zip(plus, minus, strict=True)]
    return np.array([[(p + m - 2 * middle) / (step**2 * volume)] for p, m in energies])
