"""Atoms and molecules put where they do not belong, relaxed: does anything fall into a hole?

    python data/shipped/placements.py MODEL.nnp [--uncertainty MODEL.uq] [-o report.json]

First C, N and O 1.3 Angstrom above a surface atom of nine metals; then random and upside-down
placements with numbers that no label used. A *hole* is an end where the teacher's largest force is
above 5 eV/A, or its energy more than 1 eV above the model's.
"""

from __future__ import annotations

from contextlib import suppress

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

RANDOM = 30
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


def main() -> None:
    """Both parts."""
    args = arguments(__doc__)
    from label import teacher

    judge = teacher()
    calc = NNPCalculator(args.model, device="cpu", uncertainty=args.uncertainty or False)
    table: dict[str, object] = {"over_an_atom": 0, "into_the_metal": []}
    for metal in LATTICE:
        for symbol in "CNO":
            end = relax(above_an_atom(metal, symbol), calc)
            table["over_an_atom"] += 1
            if buried(end):
                table["into_the_metal"].append(f"{symbol} on {metal}")

    number, starts = 5_000_000, []
    while len(starts) < RANDOM:
        kind, name, atoms = training(number)
        number += 1
        if kind in KINDS and nearest(atoms) > 0.35:
            starts.append((name, atoms))
    holes, flagged_start, flagged_end = [], 0, 0
    for name, start in starts:
        end = relax(start, calc)
        flags = []
        for atoms in (start, end):
            atoms.calc = calc
            with suppress(StructureError):
                atoms.get_potential_energy()
            flags.append(bool(calc.results.get("ood_flag", False)))
        twin = end.copy()
        twin.calc = judge
        worst = float(np.abs(twin.get_forces(apply_constraint=False)).max())
        above = float(twin.get_potential_energy() - end.get_potential_energy())
        if worst > 5 or above > 1:
            holes.append(
                {"name": name, "force": round(worst, 1), "eV": round(above, 2), "flagged": flags}
            )
            flagged_start += flags[0]
            flagged_end += flags[1]
    table |= {
        "random": len(starts),
        "holes": len(holes),
        "holes_flagged_at_start": flagged_start,
        "holes_flagged_at_end": flagged_end,
        "each_hole": holes,
    }
    store(args, "placements", table)


if __name__ == "__main__":
    main()
