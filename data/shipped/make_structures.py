"""Structures that the shipped model learns from: seeded, made with ASE alone.

Every task is one starting structure and the number of relaxation steps that the teacher takes
from it (``label.py``). A *system* is a metal, a facet and an adsorbate; whole systems are held
back from training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import bcc100, bcc110, bulk, fcc100, fcc111, fcc211, molecule
from ase.constraints import FixAtoms

#: Conventional lattice constants in Angstrom, near those of the PBE functional.
LATTICE = {
    "Ni": 3.52, "Cu": 3.63, "Rh": 3.84, "Pd": 3.95, "Ag": 4.15,
    "Ir": 3.88, "Pt": 3.97, "Au": 4.16, "Mo": 3.16,
}  # fmt: skip
FCC = [m for m in LATTICE if m != "Mo"]
ADSORBATES = {
    "H": "H", "C": "C", "N": "N", "O": "O", "CO": "CO", "NO": "NO", "OH": "OH", "H2O": "H2O",
    "NH": "NH", "NH2": "NH2", "NH3": "NH3", "CH": "CH", "CH2": "CH2_s3B1d", "CH3": "CH3",
    "CHO": "HCO",
}  # fmt: skip
#: The atom that points to the surface, by its symbol.
ANCHOR = {name: name[0] for name in ADSORBATES}
GAS = [
    "H2", "N2", "O2", "CO", "NO", "CO2", "H2O", "NH3", "CH4", "OH", "HCN", "H2CO", "C2H2", "C2H4",
    "CH3OH", "N2O", "HCOOH", "HCO", "CH3", "NH2",
]  # fmt: skip
SITES = {
    "fcc111": ["ontop", "bridge", "fcc", "hcp"],
    "fcc100": ["ontop", "bridge", "hollow"],
    "fcc211": ["ontop", "bridge", "terrace"],
    "bcc110": ["ontop", "longbridge", "shortbridge", "hollow"],
    "bcc100": ["ontop", "bridge", "hollow"],
}
HEIGHT = {"ontop": 1.9, "bridge": 1.5, "shortbridge": 1.5, "longbridge": 1.3, "terrace": 1.7}
HELD_BACK = 60
#: The first tasks relax for longer; many short ones afterwards cover more starts a label.
RELAXED_LONG = 200


@dataclass(frozen=True)
class Task:
    """A start, how many steps to relax it, and what it is."""

    name: str
    atoms: Atoms
    steps: int
    split: str = "train"


def facets(metal: str) -> list[str]:
    """Names of the surfaces of a metal."""
    return ["bcc110", "bcc100"] if metal == "Mo" else ["fcc111", "fcc100", "fcc211"]


def systems() -> list[tuple[str, str, str]]:
    """All (metal, facet, adsorbate), in one fixed random order: the first are held back."""
    every = [(m, f, a) for m in LATTICE for f in facets(m) for a in ADSORBATES]
    order = np.random.default_rng(8).permutation(len(every))
    return [every[i] for i in order]


def held_back() -> list[tuple[str, str, str]]:
    """Systems that no training structure contains."""
    return systems()[:HELD_BACK]


def slab(
    metal: str, facet: str, size: tuple[int, int, int], a: float, orthogonal: bool = False
) -> Atoms:
    """A slab with 7 Angstrom of vacuum on either side and its lowest layer fixed."""
    if facet == "fcc211":
        atoms = fcc211(metal, (3, size[1], 3), a=a, vacuum=7.0)
    elif facet == "fcc111":
        atoms = fcc111(metal, size, a=a, vacuum=7.0)
    elif facet == "fcc100":
        atoms = fcc100(metal, size, a=a, vacuum=7.0)
    elif facet == "bcc110":
        atoms = bcc110(metal, size, a=a, vacuum=7.0)
    else:
        atoms = bcc100(metal, size, a=a, vacuum=7.0)
    atoms.pbc = (True, True, False)
    z = atoms.positions[:, 2]
    atoms.set_constraint(FixAtoms(mask=z < z.min() + 0.6))
    return atoms


def site_position(atoms: Atoms, facet: str, site: str, rng: np.random.Generator) -> np.ndarray:
    """A point of the surface: x, y and the height of the metal below it."""
    z = atoms.positions[:, 2]
    if facet != "fcc211":
        info = atoms.info["adsorbate_info"]
        cell = np.asarray(info["cell"])
        xy = (np.asarray(info["sites"][site]) + rng.integers(0, 2, 2)) @ cell
        return np.array([*xy, z.max()])

    edge = atoms.positions[z > z.max() - 0.1]
    point = edge[0].copy()
    if site == "bridge":
        point[1] += 0.5 * atoms.cell[1, 1] / len(edge)
    elif site == "terrace":
        lower = atoms.positions[(z < z.max() - 0.3) & (z > z.max() - 1.4)]
        point = lower[rng.integers(len(lower))].copy()
        point[:2] += rng.normal(0, 0.7, 2)

    return point


def fragment(name: str, rng: np.random.Generator | None = None) -> Atoms:
    """The adsorbate with its anchor at the origin and the rest above, turned at random."""
    found = Atoms(name) if len(name) == 1 else molecule(ADSORBATES[name])
    anchor = found.symbols.index(ANCHOR[name])
    found.positions -= found.positions[anchor]
    if len(found) > 1:
        rest = np.delete(found.positions, anchor, 0).mean(0)
        if np.linalg.norm(rest) > 0.05:
            found.rotate(rest, (0, 0, 1))
    if rng is not None:
        found.rotate(rng.uniform(0, 360), "z")
        if rng.random() < 0.4:
            found.rotate(rng.uniform(-70, 70), "xy"[rng.integers(2)])
    found.set_initial_magnetic_moments(None)
    return found


def covered(
    metal: str, facet: str, adsorbate: str, site: str, size: tuple[int, int, int],
    rng: np.random.Generator, *, wild: bool,
) -> Atoms:  # fmt: skip
    """A slab with one adsorbate; ``wild`` strains the lattice and turns and lifts the adsorbate."""
    a = LATTICE[metal] * (rng.uniform(0.97, 1.03) if wild else 1.0)
    atoms = slab(metal, facet, size, a)
    ads = fragment(adsorbate, rng if wild else None)
    point = site_position(atoms, facet, site, rng)
    height = HEIGHT.get(site, 1.2) - (0.5 if adsorbate == "H" else 0.0)
    height = max(height, 0.7) + (
        rng.uniform(-0.2, 1.0 if rng.random() < 0.2 else 0.35) if wild else 0.0
    )
    point[2] += height
    ads.positions += point

    low = ads.positions[:, 2].min() - atoms.positions[:, 2].max()
    if low < 0.6 and facet != "fcc211":
        ads.positions[:, 2] += 0.6 - low

    tags = [0] * len(atoms) + [2] * len(ads)
    both = atoms + ads
    both.set_tags(tags)
    both.set_constraint(atoms.constraints)

    return both


def rattled(atoms: Atoms, width: float, rng: np.random.Generator) -> Atoms:
    """All atoms moved, the fixed ones too."""
    atoms = atoms.copy()
    atoms.positions += rng.normal(0, width, (len(atoms), 3))
    return atoms


def mixed(atoms: Atoms, partner: str, share: float, rng: np.random.Generator) -> Atoms:
    """A random share of the metal atoms replaced, the cell scaled to the mean atomic volume."""
    atoms = atoms.copy()
    metals = np.flatnonzero([s in LATTICE for s in atoms.symbols])
    chosen = metals[rng.random(len(metals)) < share]
    ratio = (LATTICE[partner] / LATTICE[atoms.symbols[metals[0]]]) ** (len(chosen) / len(metals))
    atoms.symbols[chosen] = partner
    if atoms.pbc.all():
        atoms.set_cell(atoms.cell * ratio, scale_atoms=True)
    return atoms


def crystal(metal: str, rng: np.random.Generator) -> Atoms:
    """A strained, rattled piece of bulk metal, in one of five an alloy of two."""
    n = [1, 2, 2][rng.integers(3)]
    atoms = bulk(metal, "bcc" if metal == "Mo" else "fcc", a=LATTICE[metal], cubic=True)
    atoms *= (n, n, 1 if rng.random() < 0.7 else n)
    if rng.random() < 0.3 and metal != "Mo":
        atoms = mixed(atoms, FCC[rng.integers(len(FCC))], rng.uniform(0.1, 0.9), rng)
    strain = np.eye(3) * (1 + rng.uniform(-0.06, 0.07)) + rng.normal(0, 0.02, (3, 3))
    atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
    if rng.random() < 0.1 and len(atoms) > 8:
        del atoms[int(rng.integers(len(atoms)))]
    return rattled(atoms, rng.choice([0.02, 0.08, 0.15, 0.25]), rng)


def slab_size(rng: np.random.Generator) -> tuple[int, int, int]:
    """Mostly 12 atoms, at times up to 27."""
    return [(2, 2, 3), (2, 2, 3), (2, 2, 3), (2, 2, 4), (3, 2, 3), (3, 3, 3)][
        rng.choice(6, p=[0.2, 0.2, 0.2, 0.2, 0.12, 0.08])
    ]


def training_task(index: int) -> Task:
    """The task of this number; the same on every machine."""
    rng = np.random.default_rng([2026, index])
    held = set(held_back())
    kind = rng.random()
    metal = list(LATTICE)[rng.integers(len(LATTICE))]
    if kind < 0.68:
        allowed = [s for s in systems() if s not in held]
        metal, facet, adsorbate = allowed[index * 7 % len(allowed)]
        sites = SITES[facet]
        size = slab_size(rng)
        if facet == "bcc110":  # its cell is not orthogonal for odd sizes; even ones are enough
            size = (2, 2, size[2])
        site = sites[rng.integers(len(sites))]
        atoms = covered(metal, facet, adsorbate, site, size, rng, wild=True)
        name = f"{metal}-{facet}-{adsorbate}-{site}"
        if rng.random() < 0.08 and metal != "Mo":
            partner = FCC[rng.integers(len(FCC))]
            banned = (partner, facet, adsorbate) in held
            if not banned:
                atoms = mixed(atoms, partner, rng.uniform(0.1, 0.5), rng)
                name = f"{metal}+{partner}-{facet}-{adsorbate}-{site}"
        atoms = rattled(atoms, rng.choice([0.02, 0.05, 0.1, 0.15]), rng)
        long, short = [4, 12, 30], [0, 3, 8, 20]
        return Task(name, atoms, int(rng.choice(long if index < RELAXED_LONG else short)))

    if kind < 0.78:
        facet = facets(metal)[rng.integers(len(facets(metal)))]
        size = (2, 2, 3) if rng.random() < 0.6 else (2, 2, 4)
        atoms = slab(metal, facet, size, LATTICE[metal] * rng.uniform(0.97, 1.03))
        atoms = rattled(atoms, rng.choice([0.02, 0.08, 0.2]), rng)
        return Task(f"{metal}-{facet}-clean", atoms, int(rng.choice([0, 6])))
    if kind < 0.92:
        return Task(f"{metal}-bulk", crystal(metal, rng), 1 if rng.random() < 0.5 else 3)

    names = [GAS[rng.integers(len(GAS))]]
    atoms = molecule(names[0])
    if rng.random() < 0.2:
        names.append(GAS[rng.integers(len(GAS))])
        other = molecule(names[1])
        other.rotate(rng.uniform(0, 360), "xyz"[rng.integers(3)])
        other.positions += rng.normal(0, 1, 3) * 0.4 + np.array([0, 0, rng.uniform(3.5, 5)])
        atoms += other

    atoms.set_initial_magnetic_moments(None)
    atoms.center(vacuum=5.0)
    return Task("gas-" + "+".join(names), rattled(atoms, rng.choice([0.02, 0.06]), rng), 6)


def test_tasks() -> list[Task]:
    """Held-back systems, relaxed from a site; their clean slabs and molecules."""
    tasks = []
    for k, (metal, facet, adsorbate) in enumerate(held_back()):
        rng = np.random.default_rng([777, k])
        site = SITES[facet][rng.integers(len(SITES[facet]))]
        atoms = covered(metal, facet, adsorbate, site, (2, 2, 3), rng, wild=False)
        atoms = rattled(atoms, 0.05, rng)
        tasks.append(Task(f"{metal}-{facet}-{adsorbate}-{site}", atoms, 100, "test"))

    for metal, facet in sorted({s[:2] for s in held_back()}):
        rng = np.random.default_rng(5)
        atoms = rattled(slab(metal, facet, (2, 2, 3), LATTICE[metal]), 0.02, rng)
        tasks.append(Task(f"{metal}-{facet}-clean", atoms, 100, "reference"))

    for name in ("H2", "H2O", "CO", "N2"):
        atoms = molecule(name)
        atoms.center(vacuum=5.0)
        tasks.append(Task(f"gas-{name}", atoms, 100, "reference"))

    return tasks
