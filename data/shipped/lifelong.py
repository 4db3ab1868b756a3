"""The lifelong rules on 50 DFT structures of molybdenum, beside plain replay, at equal steps.

    python data/shipped/lifelong.py MODEL.nnp MO.extxyz.xz OLD_LABELS OLD_TEST OUT.json --steps 150

The setting is that of ``finetune.py``: two structures of molybdenum and three old ones a step, a
constant an atom taken off first. ``replay`` draws evenly and takes AdamW with one cycle. The other
runs put the rules of Eckhoff and Reiher in its place one after another: ``selected`` draws both
kinds by adaptive selection, ``CoRe`` takes its optimizer, ``held`` keeps the weights close by their
importance for old labels, ``lifelong`` is all three. Errors are of molybdenum that was not learned
from, and of the old domain's test; ``--every`` thins both out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetune import shifted
from train import errors, graphs_of, loss_of, split

import ase_nnp
from ase_nnp import AtomGraph
from ase_nnp.training.adaptive_selection import AdaptiveSelection
from ase_nnp.training.core_optimizer import CoRe
from ase_nnp.training.finetune import importance, keep_close
from ase_nnp.training.graph_loader import AtomGraphDataset
from ase_nnp.training.losses import LossFunction
from ase_nnp.training.settings import Losses

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from measurement import record_option, write_measurement

#: What each run takes of selection, CoRe and importance.
RUNS = {
    "replay": "",
    "lifelong": "selection core importance",
    "selected": "selection",
    "CoRe": "core",
    "held": "importance",
}
#: The least step of a weight in CoRe.
LEAST = 1e-6
HEAD = ["", "Mo, energy", "Mo, forces", "old, energy", "old, forces"]


class Even:
    """Draws all structures with the same chance."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.rng = count, np.random.default_rng(seed)

    def draw(self, count: int) -> np.ndarray:
        """Return distinct indices."""
        return self.rng.choice(self.count, count, replace=False)

    def report(self, indices: np.ndarray, losses: list[float]) -> None:
        """Nothing is learned from it."""


def fit(
    model: Any, new: list[Any], old: list[Any], steps: int, rules: str, penalty: Any, seed: int
) -> dict[str, Any]:
    """Train in place; returns what the selection has done."""
    model.requires_grad_(True)
    model.train()
    kind = AdaptiveSelection if "selection" in rules else Even
    draws = [kind(len(new), seed=seed), kind(len(old), seed=seed + 1)]
    if "core" in rules:
        # As the cycle of AdamW begins: steps of full size would undo at once what was learned.
        optimizer = CoRe(model.parameters(), 4e-5, step_sizes=(LEAST, 1e-3), weight_decay=0.0)
        schedule = None
    else:
        rate = {"lr": 1e-3, "weight_decay": 1e-6, "amsgrad": True}
        optimizer = torch.optim.AdamW(model.parameters(), **rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)

    for step in range(steps):
        optimizer.zero_grad()
        if "core" in rules:
            # Signs of noisy gradients let steps grow to the largest: that falls, as any rate does.
            largest = 5e-4 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["step_sizes"] = (LEAST, max(LEAST, largest))
        for draw, graphs, count in zip(draws, (new, old), (2, 3), strict=True):
            picked = draw.draw(count)

            # One by one: the selection needs the loss of each.
            losses = []
            for i in picked:
                loss = loss_of(model, AtomGraph.collate([graphs[i]]), 5.0)
                (loss / 5).backward()
                losses.append(float(loss.detach()))
            draw.report(picked, losses)

        if penalty is not None and "importance" in rules:
            penalty(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        if schedule is not None:
            schedule.step()
    model.eval()
    left = [int(d.redundant.sum()) for d in draws] if "selection" in rules else None
    return {"redundant": left}


def main() -> None:
    """Write the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("molybdenum", type=Path)
    parser.add_argument("old_train", type=Path)
    parser.add_argument("old_test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ewc", type=float, default=0.1, help="strength by importance")
    parser.add_argument("--every", type=int, nargs=2, default=(1, 4), help="of the two tests")
    parser.add_argument("--old", type=int, default=1000, help="old structures to replay")
    parser.add_argument("--runs", nargs="*", default=list(RUNS))
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)

    def start() -> Any:
        return ase_nnp.load_model(args.model, device="cpu")

    model = start()
    frames = list(ase_nnp.open_dataset(args.molybdenum))
    order = np.random.default_rng(0).permutation(len(frames))
    chosen, rest = [frames[i] for i in order[:50]], [frames[i] for i in order[50:]]
    found = ase_nnp.predict(model, chosen, properties=("energy",), progress=False)
    pairs = zip(found, chosen, strict=True)
    offset = float(np.mean([(r["energy"] - a.get_potential_energy()) / len(a) for r, a in pairs]))
    chosen, rest = shifted(chosen, offset), shifted(rest[:: args.every[0]], offset)

    old_test = ase_nnp.open_dataset(args.old_test)
    old_test = [a for a in old_test if a.info.get("split", "test") == "test"][:: args.every[1]]
    old = split(list(ase_nnp.open_dataset(args.old_train)))[0]
    old = old[:: max(1, len(old) // args.old)]
    new, test = graphs_of(model, chosen), graphs_of(model, rest)
    replay, old_graphs = graphs_of(model, old), graphs_of(model, old_test)

    sample = AtomGraphDataset(old[:: max(1, len(old) // 40)], model=model)
    model.requires_grad_(True)
    matters = importance(model, LossFunction(Losses()), [sample[i] for i in range(len(sample))])
    scale = torch.cat([v.flatten() for v in matters.values()]).mean()
    penalty = keep_close(
        start().requires_grad_(True), args.ewc, {n: v / scale for n, v in matters.items()}
    )

    table: dict[str, Any] = {"steps": args.steps, "Mo test": len(test), "old": len(old)}
    table |= {"old test": len(old_graphs), "offset_eV_per_atom": round(offset, 4), "runs": []}
    table["untouched"] = errors(start(), test, 4) + errors(start(), old_graphs)
    for seed in range(args.seeds):
        for name in args.runs:
            begin = time.process_time()
            tuned = start()
            told = fit(tuned, new, replay, args.steps, RUNS[name], penalty, seed)
            used = round(time.process_time() - begin, 1)
            both = errors(tuned, test, 4) + errors(tuned, old_graphs)
            table["runs"].append({"run": name, "seed": seed, "errors": both, "cpu_s": used, **told})
            args.out.write_text(json.dumps(table, indent=1) + "\n")
            print(name, seed, both, used, told, flush=True)
    if args.record:
        rows = [["shipped, untouched", *table["untouched"]]]
        for name in args.runs:
            each = [run["errors"] for run in table["runs"] if run["run"] == name]
            rows.append([name, *np.mean(each, 0).round(2).tolist()])
        write_measurement("lifelong", HEAD, rows)


if __name__ == "__main__":
    main()
