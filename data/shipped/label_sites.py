"""Single atoms on every site of the low-index surfaces, where a model relaxes them, by the teacher.

    python data/shipped/label_sites.py OUT_FOLDER MODEL.nnp 0 60

Which hollow is the best is a matter of 0.05 to 0.2 eV: all sites of one slab are labeled together,
unshaken or nearly so, so that a model learns their differences. Each start gives three frames: as
placed, an early step, and the end of the model's relaxation. A shard has twelve slabs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from label import teacher
from label_paths import relaxed
from label_wide import label, save
from make_structures import LATTICE, rattled
from wide_crystals import METALS, some
from wide_surfaces import clean, fixed, free, place, radius_of

from ase_nnp import NNPCalculator
from ase_nnp.workflows.adsorption import sites

SLABS = 12
#: fcc(111) decides most questions, and its two hollows differ least.
FACETS = {"fcc": ["fcc111", "fcc111", "fcc111", "fcc100", "fcc110"], "bcc": ["bcc110", "bcc100"]}
SIZES = [(2, 2, 4), (2, 2, 4), (2, 2, 3), (2, 2, 5), (3, 2, 4)]


def starts(number: int) -> list[tuple[str, Atoms]]:
    """One kind of atom on all distinct sites of one slab."""
    rng = np.random.default_rng([2031, number])
    metal, symbol = METALS[number % len(METALS)], "HCNO"[number // len(METALS) % 4]
    facets = FACETS["bcc" if metal == "Mo" else "fcc"]
    # Systems that are held back stay so.
    facets = [f for f in facets if free(metal, f, Atoms(symbol))]
    if not facets:
        return []

    facet = some(rng, facets)
    a = LATTICE[metal] * (1 + rng.normal(0, 0.01))
    slab = clean(metal, facet, some(rng, SIZES), a)

    found = []
    shake = 0.0 if rng.random() < 0.5 else 0.03
    for site in sites(slab):
        radius = radius_of(symbol, metal, rng)
        atoms = place(slab.copy(), Atoms(symbol, [(0, 0, 0)]), rng, radius, site.position[:2])
        found.append((f"{metal}-{facet}+{symbol}:site", fixed(rattled(atoms, shake, rng))))
    return found


def main(out: Path, model: str, first: int, last: int) -> None:
    """Label the shards that have no file yet."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    student = NNPCalculator(model, device="cpu", uncertainty=False)
    calc, begun = teacher(), time.process_time()

    for shard in range(first, last):
        path = out / f"train-sites-{shard:05d}.extxyz"
        if path.exists():
            continue

        frames = []
        for number in range(SLABS * shard, SLABS * (shard + 1)):
            for name, atoms in starts(number):
                frames += [("site", name, frame) for frame in [atoms, *relaxed(atoms, student)]]
        frames = label(frames, "train", calc)

        save(path, frames)
        print(shard, len(frames), f"{time.process_time() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *(int(a) for a in sys.argv[3:5]))
