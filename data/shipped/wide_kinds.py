"""Which kinds of structures are labeled, how often, and which never enter training.

A number gives one structure, the same on every machine. ``train`` kinds are learned from;
``threshold`` kinds choose when to flag; ``wide-test`` kinds are only ever tested on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import wide_crystals as crystals
import wide_molecules as molecules
import wide_surfaces as surfaces
import wide_unseen as unseen
from ase import Atoms

Make = Callable[[np.random.Generator], tuple[str, Atoms]]

TRAIN: dict[str, tuple[float, Make]] = {
    "eos": (8, crystals.eos),
    "strain": (9, crystals.strain),
    "shaken": (7, crystals.shaken),
    "wave": (4, crystals.wave),
    "vacancy": (7, crystals.vacancy),
    "interstitial": (4, crystals.interstitial),
    "alloy": (8, crystals.alloy),
    "hot": (3, crystals.hot),
    "gas": (7, molecules.gas),
    "meeting": (4, molecules.meeting),
    "cluster": (6, molecules.cluster),
    "slab": (7, surfaces.slab),
    "adatom": (4, surfaces.adatom),
    "alloy-slab": (5, surfaces.alloy_slab),
    "covered": (9, surfaces.covered),
    "layer": (9, surfaces.layer),
    "wrong-way": (6, surfaces.wrong_way),
}

#: Kinds that choose the threshold of the flag.
THRESHOLD: dict[str, Make] = {
    "ceramic": unseen.ceramic,
    "other-lattice": unseen.other_lattice,
    "gas": partial(molecules.gas, names=molecules.THRESHOLD_MOLECULES),
    "chain": unseen.chain,
    "heap": unseen.heap,
    "bulky": unseen.bulky,
}

#: Kinds for tests alone.
TEST: dict[str, Make] = {
    "oxide": unseen.oxide,
    "alloy": partial(crystals.alloy, held=True),
    "alloy-slab": partial(surfaces.alloy_slab, held=True),
    "cluster": partial(molecules.cluster, held=True),
    "gas": partial(molecules.gas, names=molecules.TEST_MOLECULES),
    "slab": partial(surfaces.slab, held=True),
    "covered": partial(surfaces.covered, held=True),
    "layer": partial(surfaces.layer, held=True),
    "squeezed": unseen.squeezed,
    "water": unseen.water,
}
EACH = {"threshold": 60, "wide-test": 45}


def training(number: int) -> tuple[str, str, Atoms]:
    """Kind, system and structure of this number."""
    rng = np.random.default_rng([2027, number])
    weights = np.array([w for w, _ in TRAIN.values()], float)
    kind = list(TRAIN)[int(rng.choice(len(TRAIN), p=weights / weights.sum()))]
    return kind, *TRAIN[kind][1](rng)


def held(split: str) -> list[tuple[str, str, Atoms]]:
    """All structures of ``threshold`` or ``wide-test``."""
    kinds, found = {"threshold": THRESHOLD, "wide-test": TEST}[split], []
    for place, (kind, make) in enumerate(kinds.items()):
        for number in range(EACH[split]):
            rng = np.random.default_rng([2028, len(split), place, number])
            found.append((kind, *make(rng)))
    return found
