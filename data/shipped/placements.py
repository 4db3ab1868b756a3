"""Atoms and molecules put where they do not belong, relaxed: does anything fall into a hole?

    python data/shipped/placements.py MODEL.nnp [--uncertainty MODEL.uq] [-o JSON] [--random 1000]

First C, N and O 1.3 Angstrom above a surface atom of nine metals; then random and upside-down
placements with numbers that no label used. A *hole* is an end where the teacher's largest force is
above 5 eV/A, or its energy more than 1 eV above the model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.optimize import BFGS
from make_structures import LATTICE
from measure import arguments, store
from wide_crystals import nearest
from wide_kinds import training
from wide_surfaces import clean, fixed

from ase_nnp import NNPCalculator, StructureError

KINDS = {"wrong-way", "covered", "layer", "adatom"}


def relax(atoms: Atoms, calc, steps: int = 60) -> Atoms:
    """A relaxed copy; what the calculator refuses is returned where it stood."""
    moving = atoms.copy()
    moving.calc = calc
    with suppress(StructureError):
        BFGS(moving, logfile=None, maxstep=0.15).run(fmax=0.05, steps=steps)
    return moving


def above_an_atom(metal: str, symbol: str) -> Atoms:
    """The symbol 1.3 Angstrom above the highest atom."""
    facet = "bcc110" if metal == "Mo" else "fcc111"
    atoms = fixed(clean(metal, facet, (2, 2, 4), LATTICE[metal]))
    top = int(atoms.positions[:, 2].argmax())
    constraint = atoms.constraints
    atoms += Atoms(symbol, [atoms.positions[top] + (0.0, 0.0, 1.3)])
    atoms.set_constraint(constraint)
    return atoms


def buried(end: Atoms) -> bool:
    """Whether the last atom is inside another's core."""
    gaps = end.get_distances(-1, range(len(end) - 1), mic=True)
    radii = covalent_radii[end.numbers]
    return bool((gaps / (radii[:-1] + radii[-1])).min() < 0.7)


def random_starts(count: int) -> Iterator[tuple[str, Atoms]]:
    """Adsorbates, adatoms and layers where chance puts them; atoms in each other's core are not."""
    number = 5_000_000
    while count:
        kind, name, atoms = training(number)
        number += 1
        if kind in KINDS and nearest(atoms) > 0.35:
            count -= 1
            yield name, atoms


def flagged(atoms: Atoms, calc) -> bool:
    """Whether the calculator doubts the structure."""
    atoms.calc = calc
    with suppress(StructureError):
        atoms.get_potential_energy()
    return bool(calc.results.get("ood_flag", False))


def judged(end: Atoms, judge) -> tuple[float, float]:
    """Largest force (eV/A) of the teacher, and its energy above the model's (eV)."""
    twin = end.copy()
    twin.calc = judge
    worst = np.abs(twin.get_forces(apply_constraint=False)).max()
    return float(worst), float(twin.get_potential_energy() - end.get_potential_energy())


def main() -> None:
    """Both parts."""
    args = arguments(__doc__, random=30)
    from label import teacher

    judge = teacher()
    # Error bars are asked for at starts and ends alone, not along the way.
    plain = NNPCalculator(args.model, device="cpu", uncertainty=False)
    calc = NNPCalculator(args.model, device="cpu", uncertainty=args.uncertainty or False)
    table: dict[str, object] = {"over_an_atom": 0, "into_the_metal": []}
    for metal in LATTICE:
        for symbol in "CNO":
            end = relax(above_an_atom(metal, symbol), plain)
            table["over_an_atom"] += 1
            if buried(end):
                table["into_the_metal"].append(f"{symbol} on {metal}")

    holes: list[dict[str, Any]] = []
    starts: Counter[str] = Counter()
    for done, (name, start) in enumerate(random_starts(args.random), 1):
        starts[kind_of(name)] += 1
        end = relax(start, plain)
        flags = [flagged(start, calc), flagged(end, calc)]
        worst, above = judged(end, judge)
        if worst > 5 or above > 1:
            hole = {"name": name, "force": round(worst, 1), "eV": round(above, 2)}
            holes.append(hole | {"flagged": flags})

        # A long hunt that is stopped leaves what it found.
        if done % 50 == 0 or done == args.random:
            store(args, "placements", table | summary(starts, holes))


def kind_of(name: str) -> str:
    """What was put on the surface: the last word of a start's name."""
    return name.rsplit(":", 1)[-1]


def summary(starts: Counter[str], holes: list[dict[str, Any]]) -> dict[str, Any]:
    """Starts and holes in all and of each kind, and how many holes were flagged when."""
    found = Counter(kind_of(hole["name"]) for hole in holes)
    return {
        "random": starts.total(),
        "holes": len(holes),
        "holes_flagged_at_start": sum(hole["flagged"][0] for hole in holes),
        "holes_flagged_at_end": sum(hole["flagged"][1] for hole in holes),
        "holes_flagged": sum(any(hole["flagged"]) for hole in holes),
        "kinds": {kind: {"random": n, "holes": found[kind]} for kind, n in sorted(starts.items())},
        "each_hole": holes,
    }


if __name__ == "__main__":
    main()
