"""Fit what tells the shipped model's doubts: expected errors, and a flag for what is very wrong.

    python data/shipped/fit_uncertainty.py MODEL.nnp --train LABELS... --threshold WIDE -o MODEL.uq

The formulas are fitted on structures that training only watched and on kinds it never had; those
same kinds (``threshold`` of ``wide_kinds.py``), which no test contains, choose when to flag.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from train import load_frames, split, trusted

import ase_nnp
from ase_nnp import uncertainty
from ase_nnp_facet.doubt_fit import add_points, fit

#: Structures of one kind that enter the formulas at most.
EACH = 100
#: Structures of each reference molecule that are kept as they are, those with the least forces.
CLOSEST = 6
#: Watched structures that are paired for the error bars of differences.
PAIRED = 400


def some_of_each(frames: list, most: int, rng: np.random.Generator) -> list:
    """At most so many of every kind, at random."""
    kinds: dict[str, list] = {}
    for k in rng.permutation(len(frames)):
        kinds.setdefault(kind_of(frames[k]), []).append(frames[k])
    return [a for found in kinds.values() for a in found[:most]]


def kind_of(atoms) -> str:
    """The kind; those of the first labels are one."""
    return str(atoms.info.get("kind", "relaxations"))


def references(frames: list) -> list:
    """Molecules that adsorption energies refer to, at their minima and closest to them."""
    found: dict[str, list] = {}
    for atoms in frames:
        if kind_of(atoms) == "reference":
            found.setdefault(atoms.info["system"], []).append(atoms)
    return [a for same in found.values() for a in sorted(same, key=strongest)[:CLOSEST]]


def strongest(atoms) -> float:
    """Largest force component, eV/Angstrom."""
    return float(np.abs(atoms.get_forces()).max())


def main() -> None:
    """Fit, say what was found, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--threshold", type=Path, required=True)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--each", type=int, default=150, help="training structures of a kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ase_nnp.load_model(args.model, device="cpu")
    rng = np.random.default_rng(1)
    train, watched = split([a for path in args.train for a in load_frames(path)])
    # Two atoms at any distance are bonded to whatever; of all others bonding is known.
    every = [a for a in train if kind_of(a) != "pair" and trusted(a)]
    # Differences are asked of what the model is for; few pairs tell little of what is shared.
    ordinary = [a for a in watched if kind_of(a) == "relaxations" and trusted(a)]
    ordinary = some_of_each(ordinary, PAIRED, np.random.default_rng(2))
    # Pairs at all distances would stretch every element's features far beyond what is sound.
    train, watched = (
        [a for a in some_of_each(frames, most, rng) if kind_of(a) != "pair" and trusted(a)]
        for frames, most in ((train, args.each), (watched, EACH))
    )
    choose = [a for a in load_frames(args.threshold) if a.info["split"] == "threshold"]
    choose = [a for a in choose if trusted(a)]
    held = watched + choose
    kinds = [kind_of(a) for a in held]
    # What the model is for, what it has seen of other kinds, and what it has not.
    groups = ["seen" if kind != "relaxations" else kind for kind in kinds[: len(watched)]]
    groups += ["unseen"] * len(choose)

    doubt = fit(model, train, held, kinds, groups, choose)
    # Also for kinds that training never had: systems it only watched are like those it trained on.
    novelty = ["seen"] * len(ordinary) + ["unseen"] * len(choose)
    uncertainty.calibrate_differences(doubt, ordinary + choose, kinds=novelty)
    known = doubt.remember_bonding(every).bonding
    add_points(doubt, references(every))
    print("bonding", known.facts(), {k: c.shape[1] for k, c in known.counts.items()})
    print("shared part of covariances", doubt.shared)
    for name, frames in (("watched", watched), ("threshold", choose)):
        found = ase_nnp.predict(doubt, frames, properties=("ood_flag",), progress=False)
        print(name, len(frames), "flagged", np.mean([bool(r["ood_flag"]) for r in found]))
    print("threshold", float(doubt.tables["threshold"]))
    for name in ("energy", "force"):
        print(name, [round(v, 3) for v in doubt.tables[name].tolist()])
    uncertainty.save_uncertainty(doubt, args.output, structures=len(train))


if __name__ == "__main__":
    main()
