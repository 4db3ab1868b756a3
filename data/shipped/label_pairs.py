"""All pairs of elements from 0.3 Angstrom on: the teacher, and nuclei where it has no say.

    python data/shipped/label_pairs.py OUT_FOLDER

The teacher has no repulsive core, so that towards short distances its energy fades into that of
two free atoms plus the screened nuclear repulsion, with the switch ``s`` of the ZBL potential:
``E = (1 - s) E_teacher + s (E_free + E_ZBL)``; forces are its gradient.
"""

from __future__ import annotations

import sys
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from label import teacher
from label_wide import save
from make_structures import LATTICE

import ase_nnp

ELEMENTS = ["H", "C", "N", "O", *LATTICE]
#: The smallest and the largest distance in Angstrom, and how many between, closer together inside.
SHORTEST, LONGEST, COUNT = 0.3, 4.9, 24


def pair(one: str, two: str, d: float) -> Atoms:
    """Two atoms in vacuum."""
    return Atoms([one, two], [[0, 0, 0], [0, 0, d]])


def curve(one: str, two: str, calc, core, free: float) -> list[Atoms]:
    """Labeled pairs of one kind."""
    reach = float(covalent_radii[pair(one, two, 1.0).numbers].sum())
    found = []
    for d in SHORTEST * (LONGEST / SHORTEST) ** np.linspace(0, 1, COUNT):
        atoms = pair(one, two, d)
        atoms.calc = calc
        energy, force = atoms.get_potential_energy(), atoms.get_forces()[1, 2]

        # Value and slope of the switch, and the plain repulsion behind it.
        r = torch.tensor([d], dtype=torch.float64, requires_grad=True)
        z = torch.tensor(atoms.numbers)
        plain, switch = core.pair(z[:1], z[1:], r), core.switch(r / reach)
        blend = (1 - switch) * (energy - force * (r - d)) + switch * (free + plain)
        slope = torch.autograd.grad(blend.sum(), r)[0]

        twin = pair(one, two, d)
        forces = np.zeros((2, 3))
        forces[:, 2] = (float(slope), -float(slope))
        twin.calc = SinglePointCalculator(twin, energy=float(blend.detach()), forces=forces)
        twin.info = {"system": f"{one}-{two}:pair", "split": "train", "kind": "pair"}
        found.append(twin)
    return found


def main(out: Path) -> None:
    """Label all pairs."""
    torch.set_num_threads(1)
    calc = teacher()
    core = ase_nnp.build_model("zbl", dtype="float64", device="cpu")
    alone = {}

    for symbol in ELEMENTS:
        far = pair(symbol, symbol, 20.0)
        far.calc = calc
        alone[symbol] = far.get_potential_energy() / 2

    frames = []
    for one, two in combinations_with_replacement(ELEMENTS, 2):
        found = curve(one, two, calc, core, alone[one] + alone[two])
        inward = [
            round(a.get_distance(0, 1), 2)
            for a in found
            if a.get_forces()[1, 2] < 0
            and a.get_distance(0, 1) < 0.8 * float(covalent_radii[a.numbers].sum())
        ]
        if inward:
            print(one, two, "pulled inwards at", inward, flush=True)
        frames += found

    save(out / "train-pairs.extxyz", frames)
    print(len(frames))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
