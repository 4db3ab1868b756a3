"""Label the structures of ``wide_kinds.py`` with SevenNet-0, one point each.

    python data/shipped/label_wide.py OUT_FOLDER threshold
    python data/shipped/label_wide.py OUT_FOLDER wide-test
    python data/shipped/label_wide.py OUT_FOLDER train 0 200
    python data/shipped/label_wide.py OUT_FOLDER train 200 300 covered wrong-way gas

With kinds, only those of each shard are labeled. Training comes in shards of 50 structures; a
shard is written whole or not at all, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.io import write
from label import STRONGEST, labeled, teacher
from make_structures import Task
from wide_crystals import nearest
from wide_kinds import held, training

SHARD = 50
#: Below this part of the sum of covalent radii the teacher, which has no core, is not asked.
NEAREST = 0.6


def label(
    structures: Iterable[tuple[str, str, Atoms]], split: str, calc, strongest: float = STRONGEST
) -> list[Atoms]:
    """Those of the structures that the teacher can be asked about, with its answers."""
    kept = []
    for kind, name, atoms in structures:
        if nearest(atoms) < NEAREST:
            continue
        # A calculator holds on to its last structure: a fresh copy cannot be confused with it.
        atoms = atoms.copy()
        atoms.calc = calc
        frame = labeled(atoms, Task(name, atoms, 0, split))
        frame.info["kind"] = kind
        if np.abs(frame.get_forces(apply_constraint=False)).max() < strongest:
            kept.append(frame)
    return kept


def save(path: Path, frames: list[Atoms]) -> None:
    """Write whole or not at all."""
    write(path.with_suffix(".part"), frames, format="extxyz")
    path.with_suffix(".part").replace(path)


def main(out: Path, split: str, first: int = 0, last: int = 0, kinds: Collection[str] = ()) -> None:
    """Label what has no file yet."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    calc, start = teacher(), time.process_time()
    if split != "train":
        frames = label(held(split), split, calc)
        save(out / f"{split}-all.extxyz", frames)
        print(split, len(frames))
        return

    for shard in range(first, last):
        path = out / f"train-wide-{shard:05d}.extxyz"
        if path.exists():
            continue
        numbers = range(SHARD * shard, SHARD * (shard + 1))
        starts = [training(n) for n in numbers]
        frames = label([s for s in starts if not kinds or s[0] in kinds], "train", calc)
        save(path, frames)
        print(shard, len(frames), f"{time.process_time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *(int(a) for a in sys.argv[3:5]), sys.argv[5:])
