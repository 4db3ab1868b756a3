"""Formation energy of a vacancy in cells of 63 atoms, relaxed at each model's own lattice.

    python data/shipped/vacancies.py MODEL.nnp [-o report.json]

Training has cells of at most 32 atoms.
"""

from __future__ import annotations

from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from make_structures import LATTICE
from measure import arguments, both, store


def formation(metal: str, calc) -> float:
    """eV, at the volume of the perfect crystal."""
    unit = bulk(metal, "bcc" if metal == "Mo" else "fcc", a=LATTICE[metal])
    unit.calc = calc
    BFGS(FrechetCellFilter(unit, hydrostatic_strain=True), logfile=None).run(fmax=1e-3, steps=60)
    each = unit.get_potential_energy() / len(unit)
    atoms = unit.copy() * (4, 4, 4)
    del atoms[0]
    atoms.calc = calc
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=30)
    return round(float(atoms.get_potential_energy() - len(atoms) * each), 3)


def main() -> None:
    """Both models."""
    args = arguments(__doc__)
    table = both(args, "vacancies", LATTICE, formation)
    gaps = {m: round(abs(table["model"][m] - table["teacher"][m]), 3) for m in LATTICE}
    store(args, "vacancies", {**table, "error": gaps})


if __name__ == "__main__":
    main()
