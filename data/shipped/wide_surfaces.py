"""Surfaces and what sits on them, for the wide labels. ASE alone."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bcc110, bulk, fcc100, fcc110, fcc111, fcc211, molecule, surface
from ase.constraints import FixAtoms
from make_structures import LATTICE, held_back, rattled
from wide_crystals import HELD_PAIRS, METALS, alloyed, log_uniform, some
from wide_molecules import MOLECULES, stretched

#: A stepped surface that no training structure has.
HELD_FACETS = {"331", "bcc111"}
#: Formulas of adsorbates that no training structure has on a metal (with any of their isomers).
#: Rare ones: what people ask for daily belongs into training.
HELD_ADSORBATES = {"HN2", "HNO2", "CH2N", "CH4N", "HN3", "CN2"}
#: On these (metal, adsorbate) the full layers are in tests only.
HELD_LAYERS = {("Pt", "O"), ("Cu", "H"), ("Ni", "CO"), ("Pd", "N"), ("Ag", "O"), ("Rh", "C")}
FACETS = {
    "fcc": ["fcc111", "fcc100", "fcc110", "fcc211", "311", "331"],
    "bcc": ["bcc110", "bcc100", "bcc111", "bcc211"],
}


def clean(metal: str, facet: str, size: tuple[int, int, int], a: float) -> Atoms:
    """A slab with 6 Angstrom of vacuum on either side, without a fixed layer."""
    made = {"fcc111": fcc111, "fcc100": fcc100, "fcc110": fcc110, "bcc110": bcc110}
    if facet in made:
        atoms = made[facet](metal, size, a=a, vacuum=6.0)
    elif facet == "fcc211":
        atoms = fcc211(metal, (3, size[1], max(2, size[2] - 1)), a=a, vacuum=6.0)
    else:
        indices = tuple(int(c) for c in facet[-3:])
        crystal = bulk(metal, "bcc" if metal == "Mo" else "fcc", a=a, cubic=True)
        layers = {"311": 4, "331": 6, "bcc100": 2, "bcc111": 3, "bcc211": 3}[facet]
        atoms = surface(crystal, indices, layers, vacuum=6.0)
        atoms = atoms if len(atoms) > 10 else atoms * (1, 2, 1)
    atoms.pbc = (True, True, False)
    return Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def bare(
    rng: np.random.Generator, small: bool = False, held: bool = False, metal: str = ""
) -> tuple[str, str, Atoms]:
    """Metal, facet and a strained slab; ``small`` ones have one or two atoms a layer."""
    metal = metal or some(rng, METALS)
    facets = FACETS["bcc" if metal == "Mo" else "fcc"]
    facet = some(rng, [f for f in facets if (f in HELD_FACETS) == held])
    sizes = [(1, 1, 4), (2, 1, 3), (1, 1, 5)] if small else [(2, 2, 3), (2, 2, 3), (2, 2, 4)]
    a = LATTICE[metal] * (1 + rng.normal(0, 0.015))
    return metal, facet, clean(metal, facet, some(rng, sizes), a)


def fixed(atoms: Atoms) -> Atoms:
    """The lowest 1.2 Angstrom of the metal held, so that a student may relax the rest."""
    z = atoms.positions[:, 2]
    metal = np.array([s in LATTICE for s in atoms.symbols])
    atoms.set_constraint(FixAtoms(mask=metal & (z < z[metal].min() + 1.2)))
    return atoms


def on_top(atoms: Atoms, point: np.ndarray, radius: float) -> float:
    """Height at which a ball of ``radius`` beyond the metal's rests on the slab at ``point``."""
    images = atoms.repeat((3, 3, 1)).positions - atoms.cell[0] - atoms.cell[1]
    away = np.linalg.norm(images[:, :2] - point[:2], axis=1)
    # A small ball may fall between the atoms: then their plane holds it.
    height = np.sqrt(np.clip(radius**2 - away**2, 0.0, None))
    near = away < max(radius, away.min() + 1e-6)
    return float((images[near, 2] + height[near]).max())


