"""Oracle calls until a model relaxes well: a surrogate's rise, uncertainty and chance (GOLF).

    python benchmarks/golf.py [--seeds 1] [--rounds 3] [--per-round 8]

The oracle is EMT on cells of seven copper atoms and one of silver, the model a ``spline_eam`` that
learns 8 barely rattled cells and then relaxes strongly rattled ones. It asks at the first structure
where the energy of a Morse potential rises (or, as the best case, that of the oracle itself), where
the spread of an ensemble of two crosses a threshold, or at random. Scores are those of GOLF
(arXiv:2311.06295) on 16 other starts; the optimum is the oracle's own relaxation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.optimize import FIRE

import ase_nnp
from ase_nnp.metrics import optimization_metrics
from ase_nnp.training import Settings, fit
from ase_nnp.uncertainty import wrap
from ase_nnp.workflows.active_learning import Explorer, active_learning, label

STEPS = 60


def morse():
    return MorsePotential(epsilon=0.35, r0=2.6, rho0=4.0, rcut1=4.5, rcut2=6.0)


def cells(count: int, seed: int, size: float) -> list[Atoms]:
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True) * (1, 1, 2)
        atoms.numbers[3] = 47
        atoms.rattle(size, rng=rng)
        made.append(atoms)
    return made


def relaxed(starts: list[Atoms], calculator) -> list[Atoms]:
    ends = []
    for start in starts:
        atoms = start.copy()
        atoms.calc = calculator
        FIRE(atoms, logfile=None).run(fmax=0.02, steps=STEPS)
        twin = atoms.copy()
        twin.calc = None
        ends.append(twin)
    return ends


def energies(structures: list[Atoms]) -> list[float]:
    return [a.calc.results["energy"] for a in label(structures, EMT)]


def one(way: str, seed: int, rounds: int, per_round: int, members: int) -> list[dict]:
    tests = cells(16, 1000 + seed, 0.25)
    first, best = energies(tests), energies(relaxed(tests, EMT()))

    def train(known):
        models = []
        for number in range(members):
            config = {"elements": ["Cu", "Ag"], "cutoff": 5.0, "num_r": 25}
            fresh = ase_nnp.build_model("spline_eam", config, seed=10 * seed + number, device="cpu")
            settings = Settings(
                epochs=max(10, 400 // len(known)),
                batch={"structures": 4},
                optimizer={"lr": 2e-2},
                seed=number,
                progress=False,
            )
            with tempfile.TemporaryDirectory() as folder:
                models.append(fit(fresh, known, None, settings, folder=Path(folder)).model)
        return wrap("ensemble", models, mode="sequential") if members > 1 else models[0]

    def measure(model):
        ends = relaxed(tests, ase_nnp.NNPCalculator(model.unwrapped))
        return optimization_metrics(first, energies(ends), best)

    surrogate = {"surrogate": morse, "oracle as surrogate": EMT}.get(way)
    explorer = Explorer(kind="relax", steps=STEPS, threshold=0.3, surrogate=surrogate)
    return active_learning(
        train,
        label(cells(8, seed, 0.03), EMT),
        cells(per_round, 500 + seed, 0.25),
        EMT,
        explorer,
        rounds=rounds,
        per_round=per_round,
        select="random" if way == "random" else "uncertain",
        measure=measure,
        seed=seed,
    ).rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-round", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for way in ("surrogate", "random", "oracle as surrogate", "uncertainty"):
        begin = time.process_time()
        for seed in range(args.seeds):
            members = 2 if way == "uncertainty" else 1
            for row in one(way, seed, args.rounds, args.per_round, members):
                scores = ", ".join(
                    f"{k} {row[k]:.3g}" for k in ("pct_T", "pct_div", "E_res", "pct_success")
                )
                print(f"{way}, seed {seed}: {row['oracle_calls']} calls: {scores}", flush=True)
        print(f"{time.process_time() - begin:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
