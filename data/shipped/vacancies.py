"""Formation energy of a vacancy in cells of 107 or 53 atoms, relaxed at each model's own lattice.

    python data/shipped/vacancies.py MODEL.nnp [-o report.json]

Training has cells of at most 32 atoms.
"""

from __future__ import annotations

from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from make_structures import LATTICE
from measure import arguments, calculators, store


def formation(metal: str, calc) -> float:
    """eV, at the volume of the perfect crystal."""
    unit = bulk(metal, "bcc" if metal == "Mo" else "fcc", a=LATTICE[metal], cubic=True)
    unit.calc = calc
    BFGS(FrechetCellFilter(unit, hydrostatic_strain=True), logfile=None).run(fmax=1e-3, steps=60)
    each = unit.get_potential_energy() / len(unit)
    atoms = unit.copy() * (3, 3, 3)
    del atoms[0]
    atoms.calc = calc
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=30)
    return round(float(atoms.get_potential_energy() - len(atoms) * each), 3)


def main() -> None:
    """Both models."""
    args = arguments(__doc__)
    table = {m: {n: formation(m, c) for n, c in calculators(args).items()} for m in LATTICE}
    worst = {m: round(abs(t["model"] - t["teacher"]), 3) for m, t in table.items()}
    store(args, "vacancies", {"eV": table, "error": worst})


if __name__ == "__main__":
    main()
