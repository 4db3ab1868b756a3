"""Error bars of ``uq.fit("auto", ...)`` on acetylacetone, fitted at 300 K and tested at 600 K.

    python benchmarks/uncertainty_shift.py DATA model_0.nnp [model_1.nnp ...] -o table.json

DATA holds train_300K.xyz and dev_600K.xyz. The models were trained on the first 450 frames of the
shuffled 300 K set (as by ``facet_acac.py``); with several the
ensemble's spread counts as well. The other 50 calibrate and test by turns: each half calibrates
for the other, and both are judged together. ``--nothing-held-back`` fits on the training frames
alone and tests on all 50; ``--calibrate-on-all`` uses all 50 for both, so that 300 K is no test.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from measurement import record_option, write_measurement

from ase_nnp import load_model, open_dataset
from ase_nnp.models.predictor import Predictor
from ase_nnp.uncertainty import fit
from ase_nnp.uncertainty.statistics import calibration as cal
from ase_nnp.uncertainty.statistics import metrics as met

#: What the table calls the figures of one temperature.
WORDS = {
    "rmse": "force RMSE, meV/Å",
    "ence": "ENCE of force bars",
    "chance": "ENCE of perfect bars",
    "area": "miscalibration area",
    "spearman": "Spearman, atoms",
    "forces_covered": "90 % force intervals cover",
    "energies_covered": "90 % energy intervals cover",
}


def judged(fitted, frames):
    """What one set shows: errors, stds and half widths (n, 3) of forces, and two (B,) arrays."""
    rows = Predictor(fitted)(frames, progress=False)
    energy = np.array([a.get_potential_energy() for a in frames])
    ends = np.array([r["energy_interval"] for r in rows])
    return {
        "error": np.concatenate(
            [r["forces"] - a.get_forces() for r, a in zip(rows, frames, strict=True)]
        ),
        "std": np.concatenate([r["forces_std"] for r in rows]),
        "half": np.concatenate([np.ptp(r["forces_interval"], axis=0) / 2 for r in rows]),
        "inside": (ends[:, 0] <= energy) & (energy <= ends[:, 1]),
        "score": np.array([r["ood_score"] for r in rows]),
        "flag": np.array([r["ood_flag"] for r in rows]),
    }


def measures(parts):
    """Figures of one temperature, over all turns."""
    error, std, half, inside, flag = (
        np.concatenate([p[k] for p in parts]) for k in ("error", "std", "half", "inside", "flag")
    )
    norm = np.linalg.norm(error, axis=1)
    return {
        "rmse": 1e3 * float(np.sqrt((error**2).mean())),
        "ence": met.ence(error.ravel(), 0 * error.ravel(), std.ravel(), bins=20),
        "chance": met.ence_by_chance(error.ravel(), 0 * error.ravel(), std.ravel(), bins=20),
        "area": met.miscalibration_area(error.ravel(), 0 * error.ravel(), std.ravel()),
        "spearman": met.spearman(norm, std[:, 0]),
        "forces_covered": float((np.abs(error) <= half).mean()),
        "energies_covered": float(inside.mean()),
        "flagged": float(flag.mean()),
    }


def adaptive(known, hot, count=50, orders=10):
    """Coverage at 600 K after labels of ``count`` frames, in ten orders of labeling."""
    start = [known["error"] / known["half"]]
    score = np.abs(hot["error"] / hot["half"]).reshape(len(hot["score"]), -1)
    covered = []
    for seed in range(orders):
        order = np.random.default_rng(seed).permutation(len(score))
        state = cal.AdaptiveIntervals([np.abs(s) for s in start], 0.1)
        for number in order[:count]:
            state.update(score[number])
        covered.append(float(np.mean(score[order[count:]] <= state.factor())))
    return covered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--nothing-held-back", action="store_true")
    parser.add_argument("--calibrate-on-all", action="store_true")
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)

    frames = list(open_dataset(args.data / "train_300K.xyz"))
    hot = list(open_dataset(args.data / "dev_600K.xyz"))
    order = np.random.default_rng(0).permutation(len(frames))
    train, held = ([frames[i] for i in part] for part in (order[:450], order[450:]))
    turns = [(held[::2], held[1::2]), (held[1::2], held[::2])]
    if args.nothing_held_back:
        turns = [([], held)]
    if args.calibrate_on_all:
        turns = [(held, held)]

    models = [load_model(path, device="cpu") for path in args.models]
    table = {"models": args.models, "scores": [], "auroc": [], "fit_cpu_s": [], "adaptive": []}
    home, far = [], []
    for known, test in turns:
        begin = time.process_time()
        one = models if len(models) > 1 else models[0]
        fitted = fit("auto", one, train=train, calibration=known or None)
        table["fit_cpu_s"].append(time.process_time() - begin)
        home.append(judged(fitted, test))
        far.append(judged(fitted, hot))
        table["scores"].append(fitted.uq["score"])
        table["auroc"].append(met.auroc_ood(home[-1]["score"], far[-1]["score"]))
        if known:
            table["adaptive"] += adaptive(judged(fitted, known), far[-1])
    table |= {"300": measures(home), "600": measures(far)}
    text = json.dumps(table, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text)
    if args.record:
        record(table)


def record(table):
    """Write both temperatures, and what stands for the shift alone."""
    rows = [[WORDS[key], table["300"][key], table["600"][key]] for key in WORDS]
    auroc = float(np.mean(table["auroc"]))
    rows += [[f"600 K told from 300 K by `{table['scores'][0]}`, AUROC", None, auroc]]
    if table["adaptive"]:
        adapted = float(np.mean(table["adaptive"]))
        rows += [["adaptive 90 % intervals cover, after 50 labels at 600 K", None, adapted]]
    rows += [["fit, CPU s", max(table["fit_cpu_s"]), None]]
    write_measurement("uncertainty_shift", ["", "300 K", "600 K"], rows)


if __name__ == "__main__":
    main()
