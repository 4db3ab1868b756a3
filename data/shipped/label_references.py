"""Molecules that adsorption energies refer to, and perfect crystals strained and displaced.

    python data/shipped/label_references.py OUT_FOLDER

An adsorption energy holds its gas's energy in full, so a few dozen small molecules are labeled
near their minima, closely and often. Elastic constants are second derivatives: every metal's
cell under all kinds of small strain, up to 2 %, at its own lattice constant and beside it. Soft
shears are labeled more often.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.optimize import BFGS
from label import teacher
from label_wide import label, save
from wide_crystals import METALS, perfect
from wide_molecules import in_vacuum

GASES = ["H2", "H2O", "CO", "N2", "NH3", "CH4", "CO2", "NO", "O2", "CH3OH", "H2CO", "HCN", "C2H2",
         "C2H4", "C2H6", "N2O", "H2O2", "HCOOH", "N2H4"]  # fmt: skip
#: Structures near each molecule's minimum, and near each metal's.
GAS_COUNT, CRYSTAL_COUNT = 16, 30
#: Shears of each metal whose C44 is so small that a sixth of it takes more of them.
SHEARS = {"Mo": 150, "Au": 30}


def gases(calc, rng: np.random.Generator) -> list[tuple[str, str, Atoms]]:
    """Each molecule at the teacher's minimum, and shaken by 0.003 to 0.1 Angstrom."""
    found = []
    for name in GASES:
        atoms = in_vacuum(molecule(name))
        atoms.calc = calc
        BFGS(atoms, logfile=None).run(fmax=0.005, steps=200)
        for amount in [0.0, *np.geomspace(0.003, 0.1, GAS_COUNT - 1)]:
            moved = in_vacuum(atoms)
            moved.rotate(rng.uniform(0, 360), rng.normal(size=3), center="COM")
            moved.positions += rng.normal(0, amount, moved.positions.shape)
            found.append(("reference", f"{name}:reference", moved))
    return found


def crystals(rng: np.random.Generator) -> list[tuple[str, str, Atoms]]:
    """Each metal's primitive cell under random small strains."""
    found = []
    for metal in METALS:
        start = perfect(metal)
        for size in np.geomspace(0.001, 0.02, CRYSTAL_COUNT):
            strain = rng.normal(size=(3, 3))
            strain = (strain + strain.T) / 2
            # Half of them keep their volume, which decides C44 and C11 - C12.
            if rng.random() < 0.5:
                strain -= np.eye(3) * np.trace(strain) / 3
            strain *= size / np.abs(strain).max()
            atoms = start.copy()
            scale = 1 + rng.normal(0, 0.004)
            atoms.set_cell(atoms.cell @ (np.eye(3) + strain) * scale, scale_atoms=True)
            found.append(("crystal", f"{metal}:crystal", atoms))

    return found


def shears(rng: np.random.Generator) -> list[tuple[str, str, Atoms]]:
    """Cells of soft metals, sheared along and across the cube's axes by 0.1 to 4 %."""
    found = []
    for metal, count in SHEARS.items():
        start = perfect(metal)
        for size in np.geomspace(0.001, 0.04, count):
            strain = np.zeros((3, 3))
            pairs = [(0, 1), (0, 2), (1, 2)]
            for i, j in pairs if rng.random() < 0.5 else [pairs[rng.integers(3)]]:
                strain[i, j] = strain[j, i] = rng.uniform(-1, 1)
            strain *= size / np.abs(strain).max()
            atoms = start.copy()
            scale = 1 + rng.normal(0, 0.003)
            atoms.set_cell(atoms.cell @ (np.eye(3) + strain) * scale, scale_atoms=True)
            found.append(("crystal", f"{metal}:shear", atoms))
    return found


def main(out: Path) -> None:
    """Label all."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    calc, rng = teacher(), np.random.default_rng(2030)
    frames = label(gases(calc, rng) + crystals(rng), "train", calc)
    save(out / "train-references.extxyz", frames)
    # A stream of their own: what was labeled before stays as it is.
    soft = label(shears(np.random.default_rng(2032)), "train", calc)
    save(out / "train-shears.extxyz", soft)
    print(len(frames) + len(soft))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