def place(
    atoms: Atoms, what: Atoms, rng: np.random.Generator, radius: float, xy: np.ndarray | None = None
) -> Atoms:
    """Set the first atom of ``what`` on the slab, anywhere, so that it touches at ``radius``."""
    if xy is None:
        xy = rng.random(2) @ atoms.cell.array[:2, :2]
    what = what.copy()
    point = np.array([*xy, 0.0])
    metal = atoms[[s in LATTICE for s in atoms.symbols]]
    point[2] = on_top(metal, point, radius)
    what.positions += point - what.positions[0]

    # Nothing but the anchor may be nearer than 1.4 Angstrom: lift until that holds.
    others = np.array([i for i in range(len(what)) if i])
    for _ in range(20):
        if not len(others):
            break
        images = atoms.repeat((3, 3, 1)).positions - atoms.cell[0] - atoms.cell[1]
        gap = np.linalg.norm(what.positions[others][:, None] - images[None], axis=2).min()
        if gap > 1.4:
            break
        what.positions[:, 2] += 0.15

    return atoms + what


def radius_of(symbol: str, metal: str, rng: np.random.Generator) -> float:
    """How far an atom sits from a metal atom it touches, Angstrom, with a spread."""
    size = {"H": 1.65, "C": 1.95, "N": 1.95, "O": 2.0}.get(symbol, 2.6)
    return size + (0.1 if metal in ("Mo", "Ag", "Au") else 0.0) + rng.normal(0.05, 0.15)


def adsorbate(
    rng: np.random.Generator, held: bool = False, names: list[str] | None = None
) -> Atoms:
    """A molecule, or what is left of it without up to three hydrogens, its anchor first.

    The anchor points down. Single atoms count too, unless the molecules are named.
    """
    largest = 14 if names else 8
    while True:
        if not names and rng.random() < 0.2:
            found = Atoms(some(rng, ["H", "C", "N", "O"]))
        else:
            found = molecule(some(rng, names or MOLECULES))
        found = Atoms(found.symbols, found.positions)
        heavy = [i for i, s in enumerate(found.symbols) if s != "H"] or [0]
        anchor = some(rng, heavy)
        apart = np.linalg.norm(found.positions - found.positions[anchor], axis=1)
        bound = [i for i in np.argsort(apart) if found.symbols[i] == "H" and 0 < apart[i] < 1.3]
        gone = bound[: int(rng.integers(0, 4))] if len(found) > 2 else []
        found = found[[anchor] + [i for i in range(len(found)) if i != anchor and i not in gone]]
        formula = found.get_chemical_formula("hill")
        if len(found) <= largest and (formula in HELD_ADSORBATES) == held:
            break

    found.positions -= found.positions[0]
    if len(found) > 1:
        rest = found.positions[1:].mean(0)
        if np.linalg.norm(rest) > 0.05:
            found.rotate(rest, (0, 0, 1))
        found.rotate(rng.uniform(0, 360), "z")
        found.rotate(rng.uniform(-80, 80) if rng.random() < 0.6 else 0.0, "x")

    return found


def free(metal: str, facet: str, what: Atoms) -> bool:
    """Whether the pair is not one of the first model's held-back systems."""
    formula = what.get_chemical_formula("hill")
    for own, face, name in held_back():
        if (own, face) == (metal, facet):
            theirs = Atoms(name).get_chemical_formula("hill")
            if theirs == formula:
                return False
    return True


def slab(rng: np.random.Generator, held: bool = False) -> tuple[str, Atoms]:
    """Clean surfaces, (110), (211), (311) and stepped among them; hardly or well shaken."""
    metal, facet, atoms = bare(rng, small=rng.random() < 0.4, held=held)
    return f"{metal}-{facet}:slab", rattled(atoms, log_uniform(rng, 0.005, 0.15), rng)


def adatom(rng: np.random.Generator) -> tuple[str, Atoms]:
    """A metal atom on the surface, or missing from it."""
    metal, facet, atoms = bare(rng)
    if rng.random() < 0.5:
        del atoms[int(atoms.positions[:, 2].argmax())]
        name = f"{metal}-{facet}:missing"
    else:
        other = some(rng, [m for m in METALS if frozenset((m, metal)) not in HELD_PAIRS])
        radius = 2.55 + rng.normal(0, 0.12)
        atoms = place(atoms, Atoms(other), rng, radius)
        name = f"{metal}-{facet}+{other}:adatom"
    return name, fixed(rattled(atoms, log_uniform(rng, 0.01, 0.1), rng))


