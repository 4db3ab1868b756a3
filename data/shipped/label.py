"""Label the structures with SevenNet-0 (needs the ``sevenn`` package).

    python data/shipped/label.py OUT_FOLDER train 0 4000
    python data/shipped/label.py OUT_FOLDER test
    python data/shipped/label.py OUT_FOLDER settled
    python data/shipped/label.py OUT_FOLDER student 10000 10400 MODEL.nnp
    python data/shipped/label.py OUT_FOLDER gas 20000 24000

With ``settled`` the ends of the test's relaxations are nudged and relaxed again, because some may
be saddle points. With ``student`` a model trained so far relaxes slabs, and the teacher labels
three frames of each path only: more starts for the same number of labels. With ``gas`` only tasks
that are molecules count; they are one in twelve, and adsorption energies need them as references.

Each task writes one file, whole or not at all; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.optimize import BFGS
from make_structures import LATTICE, Task, test_tasks, training_task

from ase_nnp import StructureError

FMAX = 0.05
APART = 0.06  # Angstrom: the largest displacement between two frames that are kept
STRONGEST = 40.0  # eV/A: beyond, the teacher is asked nothing useful


def teacher():
    """SevenNet-0 of 11 July 2024."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator("7net-0", device="cpu")


def labeled(atoms: Atoms, task: Task) -> Atoms:
    """A copy of the frame that holds its labels."""
    forces = atoms.get_forces(apply_constraint=False)
    results = {"energy": float(atoms.get_potential_energy()), "forces": forces.astype(float)}
    if atoms.pbc.all():
        results["stress"] = np.asarray(atoms.get_stress(), float)
    frame = atoms.copy()
    frame.info = {"system": task.name, "split": task.split}
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def frames(task: Task, calc) -> list[Atoms]:
    """The frames of a relaxation that differ, first and last among them."""
    atoms = task.atoms.copy()
    atoms.info = {}
    atoms.calc = calc
    kept = [labeled(atoms, task)]
    if np.abs(kept[0].get_forces(apply_constraint=False)).max() > STRONGEST:
        return []

    if task.steps:
        run = BFGS(atoms, logfile=None, maxstep=0.15)
        for _ in run.irun(fmax=FMAX, steps=task.steps):
            moved = np.abs(atoms.positions - kept[-1].positions).max()
            if moved > APART:
                kept.append(labeled(atoms, task))
        if not np.array_equal(atoms.positions, kept[-1].positions):
            kept.append(labeled(atoms, task))
        forces = np.linalg.norm(kept[-1].get_forces(), axis=1).max()
        kept[-1].info["relaxed"] = bool(forces <= FMAX)

    return kept


def followed(task: Task, calc, student) -> list[Atoms]:
    """Start, an early step and the end of the student's path, labeled by the teacher."""
    atoms = task.atoms.copy()
    atoms.info = {}
    atoms.calc = student
    path = [atoms.copy()]
    run = BFGS(atoms, logfile=None, maxstep=0.15)

    # A student that lets two atoms collapse is taught by the frames before.
    with suppress(StructureError):
        for _ in run.irun(fmax=FMAX, steps=25):
            path.append(atoms.copy())

    kept = []
    for number in sorted({0, min(5, len(path) - 1), len(path) - 1}):
        path[number].calc = calc
        frame = labeled(path[number], task)
        if np.abs(frame.get_forces(apply_constraint=False)).max() < STRONGEST:
            kept.append(frame)

    return kept


def nudged(atoms: Atoms) -> Atoms:
    """A copy whose adsorbate is moved by 0.1 Angstrom at random, the same way each time."""
    moved = atoms.copy()
    rng = np.random.default_rng(crc32(atoms.info["system"].encode()))
    loose = np.array([s not in LATTICE for s in atoms.symbols])
    moved.positions[loose] += 0.1 * rng.standard_normal((loose.sum(), 3))
    return moved


def settle(out: Path, calc) -> None:
    """Nudge the ends of held-back relaxations, and relax them again."""
    for path in sorted(out.glob("test-[0-9]*.extxyz")):
        end, target = read(path, -1), path.with_name(f"test-settled-{path.name[5:]}")
        if end.info["split"] != "test" or target.exists():
            continue
        atoms = nudged(end)
        atoms.calc = calc
        BFGS(atoms, logfile=None, maxstep=0.15).run(fmax=FMAX, steps=100)
        frame = labeled(atoms, Task(end.info["system"], atoms, 0, "settled"))
        forces = np.linalg.norm(frame.get_forces(), axis=1).max()
        frame.info["relaxed"] = bool(forces <= FMAX)
        write(target.with_suffix(".part"), frame, format="extxyz")
        target.with_suffix(".part").replace(target)


def main(out: Path, which: str, first: int = 0, last: int = 10**9, model: str = "") -> None:
    """Label the tasks that have no file yet."""
    student = None
    if which == "student":
        from ase_nnp import NNPCalculator

        student, which = NNPCalculator(model, device="cpu"), "train"
    only = "gas-" if which == "gas" else ""
    which = "train" if only else which
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    calc, done, start = teacher(), 0, time.process_time()
    if which == "settled":
        return settle(out, calc)
    tests = test_tasks() if which == "test" else []
    for k in range(first, last if which == "train" else min(last, len(tests))):
        path = out / f"{which}-{k:05d}.extxyz"
        if path.exists():
            continue
        task = training_task(k) if which == "train" else tests[k]
        if not task.name.startswith(only):
            continue
        if student is None:
            found = frames(task, calc)
        elif "-fcc" in task.name or "-bcc" in task.name:
            found = followed(task, calc, student)
        else:
            continue  # crystals and molecules need no path
        done += len(found)
        if found:
            write(path.with_suffix(".part"), found, format="extxyz")
            path.with_suffix(".part").replace(path)
        if k % 20 == 0:
            print(k, task.name, done, f"{time.process_time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    limits = [int(a) for a in sys.argv[3:5]]
    main(Path(sys.argv[1]), sys.argv[2], *limits, *sys.argv[5:])
