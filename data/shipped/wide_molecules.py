"""Molecules, broken molecules, clusters and pairs of atoms for the wide labels. ASE alone."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.cluster import Decahedron, Icosahedron, Octahedron
from ase.collections import g2
from ase.data import covalent_radii
from make_structures import FCC, LATTICE, rattled
from wide_crystals import HELD_PAIRS, METALS, log_uniform, perfect, some

ORGANIC = set("HCNO")
#: Molecules that no training structure contains: a flag is chosen on the first, tested on the rest.
THRESHOLD_MOLECULES = ["C6H6", "C5H5N", "C4H4O", "butadiene", "isobutane", "CH3CH2NH2"]
TEST_MOLECULES = [
    "CH3COOH", "CH3COCH3", "C4H4NH", "trans-butane", "CH3CONH2", "CH3NO2", "bicyclobutane",
]  # fmt: skip
#: Clusters of these metals are in tests only.
HELD_CLUSTERS = ["Pd", "Au"]


def known(names: list[str], largest: int = 10) -> list[str]:
    """Molecules of H, C, N and O for training."""
    kept = []
    for name in names:
        atoms = molecule(name)
        away = name in THRESHOLD_MOLECULES + TEST_MOLECULES
        if set(atoms.symbols) <= ORGANIC and 1 < len(atoms) <= largest and not away:
            kept.append(name)
    return kept


MOLECULES = known(list(g2.names))


def in_vacuum(atoms: Atoms) -> Atoms:
    """Without a cell's images, magnetic moments or labels."""
    atoms = Atoms(atoms.numbers, atoms.positions)
    atoms.center(vacuum=5.0)
    return atoms


def bonds(atoms: Atoms) -> list[tuple[int, int]]:
    """Pairs nearer than 1.25 times the sum of their covalent radii."""
    radii = covalent_radii[atoms.numbers]
    distances = atoms.get_all_distances()
    near = distances < 1.25 * (radii[:, None] + radii)
    return [(i, j) for i, j in np.argwhere(near) if i < j]


def side_of(atoms: Atoms, i: int, j: int) -> list[int]:
    """Atoms that hang on ``j`` when its bond with ``i`` is cut."""
    links = [b for b in bonds(atoms) if set(b) != {i, j}]
    found, grew = {j}, True
    while grew:
        more = {b for a in links for b in a if found & set(a)} - found
        grew = bool(more)
        found |= more
    return sorted(found)


def stretched(atoms: Atoms, rng: np.random.Generator, low: float, high: float) -> Atoms:
    """One bond made ``low`` to ``high`` times its length; what hangs on it moves along."""
    atoms = atoms.copy()
    pairs = bonds(atoms)
    if not pairs:
        return atoms
    i, j = some(rng, pairs)
    moving = side_of(atoms, i, j)
    step = (atoms.positions[j] - atoms.positions[i]) * (rng.uniform(low, high) - 1)
    if i in moving:  # a ring: the atom alone
        moving = [j]
    atoms.positions[moving] += step
    return atoms


def gas(rng: np.random.Generator, names: list[str] | None = None) -> tuple[str, Atoms]:
    """A molecule: shaken, with a bond stretched or squeezed, or without a hydrogen."""
    name = some(rng, names or MOLECULES)
    atoms = molecule(name)
    hydrogens = [i for i, s in enumerate(atoms.symbols) if s == "H"]
    if hydrogens and len(atoms) > 2 and rng.random() < 0.3:
        del atoms[int(some(rng, hydrogens))]
        name += "-H"
    if rng.random() < 0.4:
        atoms = stretched(atoms, rng, 0.75, 1.7)
    return f"{name}:gas", in_vacuum(rattled(atoms, log_uniform(rng, 0.005, 0.15), rng))


def meeting(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Two molecules, or a molecule and a metal atom, at 1 to 4 Angstrom."""
    one = molecule(some(rng, MOLECULES))
    two = Atoms(some(rng, METALS)) if rng.random() < 0.4 else molecule(some(rng, MOLECULES))
    for atoms in (one, two):
        atoms.rotate(rng.uniform(0, 360), rng.normal(0, 1, 3))

    # Along a random direction until the nearest atoms are as far apart as asked.
    direction = np.array([0.0, 0.0, 1.0])
    wanted = rng.uniform(1.2, 4.0)

    for shift in np.arange(0, 12, 0.1):
        gap = np.linalg.norm(
            one.positions[:, None] - (two.positions + shift * direction)[None], axis=2
        )
        if gap.min() > wanted:
            break

    two.positions += shift * direction
    return "meeting", in_vacuum(rattled(one + two, log_uniform(rng, 0.01, 0.1), rng))


def ball(metal: str, rng: np.random.Generator) -> Atoms:
    """A piece of 3 to 19 atoms: cut from the crystal, or of icosahedral or octahedral shape."""
    a = LATTICE[metal]
    kind = rng.random()
    if kind < 0.2:
        found = Icosahedron(metal, 2, latticeconstant=a)
    elif kind < 0.3:
        found = Octahedron(metal, 3, latticeconstant=a)
    elif kind < 0.4:
        found = Decahedron(metal, 2, 1, 0, latticeconstant=a)
    else:
        block = perfect(metal, some(rng, ["fcc", "bcc", "hcp"])) * (5, 5, 5)
        middle = block.cell.sum(0) / 2 + rng.normal(0, 1, 3)
        order = np.argsort(np.linalg.norm(block.positions - middle, axis=1))
        found = block[order[: int(rng.integers(3, 17))]]
    return Atoms(found.symbols, found.positions * rng.uniform(0.93, 1.05))


def cluster(rng: np.random.Generator, held: bool = False) -> tuple[str, Atoms]:
    """A cluster, at times of two metals or with an adatom of H, C, N or O."""
    metal = some(rng, [m for m in METALS if (m in HELD_CLUSTERS) == held])
    atoms = ball(metal, rng)
    name = metal

    if rng.random() < 0.3:
        partner = some(rng, [m for m in FCC if m not in HELD_CLUSTERS])
        if frozenset((metal, partner)) not in HELD_PAIRS:
            atoms.symbols[rng.random(len(atoms)) < 0.4] = partner
            name += f"+{partner}"

    if rng.random() < 0.3:
        middle = atoms.positions.mean(0)
        far = atoms.positions[np.linalg.norm(atoms.positions - middle, axis=1).argmax()]
        out = (far - middle) / max(np.linalg.norm(far - middle), 1e-6) + rng.normal(0, 0.3, 3)
        what = some(rng, ["H", "C", "N", "O"])
        out *= (1.5 if what == "H" else 1.9) / np.linalg.norm(out)
        atoms += Atoms(what, [far + out])
        name += f"+{what}"

    return f"{name}:cluster", in_vacuum(rattled(atoms, log_uniform(rng, 0.01, 0.3), rng))
