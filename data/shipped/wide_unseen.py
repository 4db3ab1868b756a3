"""Kinds of structures that training never contains: for the threshold of a flag, and for tests."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.spacegroup import crystal
from make_structures import FCC, LATTICE, rattled
from wide_crystals import METALS, log_uniform, nearest, perfect, some
from wide_molecules import THRESHOLD_MOLECULES, in_vacuum
from wide_surfaces import adsorbate, bare, free, place, radius_of


def ceramic(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Carbides, nitrides and hydrides: rocksalt, zincblende, cesium chloride."""
    metal, other = some(rng, METALS), some(rng, ["C", "N", "H"])
    structure = some(rng, ["rocksalt", "zincblende", "cesiumchloride"])
    a = LATTICE[metal] * {"rocksalt": 1.1, "zincblende": 1.18, "cesiumchloride": 0.72}[structure]
    atoms = bulk(metal + other, structure, a=a * (1 + rng.normal(0, 0.03)))
    return f"{metal}{other}-{structure}", rattled(atoms, log_uniform(rng, 0.01, 0.15), rng)


def bulky(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Molecules that are in no training structure, and what is left of them, on a metal."""
    metal, facet, atoms = bare(rng)
    what = adsorbate(rng, names=THRESHOLD_MOLECULES)
    atoms = place(atoms, what, rng, radius_of(what.symbols[0], metal, rng) + 0.05)
    name = f"{metal}-{facet}+{what.get_chemical_formula('hill')}:bulky"
    return name, rattled(atoms, log_uniform(rng, 0.01, 0.1), rng)


def other_lattice(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Metals as simple cubic or diamond."""
    metal, structure = some(rng, METALS), some(rng, ["sc", "diamond"])
    atoms = perfect(metal, structure) * some(rng, [(1, 1, 1), (2, 1, 1)])
    atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.03)), scale_atoms=True)
    return f"{metal}-{structure}", rattled(atoms, log_uniform(rng, 0.01, 0.2), rng)


def chain(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Wires and single layers of metal, at times with H, C, N or O."""
    metal = some(rng, METALS)
    d = LATTICE[metal] / np.sqrt(2) * rng.uniform(0.9, 1.05)
    n = int(rng.integers(2, 5))
    atoms = Atoms([metal] * n, [[d * k, 0, 0] for k in range(n)], cell=[d * n, 0, 0], pbc=[1, 0, 0])
    atoms.cell[1, 1] = atoms.cell[2, 2] = 12.0
    if rng.random() < 0.5:
        atoms.set_cell([d * n, d, 12.0])
        atoms.pbc = (True, True, False)
    if rng.random() < 0.5:
        atoms += Atoms(some(rng, ["H", "C", "N", "O"]), [[d / 2, 0, 1.6]])
    return f"{metal}-chain", rattled(atoms, log_uniform(rng, 0.01, 0.2), rng)


def heap(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Atoms of up to four elements anywhere in a small cell, no two too near."""
    elements = [some(rng, [*METALS, "H", "C", "N", "O"]) for _ in range(int(rng.integers(1, 4)))]
    elements.append(some(rng, METALS))
    count = int(rng.integers(4, 9))
    volume = count * rng.uniform(12, 18)
    while True:
        volume *= 1.02  # until there is room
        side = volume ** (1 / 3)
        symbols = [some(rng, elements) for _ in range(count)]
        atoms = Atoms(symbols, rng.random((count, 3)) * side, cell=[side] * 3, pbc=True)
        if nearest(atoms) > 0.75:
            return "heap", atoms


def oxide(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Oxides: rocksalt, rutile, fluorite and cuprite."""
    metal = some(rng, METALS)
    kind = some(rng, ["rocksalt", "rutile", "fluorite", "cuprite"])
    big = 1 + (LATTICE[metal] - 3.8) / 8 + rng.normal(0, 0.02)

    if kind == "rocksalt":
        atoms = bulk(metal + "O", "rocksalt", a=4.3 * big)
    elif kind == "fluorite":
        atoms = bulk(metal + "O2", "fluorite", a=4.9 * big)
    elif kind == "rutile":
        cell = [4.55 * big, 4.55 * big, 3.1 * big, 90, 90, 90]
        places = [(0, 0, 0), (0.305, 0.305, 0)]
        atoms = crystal([metal, "O"], places, spacegroup=136, cellpar=cell)
    else:
        cell = [4.45 * big] * 3 + [90] * 3
        places = [(0.25, 0.25, 0.25), (0, 0, 0)]
        atoms = crystal([metal, "O"], places, spacegroup=224, cellpar=cell)

    atoms = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
    return f"{metal}O-{kind}", rattled(atoms, log_uniform(rng, 0.005, 0.1), rng)


def squeezed(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Slabs with an adsorbate, squeezed by 8 to 14 % of the length."""
    while True:
        metal, facet, atoms = bare(rng, metal=some(rng, FCC))
        what = adsorbate(rng)
        if free(metal, facet, what):
            break
    atoms = place(atoms, what, rng, radius_of(what.symbols[0], metal, rng))
    atoms.set_cell(atoms.cell * rng.uniform(0.86, 0.92), scale_atoms=True)
    return f"{metal}-{facet}-squeezed", rattled(atoms, 0.03, rng)


def water(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Three to six molecules of water or ammonia in a heap."""
    atoms = Atoms()
    for k in range(int(rng.integers(3, 7))):
        one = molecule(some(rng, ["H2O", "H2O", "NH3"]))
        one.rotate(rng.uniform(0, 360), rng.normal(0, 1, 3))
        one.positions += np.array([k % 2, k // 2 % 2, k // 4]) * 2.9 + rng.normal(0, 0.2, 3)
        atoms += one
    return "water", in_vacuum(rattled(atoms, 0.03, rng))
