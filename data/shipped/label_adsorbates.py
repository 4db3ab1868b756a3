"""OC20's adsorbates on every metal and facet, where a model relaxes them, labeled by the teacher.

    python data/shipped/label_adsorbates.py OUT_FOLDER MODEL.nnp 0 100 [FORMULA ...]

An adsorbate of :func:`ase_nnp.workflows.adsorption.adsorbate` is set anywhere on a slab, shaken
and relaxed by the model; an early step and the end are labeled. Formulas that ``wide_surfaces.py``
holds back stay away; FORMULA takes these alone. A shard has 20 starts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from label import teacher
from label_paths import relaxed
from label_wide import label, save
from make_structures import rattled
from wide_crystals import log_uniform, some
from wide_surfaces import HELD_ADSORBATES, bare, fixed, free, place, radius_of

from ase_nnp import NNPCalculator
from ase_nnp.workflows.adsorption import adsorbate
from ase_nnp.workflows.adsorption.adsorbate_table import ADSORBATES

#: Starts in a shard; each gives two frames.
STARTS = 20


def taught(formulas: Collection[str] = ()) -> list[str]:
    """Names of the table whose formula is not held back, or is one of these."""
    found = {name: adsorbate(name).atoms.get_chemical_formula("hill") for name in ADSORBATES}
    return [
        name
        for name, formula in found.items()
        if formula not in HELD_ADSORBATES and (not formulas or formula in formulas)
    ]


def anchored(name: str, rng: np.random.Generator) -> Atoms:
    """The adsorbate, a binding atom first and in the origin, turned and a little tilted."""
    known = adsorbate(name)
    first = int(some(rng, list(known.binding)))
    order = [first] + [i for i in range(len(known.atoms)) if i != first]
    atoms = known.atoms[order]
    atoms.positions -= atoms.positions[0]
    atoms.rotate(rng.uniform(0, 360), "z")
    if rng.random() < 0.5:
        atoms.rotate(rng.uniform(-60, 60), "x")
    return Atoms(atoms.symbols, atoms.positions)


def start(rng: np.random.Generator, names: list[str]) -> tuple[str, Atoms]:
    """A slab with one of the adsorbates, the lowest layer fixed."""
    while True:
        metal, facet, atoms = bare(rng)
        what = anchored(some(rng, names), rng)
        if free(metal, facet, what):
            break
    atoms = place(atoms, what, rng, radius_of(what.symbols[0], metal, rng))
    name = f"{metal}-{facet}+{what.get_chemical_formula('hill')}:adsorbate"
    return name, fixed(rattled(atoms, log_uniform(rng, 0.01, 0.1), rng))


def main(out: Path, model: str, first: int, last: int, formulas: Collection[str] = ()) -> None:
    """Label the shards that have no file yet."""
    torch.set_num_threads(1)
    student = NNPCalculator(model, device="cpu", uncertainty=False)
    calc, begun, names = teacher(), time.process_time(), taught(formulas)

    for shard in range(first, last):
        path = out / f"train-adsorbates-{shard:05d}.extxyz"
        if path.exists():
            continue

        frames = []
        for number in range(STARTS * shard, STARTS * (shard + 1)):
            name, atoms = start(np.random.default_rng([2030, number]), names)
            frames += [("adsorbate", name, frame) for frame in relaxed(atoms, student)]
        frames = label(frames, "train", calc)

        worst = [np.abs(a.get_forces(apply_constraint=False)).max() for a in frames]
        save(path, frames)
        holes = sum(w > 5 for w in worst)
        print(shard, len(frames), f"{holes} holes, {time.process_time() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *(int(a) for a in sys.argv[3:5]), sys.argv[5:])
