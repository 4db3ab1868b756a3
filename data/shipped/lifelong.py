"""The lifelong rules on 50 DFT structures of molybdenum, beside plain replay, at equal steps.

    python data/shipped/lifelong.py MODEL.nnp MO.extxyz.xz OLD_LABELS OLD_TEST OUT.json --steps 150

The setting is that of ``finetune.py``: two structures of molybdenum and three old ones a step, a
constant an atom taken off first. ``replay`` draws evenly and takes AdamW with one cycle. The other
runs put the rules of Eckhoff and Reiher in its place one after another: ``selected`` draws both
kinds by adaptive selection, ``CoRe`` takes its optimizer, ``held`` keeps the weights close by their
importance for old labels, ``lifelong`` is all three. ``averaged`` runs select among the new alone
and end with the exponential average of the weights, as ``fit`` does. Errors are of molybdenum that
was not learned from, and of the old domain's test; ``--every`` thins both out. Runs that OUT.json
holds are not run again.
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
from train import split
from train_losses import errors, graphs_of, loss_of

import ase_nnp
from ase_nnp import AtomGraph
from ase_nnp.training.adaptive_selection import AdaptiveSelection
from ase_nnp.training.core_optimizer import CoRe
from ase_nnp.training.ema import Average
from ase_nnp.training.finetune import importance, keep_close
from ase_nnp.training.graph_loader import AtomGraphDataset
from ase_nnp.training.losses import LossFunction
from ase_nnp.training.settings import Losses

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from measurement import record_option, write_measurement

#: What each run takes of selection (of both kinds, or of the new alone), CoRe (with steps that fall
#: to the end, or as it is), importance and averaged weights, and the strength of importance.
RUNS = {
    "replay": ("", 0.0),
    "replay, averaged": ("averaged", 0.0),
    "lifelong, averaged": ("selection-new core importance averaged", 0.1),
    "CoRe": ("core", 0.0),
    "CoRe, falling steps": ("core falling", 0.0),
    "lifelong": ("selection core falling importance", 0.02),
    "lifelong, steps as they are, held at 0.1": ("selection core importance", 0.1),
    "selected": ("selection", 0.0),
    "held at 0.1": ("importance", 0.1),
}
#: The least step of a weight in CoRe, and the largest.
STEPS = (1e-6, 1e-3)
#: Of the averaged weights: the default of ``fit``.
DECAY = 0.99
HEAD = [
    "mean absolute errors, meV/atom, meV/Å",
    "Mo, energy",
    "Mo, forces",
    "old, energy",
    "old, forces",
]


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
) -> tuple[Any, dict[str, Any]]:
    """Train in place; returns the model to keep, and what the selection has done."""
    model.requires_grad_(True)
    model.train()
    kinds: list[Any] = [AdaptiveSelection if "selection" in rules else Even] * 2
    if "selection-new" in rules:
        # The many ordinary old structures pay where the hard ones among them are repeated.
        kinds[1] = Even
    draws = [kinds[0](len(new), seed=seed), kinds[1](len(old), seed=seed + 1)]
    # CoRe's steps do not fall, so the last weights are one draw among many: the mean old energy of
    # such an end is off by more than that of the average.
    average = Average(model, DECAY if "averaged" in rules else 0.0)
    if "core" in rules:
        first = 4e-4 if "falling" in rules else 1e-3
        optimizer = CoRe(model.parameters(), first, step_sizes=STEPS, weight_decay=0.0)
        schedule = None
    else:
        rate = {"lr": 1e-3, "weight_decay": 1e-6, "amsgrad": True}
        optimizer = torch.optim.AdamW(model.parameters(), **rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)

    for step in range(steps):
        optimizer.zero_grad()
        if "falling" in rules:
            # Averaged gradients keep their signs, so steps grow to the largest one even where it is
            # noise that remains: it falls in the second half, as AdamW's rate does.
            late = max(0.0, 2 * step / steps - 1)
            largest = 0.5 * STEPS[1] * (1 + math.cos(math.pi * late))
            optimizer.param_groups[0]["step_sizes"] = (STEPS[0], max(STEPS[0], largest))

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
        average.update(step + 1)
    average.model.eval()
    left = [int(d.redundant.sum()) for d in draws if isinstance(d, AdaptiveSelection)]
    return average.model, {"redundant": left}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Return the table with all runs; it is written after each."""

    def start() -> Any:
        return ase_nnp.load_model(args.model, device="cpu")

    table = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    done = {(run["run"], run["seed"]) for run in table["runs"]}
    missing = [(n, s) for s in range(args.seeds) for n in args.runs if (n, s) not in done]
    if not missing:
        return table

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
    matters = {name: value / scale for name, value in matters.items()}

    if "untouched" not in table:
        table["untouched"] = errors(start(), test, 4) + errors(start(), old_graphs)
        table |= {"steps": args.steps, "offset_eV_per_atom": round(offset, 4)}
        table |= {"Mo test": len(test), "old": len(old), "old test": len(old_graphs)}
    for name, seed in missing:
        begin = time.process_time()
        rules, strength = RUNS[name]
        tuned = start()
        penalty = keep_close(start().requires_grad_(True), strength, matters)
        tuned, told = fit(tuned, new, replay, args.steps, rules, penalty, seed)
        used = round(time.process_time() - begin, 1)

        both = errors(tuned, test, 4) + errors(tuned, old_graphs)
        table["runs"].append({"run": name, "seed": seed, "errors": both, "cpu_s": used, **told})
        args.out.write_text(json.dumps(table, indent=1) + "\n")
        print(name, seed, both, used, told, flush=True)
    return table


def main() -> None:
    """Run what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("molybdenum", type=Path)
    parser.add_argument("old_train", type=Path)
    parser.add_argument("old_test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--every", type=int, nargs=2, default=(1, 4), help="of the two tests")
    parser.add_argument("--old", type=int, default=1000, help="old structures to replay")
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)

    table = measured(args)
    if args.record:
        rows = [["shipped, untouched", *table["untouched"]]]
        for name in args.runs:
            each = [run["errors"] for run in table["runs"] if run["run"] == name]
            rows.append([name, *np.mean(each, 0).round(2).tolist()])
        sizes = {key: table[key] for key in ("steps", "Mo test", "old", "old test")}
        write_measurement("lifelong", HEAD, rows, values=sizes)


if __name__ == "__main__":
    main()
