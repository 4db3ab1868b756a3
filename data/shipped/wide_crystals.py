"""Crystals for the wide labels: near perfection, far from it, and with defects. ASE alone.

Cells are as small as the physics allows, because the teacher's time grows with the atoms.
Every function takes a random generator and returns ``(name of the system, atoms)``.
"""

from __future__ import annotations

import numpy as np
from ase import Atom, Atoms
from ase.build import bulk
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from make_structures import FCC, LATTICE, rattled

#: Pairs of metals that no training structure joins; they test what alloys cost.
HELD_PAIRS = {frozenset(p) for p in (("Cu", "Pd"), ("Ni", "Ir"), ("Mo", "Pt"), ("Ag", "Rh"))}
METALS = list(LATTICE)
#: Interstitial sites of a conventional cell, in its lattice vectors.
SITES = {
    "fcc": [(0.5, 0.5, 0.5), (0.25, 0.25, 0.25)],
    "bcc": [(0.5, 0.5, 0.0), (0.5, 0.25, 0.0)],
}


def nearest(atoms: Atoms) -> float:
    """Shortest distance over the sum of the two covalent radii; infinite beyond 2.4 Angstrom."""
    if len(atoms) == 1 and not atoms.pbc.any():
        return np.inf
    i, j, d = neighbor_list("ijd", atoms, 2.4)
    radii = covalent_radii[atoms.numbers]
    return float((d / (radii[i] + radii[j])).min(initial=np.inf))


def lattice_of(metal: str) -> str:
    """The structure that the metal has."""
    return "bcc" if metal == "Mo" else "fcc"


def perfect(metal: str, structure: str | None = None, cubic: bool = False) -> Atoms:
    """A crystal; another structure than the metal's own keeps the volume of an atom."""
    own, a = lattice_of(metal), LATTICE[metal]
    structure = structure or own
    volume = a**3 / (4 if own == "fcc" else 2)
    if structure == "hcp":
        side = (volume * np.sqrt(2)) ** (1 / 3)
        return bulk(metal, "hcp", a=side, c=side * np.sqrt(8 / 3))
    count = {"fcc": 4, "bcc": 2, "sc": 1, "diamond": 8}[structure]
    return bulk(metal, structure, a=(volume * count) ** (1 / 3), cubic=cubic)


def strained(atoms: Atoms, size: float, rng: np.random.Generator) -> Atoms:
    """A copy under a random symmetric strain whose largest entry is ``size``."""
    strain = rng.normal(0, 1, (3, 3))
    strain = 0.5 * (strain + strain.T) * (rng.random((3, 3)) < 0.7)
    strain = 0.5 * (strain + strain.T)
    strain *= size / max(np.abs(strain).max(), 1e-9)
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


def some(rng: np.random.Generator, options: list):
    """One of a list."""
    return options[int(rng.integers(len(options)))]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is evenly distributed."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def eos(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Squeezed and stretched by up to 12 % of the length, own and other structures."""
    metal = some(rng, METALS)
    structure = lattice_of(metal) if rng.random() < 0.6 else some(rng, ["fcc", "bcc", "hcp"])
    atoms = perfect(metal, structure, cubic=rng.random() < 0.3)
    atoms.set_cell(atoms.cell * (1 + rng.uniform(-0.12, 0.12)), scale_atoms=True)
    if rng.random() < 0.4:
        atoms = rattled(atoms, log_uniform(rng, 0.005, 0.1), rng)
    return f"{metal}:{structure}", atoms


def strain(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Strains of 0.1 to 6 %; a third of them with small displacements."""
    metal = some(rng, METALS)
    cubic = rng.random() < 0.4
    atoms = perfect(metal, cubic=cubic)
    # Around the teacher's lattice constants, which differ from ours by up to 1 %.
    atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.006)), scale_atoms=True)
    atoms = strained(atoms, log_uniform(rng, 0.001, 0.06), rng)
    if cubic and rng.random() < 0.5:
        atoms = rattled(atoms, log_uniform(rng, 0.003, 0.03), rng)
    return f"{metal}:strain", atoms


def shaken(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Small displacements: all atoms by 0.005 to 0.1 Angstrom, or one alone, as phonons ask."""
    metal = some(rng, METALS)
    kind = rng.random()
    if kind < 0.5:
        atoms = perfect(metal, cubic=True) * some(rng, [(1, 1, 1), (2, 1, 1), (2, 2, 1)])
        atoms = rattled(atoms, log_uniform(rng, 0.005, 0.15), rng)
    else:
        atoms = perfect(metal) * some(rng, [(2, 2, 2), (3, 2, 2), (3, 3, 2), (3, 3, 3)])
        step = rng.normal(0, 1, 3)
        atoms.positions[0] += step / np.linalg.norm(step) * log_uniform(rng, 0.008, 0.06)
    atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.004)), scale_atoms=True)
    return f"{metal}:shaken", atoms


