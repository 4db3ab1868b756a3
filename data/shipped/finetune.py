"""Fine-tune the shipped model on 50 DFT structures of molybdenum: against scratch, with replay.

    python data/shipped/finetune.py MODEL.nnp MO.extxyz.xz OLD_LABELS OLD_TEST [--steps 400]

MO is the mlearn training set (DFT PBE); 50 structures are learned from, the rest tests. DFT and the
teacher count energies from different zeros: one constant an atom is fitted first and taken off.
``--close`` and ``--ewc`` are strengths of two penalties on changes of the weights, evenly and by
their importance for the old labels (whose mean is set to 1).
Prints the errors on molybdenum and on the old domain, before and after, as one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from train import CONFIG, load_frames, split
from train_losses import errors, graphs_of, loss_of

import ase_nnp
from ase_nnp import AtomGraph
from ase_nnp.training.finetune import importance, keep_close
from ase_nnp.training.graph_loader import AtomGraphDataset
from ase_nnp.training.losses import LossFunction
from ase_nnp.training.settings import Losses


def shifted(frames: list[Atoms], per_atom: float) -> list[Atoms]:
    """Copies whose energies are higher by a constant an atom."""
    made = []
    for atoms in frames:
        twin = atoms.copy()
        twin.calc = SinglePointCalculator(
            twin,
            energy=atoms.get_potential_energy() + per_atom * len(atoms),
            forces=atoms.get_forces(apply_constraint=False),
        )
        made.append(twin)
    return made


def fit(
    model: Any,
    new: list[Any],
    old: list[Any],
    steps: int,
    lr: float,
    penalty: Callable[[Any], torch.Tensor] | None = None,
    seed: int = 0,
) -> None:
    """Train on ``new``, with three of ``old`` in every batch where there are any."""
    rng = np.random.default_rng(seed)
    model.requires_grad_(True)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-6, amsgrad=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)

    for _ in range(steps):
        batch = [new[i] for i in rng.choice(len(new), 2, replace=False)]
        if old:
            batch += [old[i] for i in rng.choice(len(old), 3, replace=False)]
        loss = loss_of(model, AtomGraph.collate(batch), 5.0)
        if penalty is not None:
            loss = loss + penalty(model)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    model.eval()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("molybdenum", type=Path)
    parser.add_argument("old_train", type=Path)
    parser.add_argument("old_test", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3, help="of the batches; errors are means")
    parser.add_argument("--close", type=float, nargs="*", default=[0.1])
    parser.add_argument("--ewc", type=float, nargs="*", default=[0.1, 1.0])
    args = parser.parse_args()
    torch.set_num_threads(1)

    def start() -> Any:
        return ase_nnp.load_model(args.model, device="cpu")

    frames = read(args.molybdenum, ":")
    order = np.random.default_rng(0).permutation(len(frames))
    chosen, rest = [frames[i] for i in order[:50]], [frames[i] for i in order[50:]]
    found = ase_nnp.predict(start(), chosen, properties=("energy",), progress=False)
    offset = float(
        np.mean(
            [
                (r["energy"] - a.get_potential_energy()) / len(a)
                for r, a in zip(found, chosen, strict=True)
            ]
        )
    )
    chosen, rest = shifted(chosen, offset), shifted(rest, offset)
    old_frames = [a for a in load_frames(args.old_test, "test-*.extxyz") if "split" in a.info]
    old_frames = [a for a in old_frames if a.info["split"] == "test"][::4]
    model = start()
    new, test = graphs_of(model, chosen), graphs_of(model, rest)
    old_test = graphs_of(model, old_frames)
    replay = graphs_of(model, split(load_frames(args.old_train))[0][::3])

    mean = float(np.mean([a.get_potential_energy() / len(a) for a in chosen]))

    def scratch() -> Any:
        fresh = ase_nnp.build_model("facet", CONFIG, seed=0, device="cpu", dtype="float32")
        fresh.set_energy_scale({42: 0.0}, shift=mean)
        return fresh

    table = {"offset_eV_per_atom": round(offset, 3), "steps": args.steps}
    table["shipped, untouched"] = {"Mo": errors(model, test, 4), "old": errors(model, old_test)}
    sample = AtomGraphDataset(load_frames(args.old_train)[::50], model=start())
    model.requires_grad_(True)
    matters = importance(model, LossFunction(Losses()), [sample[i] for i in range(len(sample))])
    scale = torch.cat([v.flatten() for v in matters.values()]).mean()
    table["mean importance"] = float(scale)
    matters = {name: v / scale for name, v in matters.items()}
    model = start().requires_grad_(True)
    runs = {"scratch": (scratch, [], None), "fine-tuned": (start, [], None)}
    runs["fine-tuned with replay"] = (start, replay, None)
    for strength in args.close:
        runs[f"kept close, {strength:g}"] = (start, [], keep_close(model, strength))
    for strength in args.ewc:
        penalty = keep_close(model, strength, matters)
        runs[f"kept close by importance, {strength:g}"] = (start, [], penalty)
    for name, (begin, old, penalty) in runs.items():
        found = []
        for seed in range(args.seeds):
            begun = begin()
            rate = 5e-3 if name == "scratch" else args.lr
            fit(begun, new, old, args.steps, rate, penalty, seed)
            both = errors(begun, test, 4) + ([] if name == "scratch" else errors(begun, old_test))
            found.append(both)
            print(name, seed, both, flush=True)
        middle = np.mean(found, 0).round(2).tolist()
        table[name] = {"Mo": middle[:2], "old": middle[2:], "each": found}
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
