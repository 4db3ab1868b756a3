"""Single atoms on every site of the low-index surfaces, where a model relaxes them, by the teacher.

    python data/shipped/label_sites.py OUT_FOLDER MODEL.nnp 0 60
    python data/shipped/label_sites.py OUT_FOLDER MODEL.nnp 100 160 stepped

Which hollow is the best is a matter of 0.05 to 0.2 eV: all sites of one slab are labeled together,
unshaken or nearly so, so that a model learns their differences. Each start gives three frames: as
placed, an early step, and the end of the model's relaxation. A shard has twelve slabs. ``stepped``
takes stepped and open surfaces instead, with fragments beside the atoms and up to four sites each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
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
STEPPED = {"fcc": ["fcc211", "fcc211", "311", "fcc110", "fcc100"], "bcc": ["bcc211", "bcc110"]}
FRAGMENTS = ["H", "C", "N", "O", "O", "OH", "NH", "NH", "CH", "CO", "NO"]
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


def stepped(number: int) -> list[tuple[str, Atoms]]:
    """One atom or fragment on up to four distinct sites of one stepped or open surface."""
    rng = np.random.default_rng([2032, number])
    metal, wanted = METALS[number % len(METALS)], some(rng, FRAGMENTS)
    what = Atoms(wanted) if len(wanted) == 1 else molecule(wanted)
    what = Atoms(what.symbols, what.positions)
    # The atom that binds is the one the formula begins with.
    if what.symbols[0] != wanted[0]:
        what = what[::-1]
    what.positions -= what.positions[0]
    if len(what) > 1:
        what.rotate(what.positions[1], (0, 0, 1))

    facets = [f for f in STEPPED["bcc" if metal == "Mo" else "fcc"] if free(metal, f, what)]
    if not facets:
        return []
    facet = some(rng, facets)
    slab = clean(metal, facet, (2, 2, 4), LATTICE[metal] * (1 + rng.normal(0, 0.01)))

    found = []
    places = sites(slab)
    for k in sorted(rng.permutation(len(places))[:4]):
        turned = what.copy()
        turned.rotate(rng.uniform(0, 360), "z")
        turned.rotate(rng.uniform(-60, 60) if rng.random() < 0.5 else 0.0, "x")
        radius = radius_of(what.symbols[0], metal, rng)
        atoms = place(slab.copy(), turned, rng, radius, places[k].position[:2])
        name = f"{metal}-{facet}+{what.get_chemical_formula('hill')}:site"
        found.append((name, fixed(rattled(atoms, 0.03, rng))))
    return found


def main(out: Path, model: str, first: int, last: int, make=starts) -> None:
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
            for name, atoms in make(number):
                frames += [("site", name, frame) for frame in [atoms, *relaxed(atoms, student)]]
        frames = label(frames, "train", calc)

        save(path, frames)
        print(shard, len(frames), f"{time.process_time() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    make = stepped if sys.argv[5:] == ["stepped"] else starts
    main(Path(sys.argv[1]), sys.argv[2], *(int(a) for a in sys.argv[3:5]), make)
