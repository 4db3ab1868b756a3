"""Oracle calls of active learning against random selection, with EMT as the oracle.

    python benchmarks/active_learning.py --task mixed --seeds 3

Cells of seven copper atoms and one of silver; two small Facet models are trained anew in every
round. ``--task mixed``: the first set are 24 frames at 600 K, and of every four trajectories three
are such cells again and one is of another kind (a vacancy, half of it silver, compressed, a
surface), in the test as well: most of what is met is known already. ``--task hot``: the first set
are six almost perfect cells, everything else is at 1200 K: all that is met is new.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.training import Settings, fit
from ase_nnp.uncertainty import wrap
from ase_nnp.workflows.active_learning import Explorer, active_learning, label

CONFIG = {
    "species": [29, 47],
    "hidden_irreps": ["8x0e + 4x1o"],
    "outs_per_node": 8,
    "avg_num_neighbors": 18.0,
    "edge_embed": {"r_max": 4.0},
}


COMMON = ("cell",)
RARE = ("vacancy", "half", "compressed", "surface")


def cell(kind="cell"):
    """Seven copper atoms and one of silver, or another kind of structure."""
    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    atoms.numbers[[1, 3, 4, 6] if kind == "half" else [3]] = 47
    if kind == "vacancy":
        del atoms[6]
    elif kind == "compressed":
        atoms.set_cell(atoms.cell * 0.94, scale_atoms=True)
    elif kind == "surface":
        atoms.cell[2, 2] += 5.0
    return atoms


def near(count, seed, kinds=COMMON, size=0.03):
    rng, frames = np.random.default_rng(seed), []
    for k in range(count):
        atoms = cell(kinds[k % len(kinds)])
        atoms.rattle(size, rng=rng)
        frames.append(atoms)
    return frames


def hot(count, temperature, seed=0, kinds=COMMON):
    """Frames of EMT's own dynamics, as many of each kind."""
    frames = []
    for kind in kinds:
        atoms = near(1, seed, (kind,))[0]
        atoms.calc = EMT()
        rng = np.random.default_rng([seed, len(frames)])
        run = Langevin(
            atoms,
            3 * units.fs,
            temperature_K=temperature,
            friction=0.05 / units.fs,
            fixcm=False,
            rng=rng,
        )
        run.run(200)
        for _ in range(count // len(kinds)):
            run.run(25)
            frames.append(atoms.copy())
    return label(frames, EMT)


class Task(NamedTuple):
    """What is known at first, where trajectories start, what is tested, and how they run."""

    known: Callable[[int], list[Atoms]]
    starts: Callable[[int], list[Atoms]]
    test: Callable[[], list[Atoms]]
    explorer: Explorer
    common: int  # of the test, which come first


TASKS = {
    "hot": Task(
        known=lambda seed: label(near(6, seed), EMT),
        starts=lambda seed: near(4, 100 + seed),
        test=lambda: hot(40, 1200.0),
        explorer=Explorer(steps=40, threshold=0.4, temperature=1200.0, timestep=3.0, ceiling=5.0),
        common=40,
    ),
    "mixed": Task(
        known=lambda seed: hot(24, 600.0, 200 + seed),
        starts=lambda seed: near(12, 100 + seed) + near(4, 100 + seed, RARE),
        test=lambda: hot(60, 600.0) + hot(20, 600.0, kinds=RARE),
        explorer=Explorer(steps=40, threshold=0.25, temperature=600.0, timestep=3.0, ceiling=5.0),
        common=60,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=tuple(TASKS), default="mixed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=30)
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[args.task]
    test = task.test()
    true = np.concatenate([a.get_forces().ravel() for a in test])
    rare = np.arange(len(true)) >= 3 * sum(len(a) for a in test[: task.common])

    def measure(model):
        rows = ase_nnp.predict(model, test, ("forces",), progress=False)
        error = np.abs(np.concatenate([r["forces"].ravel() for r in rows]) - true)
        errors = {"forces_mae": error.mean(), "forces_rmse": np.sqrt(np.square(error).mean())}
        if rare.any():
            errors["rare_mae"] = error[rare].mean()
        return {name: round(float(value), 4) for name, value in errors.items()}

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

    found = []
    for seed in range(args.seeds):
        for select in ("uncertain", "random"):
            result = active_learning(
                train,
                task.known(seed),
                task.starts(seed),
                EMT,
                task.explorer,
                rounds=args.rounds,
                per_round=4,
                select=select,
                measure=measure,
                seed=seed,
            )
            found.append((seed, select, result.rounds))
            for row in result.rounds:
                print(json.dumps({"seed": seed, "select": select, **row}), flush=True)
    if args.record:
        record(found)


def record(found):
    """Write force errors by the number of calls, for each seed and their means."""
    words = {"uncertain": "threshold", "random": "random"}
    calls = [f"{np.mean([rows[k]['oracle_calls'] for *_, rows in found]):.0f}"
             for k in range(len(found[0][2]))]  # fmt: skip
    errors = {(seed, how): [row["forces_rmse"] for row in rows] for seed, how, rows in found}
    table = [[f"seed {seed}, {words[how]}", *values] for (seed, how), values in errors.items()]
    for how, word in words.items():
        mean = np.mean([values for (_, own), values in errors.items() if own == how], axis=0)
        table.append([f"mean, {word}", *mean])
    write_measurement("active_learning", ["", *calls], table)


if __name__ == "__main__":
    main()
