"""Where a model trained so far goes: its relaxations and hot trajectories, labeled by the teacher.

    python data/shipped/label_paths.py OUT_FOLDER MODEL.nnp 20000 20100 [KIND ...]

Starts are those of ``wide_kinds.py`` that can relax, from numbers that single points do not use;
early steps and the end are labeled, whatever has become of them: holes are taught that way.
Some starts run as molecular dynamics at 300 to 2000 K instead. Shards as in ``label_wide.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS
from label import teacher
from label_wide import SHARD, label, save
from wide_kinds import training

from ase_nnp import NNPCalculator, StructureError

MOVING = {
    "vacancy", "interstitial", "gas", "meeting", "cluster", "slab", "adatom", "alloy-slab",
    "covered", "layer", "wrong-way", "hot", "alloy",
}  # fmt: skip
#: Crystals and gases need few paths: their single points cover them.
SELDOM = {"gas": 0.3, "alloy": 0.3, "hot": 0.5, "meeting": 0.5, "slab": 0.3}
STEPS = 30
#: Holes lie at the end of long ways: as far as ``placements.py`` goes.
FAR = 60


def relaxed(atoms: Atoms, student, steps: int = STEPS) -> list[Atoms]:
    """An early frame and the end of the student's relaxation; of a long one its middle too."""
    moving = atoms.copy()
    moving.calc = student
    path = []
    with suppress(StructureError):
        for _ in BFGS(moving, logfile=None, maxstep=0.15).irun(fmax=0.03, steps=steps):
            path.append(moving.copy())
    if not path:
        return []
    last = len(path) - 1
    wanted = {min(6, last), last} | ({last // 2} if last > STEPS else set())
    return [path[k] for k in sorted(wanted)]


def heated(atoms: Atoms, student, rng: np.random.Generator) -> list[Atoms]:
    """Two frames of the student's dynamics."""
    moving = atoms.copy()
    moving.set_constraint()
    moving.calc = student
    kelvin = rng.uniform(300, 2000)
    MaxwellBoltzmannDistribution(moving, temperature_K=kelvin, rng=rng)
    # Hydrogen needs short steps, metals alone do not.
    step = (0.5 if 1 in atoms.numbers else 3.0) * units.fs
    run = Langevin(moving, step, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng)
    found = []
    with suppress(StructureError):
        for _ in range(2):
            run.run(20)
            found.append(moving.copy())
    return [Atoms(a.symbols, a.positions, cell=a.cell, pbc=a.pbc) for a in found]


def paths(numbers: range, student, kinds: Collection[str]) -> list[tuple[str, str, Atoms]]:
    """Frames of the paths from these starts."""
    found = []
    for number in numbers:
        rng = np.random.default_rng([2029, number])
        kind, name, atoms = training(number)
        if kind not in kinds or rng.random() > SELDOM.get(kind, 1.0):
            continue
        hot = rng.random() < 0.25
        frames = heated(atoms, student, rng) if hot else relaxed(atoms, student, FAR)
        for frame in frames:
            frame.set_constraint([c for c in atoms.constraints if isinstance(c, FixAtoms)])
            found.append(("path", name, frame))
    return found


def main(out: Path, model: str, first: int, last: int, kinds: Collection[str] = MOVING) -> None:
    """Label the shards that have no file yet."""
    torch.set_num_threads(1)
    student = NNPCalculator(model, device="cpu", uncertainty=False)
    calc, start = teacher(), time.process_time()
    for shard in range(first, last):
        path = out / f"train-paths-{shard:05d}.extxyz"
        if path.exists():
            continue
        numbers = range(SHARD * shard, SHARD * (shard + 1))
        frames = label(paths(numbers, student, kinds), "train", calc)
        worst = [np.abs(a.get_forces(apply_constraint=False)).max() for a in frames]
        save(path, frames)
        holes = sum(w > 5 for w in worst)
        print(shard, len(frames), f"{holes} holes, {time.process_time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *(int(a) for a in sys.argv[3:5]), sys.argv[5:] or MOVING)