def wave(rng: np.random.Generator) -> tuple[str, Atoms]:
    """A frozen lattice wave in a long thin cell: long wavelengths cost few atoms there."""
    metal = some(rng, METALS)
    n = int(rng.integers(4, 9))
    repeat = [1, 1, 1]
    repeat[int(rng.integers(3))] = n
    atoms = perfect(metal) * repeat
    phase = 2 * np.pi * int(rng.integers(1, n // 2 + 1)) * np.arange(n) / n
    direction = rng.normal(0, 1, 3)
    size = log_uniform(rng, 0.01, 0.1) / np.linalg.norm(direction)
    atoms.positions += np.cos(phase)[:, None] * direction * size
    return f"{metal}:wave", atoms


def vacancy(rng: np.random.Generator) -> tuple[str, Atoms]:
    """One atom missing of 8 to 32, at rest or half way of a jump into the hole."""
    metal = some(rng, METALS)
    if rng.random() < 0.6:
        atoms = perfect(metal) * some(rng, [(2, 2, 2), (3, 2, 2), (3, 3, 2), (3, 3, 3)])
    else:
        atoms = perfect(metal, cubic=True) * some(rng, [(2, 2, 1), (2, 2, 2)])
    distances = atoms.get_distances(0, range(len(atoms)), mic=True, vector=True)
    near = int(np.argsort(np.linalg.norm(distances, axis=1))[1])
    if rng.random() < 0.25:
        atoms.positions[near] -= distances[near] * rng.uniform(0.1, 0.5)
    del atoms[0]
    atoms.set_cell(atoms.cell * (1 + rng.normal(-0.004, 0.012)), scale_atoms=True)
    return f"{metal}:vacancy", rattled(atoms, log_uniform(rng, 0.005, 0.12), rng)


def interstitial(rng: np.random.Generator) -> tuple[str, Atoms]:
    """H, C, N, O in a hole of the crystal, or a dumbbell of the metal."""
    metal = some(rng, METALS)
    own = lattice_of(metal)

    atoms = perfect(metal, cubic=True) * some(rng, [(1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2)])
    if rng.random() < 0.25 and len(atoms) > 8:
        half = rng.normal(0, 1, 3)
        half *= 0.28 * LATTICE[metal] / np.linalg.norm(half)
        atoms.append(Atom(metal, atoms.positions[0] + half))
        atoms.positions[0] -= half
        what = metal
    else:
        what = some(rng, ["H", "C", "N", "O"])
        place = np.array(some(rng, SITES[own])) * LATTICE[metal]
        atoms.append(Atom(what, place + rng.normal(0, 0.1, 3)))

    # The fewer the atoms, the more the crystal gives way.
    swell = rng.uniform(-0.02, 0.08) * min(1.0, 8 / len(atoms))
    atoms.set_cell(atoms.cell * (1 + swell), scale_atoms=True)
    return f"{metal}+{what}:interstitial", rattled(atoms, log_uniform(rng, 0.01, 0.12), rng)


def alloyed(atoms: Atoms, partner: str, chosen: np.ndarray) -> Atoms:
    """``chosen`` atoms become the partner; the cell takes the mean volume of an atom."""

    def volume(metal: str) -> float:
        return LATTICE[metal] ** 3 / (2 if metal == "Mo" else 4)

    atoms = atoms.copy()
    before = np.mean([volume(s) for s in atoms.symbols])
    atoms.symbols[chosen] = partner
    scale = (np.mean([volume(s) for s in atoms.symbols]) / before) ** (1 / 3)
    atoms.set_cell(atoms.cell * scale, scale_atoms=True)
    return atoms


def alloy(rng: np.random.Generator, held: bool = False) -> tuple[str, Atoms]:
    """Ordered (L1_0, L1_2, B2) and random alloys of two metals."""
    pairs = [(a, b) for a in METALS for b in METALS if a != b]
    one, two = some(rng, [p for p in pairs if (frozenset(p) in HELD_PAIRS) == held])
    atoms = perfect(one, some(rng, ["fcc", "fcc", "bcc"]), cubic=True)
    if rng.random() < 0.5:
        chosen = np.arange(len(atoms)) < (2 if len(atoms) == 4 and rng.random() < 0.5 else 1)
    else:
        atoms *= some(rng, [(2, 1, 1), (2, 2, 1)])
        chosen = rng.random(len(atoms)) < rng.uniform(0.1, 0.9)
    atoms = alloyed(atoms, two, chosen)
    atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.02)), scale_atoms=True)
    if rng.random() < 0.6:
        atoms = strained(atoms, log_uniform(rng, 0.002, 0.05), rng)
    return f"{one}+{two}:alloy", rattled(atoms, log_uniform(rng, 0.005, 0.15), rng)


def hot(rng: np.random.Generator) -> tuple[str, Atoms]:
    """As hot as 3000 K: displacements of 0.12 to 0.3 Angstrom, at times an alloy."""
    metal = some(rng, METALS)
    atoms = perfect(metal, cubic=True) * some(rng, [(2, 1, 1), (2, 2, 1)])
    if rng.random() < 0.3:
        partner = some(rng, [m for m in FCC if frozenset((m, metal)) not in HELD_PAIRS])
        atoms = alloyed(atoms, partner, rng.random(len(atoms)) < 0.5)
    atoms.set_cell(atoms.cell * (1 + rng.uniform(-0.02, 0.06)), scale_atoms=True)
    return f"{metal}:hot", rattled(atoms, rng.uniform(0.12, 0.3), rng)
