"""Elastic constants of nine metals at strains of 0.2 %, each at its own lattice constant.

    python data/shipped/elastic.py MODEL.nnp [-o report.json]

From the stress, by central differences. The curvature beneath a norm that blows up what vanishes by
symmetry shows here first.
"""

from __future__ import annotations

import numpy as np
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from make_structures import LATTICE
from measure import GPA, arguments, both, store

STRAIN = 2e-3


def constants(metal: str, calc) -> dict[str, float]:
    """C11, C12, C44 in GPa and the lattice constant in Angstrom."""
    atoms = bulk(metal, "bcc" if metal == "Mo" else "fcc", a=LATTICE[metal], cubic=True)
    atoms.calc = calc
    BFGS(FrechetCellFilter(atoms, hydrostatic_strain=True), logfile=None).run(fmax=1e-4, steps=60)
    slopes = {}

    for name, (i, j) in {"xx": (0, 0), "yz": (1, 2)}.items():
        stresses = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += 0.5 * sign * STRAIN
            strain[j, i] += 0.5 * sign * STRAIN
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ strain, scale_atoms=True)
            moved.calc = calc
            stresses.append(moved.get_stress(voigt=True))
        slopes[name] = (stresses[0] - stresses[1]) / (2 * STRAIN) * GPA

    found = {"C11": slopes["xx"][0], "C12": slopes["xx"][1], "C44": slopes["yz"][3]}
    rounded = {k: round(float(v), 1) for k, v in found.items()}
    return {"a": round(float(atoms.cell[0, 0]), 4), **rounded}


def main() -> None:
    """Both models, and the largest deviation of each metal."""
    args = arguments(__doc__)
    table = both(args, "elastic", LATTICE, constants)
    off = {}
    for metal in LATTICE:
        own, theirs = table["model"][metal], table["teacher"][metal]
        gaps = [abs(own[c] - theirs[c]) / abs(theirs[c]) for c in ("C11", "C12", "C44")]
        off[metal] = round(max(gaps), 3)
    store(args, "elastic", {**table, "largest_relative_error": off})


if __name__ == "__main__":
    main()
