"""ENCE of ``uq.fit("auto", ...)`` on acetylacetone with enough structures to measure it.

    python benchmarks/uncertainty_ence.py DATA OUT --members 3 --draws 8

ENCE of perfect error bars on 50 frames is about 0.06 by chance, so that a bar of 0.05 can not be
judged there. Here models are trained on 150 of the 500 frames at 300 K, and of the other 350 in
each draw 50 calibrate and 300 are tested, beside 600 K. DATA holds train_300K.xyz and
dev_600K.xyz; models are kept in OUT, and those that are there are used again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from measurement import record_option, write_measurement
from uncertainty_sets import train_model
from uncertainty_shift import judged, measures

from ase_nnp import load_model, open_dataset, save_model
from ase_nnp.uncertainty import fit

TRAIN, CALIBRATE = 150, 50
SHOWN = {
    "ence": "ENCE",
    "chance": "of perfect bars",
    "forces_covered": "force intervals cover",
    "energies_covered": "energies",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU time of each training")
    parser.add_argument("--draws", type=int, default=8, help="of the frames that calibrate")
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)

    frames = list(open_dataset(args.data / "train_300K.xyz"))
    hot = list(open_dataset(args.data / "dev_600K.xyz"))
    order = np.random.default_rng(0).permutation(len(frames))
    rest, train = ([frames[i] for i in part] for part in (order[:-TRAIN], order[-TRAIN:]))
    models = [member(args, train, seed) for seed in range(args.members)]

    tables = []
    for seed in range(args.draws):
        drawn = np.random.default_rng(seed).permutation(len(rest))
        known, test = ([rest[i] for i in p] for p in (drawn[:CALIBRATE], drawn[CALIBRATE:]))
        given = {"train": train, "calibration": known}
        fitted = fit("auto", models if len(models) > 1 else models[0], **given)
        tables.append([measures([judged(fitted, part)]) for part in (test, hot)])
        print(seed, [{key: round(one[key], 3) for key in SHOWN} for one in tables[-1]], flush=True)
    if args.record:
        record(tables, len(models))


def member(args, train, seed):
    path = args.out / f"member_{seed}.nnp"
    if not path.exists():
        save_model(train_model(train, args.seconds, seed)[0], path)
    return load_model(path, device="cpu")


def record(tables, members):
    """Write the mean over draws with the least and the largest, for both temperatures."""
    head = ["bars of", *(f"{name}, {kelvin} K" for kelvin in (300, 600) for name in SHOWN.values())]
    cells = []
    for part in (0, 1):
        for key in SHOWN:
            values = np.array([table[part][key] for table in tables])
            cells.append(f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})")
    name = f"ensemble of {members}" if members > 1 else "one model"
    write_measurement("uncertainty_ence", head, [[name, *cells]], keep_others=True)


if __name__ == "__main__":
    main()
