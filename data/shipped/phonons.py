"""Phonons of nine metals with phonopy, 4 x 4 x 4 cells and displacements of 0.01 Angstrom.

    python data/shipped/phonons.py MODEL.nnp [-o report.json]

Needs the ``phonopy`` package. Each model at its own lattice constant.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from make_structures import LATTICE
from measure import arguments, both, store
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms


def frequencies(metal: str, calc) -> dict[str, float]:
    """Lowest, mean and highest frequency on a mesh, in THz."""
    atoms = bulk(metal, "bcc" if metal == "Mo" else "fcc", a=LATTICE[metal])
    atoms.calc = calc
    BFGS(FrechetCellFilter(atoms, hydrostatic_strain=True), logfile=None).run(fmax=1e-4, steps=60)
    unit = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
    )
    phonons = Phonopy(unit, supercell_matrix=np.eye(3) * 4, primitive_matrix=np.eye(3))
    phonons.generate_displacements(distance=0.01)
    forces = []

    for cell in phonons.supercells_with_displacements:
        one = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
        one.calc = calc
        forces.append(one.get_forces())

    phonons.forces = forces
    phonons.produce_force_constants()
    phonons.symmetrize_force_constants()
    phonons.run_mesh([12, 12, 12])
    found = phonons.mesh.frequencies
    values = {"lowest": found.min(), "mean": found.mean(), "highest": found.max()}

    return {k: round(float(v), 3) for k, v in values.items()}


def main() -> None:
    """Both models, and the metals where only the model has imaginary modes."""
    args = arguments(__doc__)
    table = both(args, "phonons", LATTICE, frequencies)
    own, theirs = table["model"], table["teacher"]
    bad = [m for m in LATTICE if own[m]["lowest"] < -0.1 <= theirs[m]["lowest"]]
    store(args, "phonons", {**table, "imaginary_where_the_teacher_has_none": bad})


if __name__ == "__main__":
    main()
