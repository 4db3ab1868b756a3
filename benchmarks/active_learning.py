"""Oracle calls of active learning against random selection, with EMT as the oracle.

    python benchmarks/active_learning.py --seeds 3

A copper cell with a silver atom; the first set are six almost perfect cells, the test set hot
molecular dynamics of EMT at 1200 K. Two small Facet models are trained anew in every round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin

import ase_nnp
from ase_nnp.training import Settings, fit
from ase_nnp.training.active import Explorer, active_learning, label
from ase_nnp.uncertainty import wrap

CONFIG = {
    "species": [29, 47],
    "hidden_irreps": ["8x0e + 4x1o"],
    "outs_per_node": 8,
    "avg_num_neighbors": 18.0,
    "edge_embed": {"r_max": 4.0},
}


def cell():
    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    atoms.numbers[3] = 47
    return atoms


def near(count, seed, size=0.03):
    rng, frames = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = cell()
        atoms.rattle(size, rng=rng)
        frames.append(atoms)
    return frames


def hot(count, temperature=1200.0, seed=0):
    atoms = near(1, seed)[0]
    atoms.calc = EMT()
    rng = np.random.default_rng(seed)
    run = Langevin(
        atoms,
        3 * units.fs,
        temperature_K=temperature,
        friction=0.05 / units.fs,
        fixcm=False,
        rng=rng,
    )
    run.run(200)
    frames = []
    for _ in range(count):
        run.run(25)
        frames.append(atoms.copy())
    return label(frames, EMT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    test = hot(40)
    true = np.concatenate([a.get_forces().ravel() for a in test])

    def measure(model):
        rows = ase_nnp.predict(model, test, ("forces",), progress=False)
        error = np.concatenate([r["forces"].ravel() for r in rows]) - true
        return {
            "forces_mae": float(np.abs(error).mean()),
            "forces_p99": float(np.quantile(np.abs(error), 0.99)),
        }

    def train(known):
        settings = Settings(
            epochs=max(10, args.epochs * 20 // len(known)),
            batch={"structures": 4},
            optimizer={"name": "muon", "lr": 5e-3},
            losses={"energy": {"weight": 1.0}, "forces": {"weight": 1.0}},
            ema=0.9,
            progress=False,
        )
        members = []
        for seed in range(2):
            model = ase_nnp.build_model("facet", CONFIG, seed=seed, device="cpu")
            with tempfile.TemporaryDirectory() as folder:
                members.append(fit(model, known, None, settings, folder=Path(folder)).model)
        return wrap("ensemble", members, mode="sequential")

    for seed in range(args.seeds):
        for select in ("uncertain", "random"):
            result = active_learning(
                train,
                label(near(6, seed), EMT),
                near(4, 100 + seed),
                EMT,
                Explorer(steps=40, threshold=0.4, temperature=1200.0, timestep=3.0, ceiling=5.0),
                rounds=args.rounds,
                per_round=4,
                select=select,
                measure=measure,
                seed=seed,
            )
            for row in result.rounds:
                print(json.dumps({"seed": seed, "select": select, **row}), flush=True)


if __name__ == "__main__":
    main()
