"""Whether every pair of elements repels at short range, and from where.

python data/shipped/cores.py MODEL.nnp [-o report.json]
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from label_pairs import ELEMENTS, pair
from measure import arguments, store

import ase_nnp


def main() -> None:
    """Pairs that pull at 0.5 Angstrom, or whose energy ever falls inwards below half the radii."""
    args = arguments(__doc__)
    model = ase_nnp.load_model(args.model, device="cpu", dtype="float64")
    from ase.data import covalent_radii

    pulling, falling = [], []
    for one, two in combinations_with_replacement(ELEMENTS, 2):
        reach = float(covalent_radii[Atoms([one, two]).numbers].sum())
        distances = np.r_[0.5, np.linspace(0.25, 0.6 * reach, 25)]
        frames = [pair(one, two, d) for d in distances]
        found = ase_nnp.predict(model, frames, properties=("energy", "forces"), progress=False)
        forces = np.array([r["forces"][1, 2] for r in found])
        if forces[0] <= 0:
            pulling.append(f"{one}-{two}")
        if (forces[1:] <= 0).any():
            falling.append(f"{one}-{two}")
    store(args, "cores", {"pairs": 91, "pull_at_0.5": pulling, "fall_inwards_below_0.6": falling})


if __name__ == "__main__":
    main()