def alloy_slab(rng: np.random.Generator, held: bool = False) -> tuple[str, Atoms]:
    """A slab of two metals, half of them with an adsorbate."""
    pairs = [(a, b) for a in METALS for b in METALS if a != b]
    one, two = some(rng, [p for p in pairs if (frozenset(p) in HELD_PAIRS) == held])
    metal, facet, atoms = bare(rng, metal=one)
    atoms.pbc = True
    atoms = alloyed(atoms, two, rng.random(len(atoms)) < rng.uniform(0.1, 0.9))
    atoms.pbc = (True, True, False)
    name = f"{one}+{two}-{facet}"
    if rng.random() < 0.5:
        what = adsorbate(rng)
        if free(one, facet, what) and free(two, facet, what):
            atoms = place(atoms, what, rng, radius_of(what.symbols[0], metal, rng))
            name += "+" + what.get_chemical_formula("hill")
    return f"{name}:alloy-slab", fixed(rattled(atoms, log_uniform(rng, 0.01, 0.12), rng))


def covered(rng: np.random.Generator, held: bool = False) -> tuple[str, Atoms]:
    """An adsorbate anywhere, in any direction; every third bond stretched towards breaking."""
    metal, facet, atoms = bare(rng)
    what = adsorbate(rng, held)
    if not free(metal, facet, what):
        return covered(rng, held)
    if rng.random() < 0.33:
        what = stretched(what, rng, 0.85, 2.0)
    atoms = place(atoms, what, rng, radius_of(what.symbols[0], metal, rng))
    name = f"{metal}-{facet}+{what.get_chemical_formula('hill')}:covered"
    return name, fixed(rattled(atoms, log_uniform(rng, 0.01, 0.12), rng))


def layer(rng: np.random.Generator, held: bool = False) -> tuple[str, Atoms]:
    """Full and half layers in small cells, and two kinds together in larger ones."""
    if held:
        metal, wanted = some(rng, sorted(HELD_LAYERS))
    else:
        metal, wanted = some(rng, METALS), some(rng, ["H", "C", "N", "O", "CO", "OH", "NO", "NH"])

    one = Atoms(wanted) if len(wanted) == 1 else molecule(wanted)
    one = Atoms(one.symbols, one.positions)[:: 1 if one.symbols[0] == wanted[0] else -1]
    one.positions -= one.positions[0]

    if len(one) > 1:
        one.rotate(one.positions[1], (0, 0, 1))
    small = rng.random() < 0.6
    metal, facet, atoms = bare(rng, small=small, metal=metal)
    if not free(metal, facet, one) or ((metal, wanted) in HELD_LAYERS) != held:
        return layer(rng, held)

    area = np.linalg.norm(np.cross(atoms.cell[0], atoms.cell[1]))
    sites = max(1, round(area / (0.5 * LATTICE[metal] ** 2)))
    count = max(1, int(np.ceil(sites * some(rng, [0.5, 0.75, 1.0, 1.0]))))
    radius, start = radius_of(wanted[0], metal, rng), rng.random(2)

    for k in range(count):
        # Points spread evenly over the cell (a golden lattice), so that nothing overlaps.
        spot = (start + np.array([(k + 0.5) / count, 0.618034 * k])) % 1.0
        if sites == 4 and not atoms.cell.array[0, 1]:
            spot = (start + np.array([[0, 0], [0.5, 0.5], [0.5, 0], [0, 0.5]])[k % 4]) % 1.0
        other = one
        if not small and rng.random() < 0.2 and not held:
            other = adsorbate(rng)
            other = other if len(other) < 4 and free(metal, facet, other) else one
        atoms = place(atoms, other, rng, radius, spot @ atoms.cell.array[:2, :2])

    name = f"{metal}-{facet}+{count}{wanted}:layer"
    return name, fixed(rattled(atoms, log_uniform(rng, 0.01, 0.1), rng))


def wrong_way(rng: np.random.Generator) -> tuple[str, Atoms]:
    """Upside down, lying, pressed into the surface: where relaxations fall into holes."""
    metal, facet, atoms = bare(rng)
    what = adsorbate(rng)
    if not free(metal, facet, what):
        return wrong_way(rng)
    what.rotate(rng.uniform(0, 360), rng.normal(0, 1, 3))
    low = int(what.positions[:, 2].argmin())
    what = what[[low] + [i for i in range(len(what)) if i != low]]
    radius = radius_of(what.symbols[0], metal, rng) * rng.uniform(0.6, 0.95)
    atoms = place(atoms, what, rng, radius)
    if rng.random() < 0.2:  # beneath the surface
        atoms.positions[-len(what) :, 2] -= rng.uniform(1.0, 3.5)
    name = f"{metal}-{facet}+{what.get_chemical_formula('hill')}:wrong-way"
    return name, fixed(rattled(atoms, log_uniform(rng, 0.01, 0.1), rng))
