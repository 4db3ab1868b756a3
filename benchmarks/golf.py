"""Oracle calls until a model relaxes well: a surrogate's rise, uncertainty and chance (GOLF).

    python benchmarks/golf.py OUT.json [--oracle emt tblite] [--rounds 3] [--per-round 8]

With EMT as the oracle a ``spline_eam`` learns 8 barely rattled cells of seven copper atoms and one
of silver and then relaxes strongly rattled ones; the surrogate is a Morse potential. With GFN2-xTB
(``pip install tblite``) an ``eeacsf`` does so with four small molecules; the surrogate is GFN1-xTB.
The model asks at the first structure where the surrogate's energy rises (or, as the best case, the
oracle's own), where the spread of an ensemble of two crosses a threshold, or at random. Scores are
those of GOLF (arXiv:2311.06295) on 16 other starts; the optimum is the oracle's own relaxation.
What OUT.json holds is not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.optimize import FIRE
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.metrics import optimization_metrics
from ase_nnp.training import Settings, fit
from ase_nnp.uncertainty import wrap
from ase_nnp.workflows.active_learning import Explorer, active_learning, label

STEPS = 60
#: The last one asks eight times as often, to see what chance needs.
WAYS = ("surrogate", "random", "oracle as surrogate", "uncertainty", "random x 8")
SCORES = ("pct_T", "pct_div", "E_res", "pct_success")


def morse():
    return MorsePotential(epsilon=0.35, r0=2.6, rho0=4.0, rcut1=4.5, rcut2=6.0)


def tight_binding(method: str):
    from tblite.ase import TBLite

    return TBLite(method=method, verbosity=0)


def cells(count: int, seed: int, size: float) -> list[Atoms]:
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True) * (1, 1, 2)
        atoms.numbers[3] = 47
        atoms.rattle(size, rng=rng)
        made.append(atoms)
    return made


def molecules(count: int, seed: int, size: float) -> list[Atoms]:
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        atoms = molecule(("CH3CH2OH", "CH3COOH", "CH3CHO", "CH3OCH3")[number % 4])
        atoms.rattle(size, rng=rng)
        made.append(atoms)
    return made


@dataclass(frozen=True)
class Problem:
    """Who knows, who guesses, who learns, and from what."""

    oracle: Callable[[], Any]
    surrogate: Callable[[], Any]
    structures: Callable[[int, int, float], list[Atoms]]
    family: str
    config: dict[str, Any]
    lr: float
    #: Rattling of what is known and of what is relaxed, Angstrom.
    sizes: tuple[float, float]


PROBLEMS = {
    "emt": Problem(
        EMT,
        morse,
        cells,
        "spline_eam",
        {"elements": ["Cu", "Ag"], "cutoff": 5.0, "num_r": 25},
        2e-2,
        (0.03, 0.25),
    ),
    "tblite": Problem(
        lambda: tight_binding("GFN2-xTB"),
        lambda: tight_binding("GFN1-xTB"),
        molecules,
        "eeacsf",
        {"factors": ["1", "n", "m"], "hidden": [48, 32]},
        5e-3,
        (0.03, 0.12),
    ),
}


def relaxed(starts: list[Atoms], calculator, steps: int = STEPS) -> list[Atoms]:
    ends = []
    for start in starts:
        atoms = start.copy()
        atoms.calc = calculator
        FIRE(atoms, logfile=None).run(fmax=0.02, steps=steps)
        twin = atoms.copy()
        twin.calc = None
        ends.append(twin)
    return ends


def one(problem: Problem, way: str, seed: int, rounds: int, per_round: int) -> list[dict]:
    tests = problem.structures(16, 1000 + seed, problem.sizes[1])
    members = 2 if way == "uncertainty" else 1

    def energies(structures: list[Atoms]) -> list[float]:
        return [a.calc.results["energy"] for a in label(structures, problem.oracle)]

    first, best = energies(tests), energies(relaxed(tests, problem.oracle(), 3 * STEPS))

    def train(known):
        models = []
        for number in range(members):
            fresh = ase_nnp.build_model(
                problem.family, problem.config, seed=10 * seed + number, device="cpu"
            )
            settings = Settings(
                epochs=max(10, 1600 // len(known)),
                batch={"structures": 4},
                optimizer={"lr": problem.lr},
                seed=number,
                progress=False,
            )
            with tempfile.TemporaryDirectory() as folder:
                models.append(fit(fresh, known, None, settings, folder=Path(folder)).model)
        return wrap("ensemble", models, mode="sequential") if members > 1 else models[0]

    def measure(model):
        ends = relaxed(tests, ase_nnp.NNPCalculator(model.unwrapped))
        return optimization_metrics(first, energies(ends), best)

    if way == "random x 8":
        per_round *= 8
    surrogate = {"surrogate": problem.surrogate, "oracle as surrogate": problem.oracle}.get(way)
    explorer = Explorer(kind="relax", steps=STEPS, threshold=0.3, surrogate=surrogate)
    return active_learning(
        train,
        label(problem.structures(8, seed, problem.sizes[0]), problem.oracle),
        problem.structures(per_round, 500 + seed, problem.sizes[1]),
        problem.oracle,
        explorer,
        rounds=rounds,
        per_round=per_round,
        select="random" if way.startswith("random") else "uncertain",
        measure=measure,
        seed=seed,
    ).rounds


HEAD = ["oracle, way, seed", "oracle calls", "pct_T", "pct_div", "E_res, eV", "pct_success"]


def lines(rows: list[dict]) -> list[list[Any]]:
    """Return a row of the table for each way, with a word for each round."""
    made = []
    for row in rows:
        columns = [" / ".join(str(r["oracle_calls"]) for r in row["rounds"])]
        for score in SCORES:
            digits = ".3f" if score == "E_res" else ".0f"
            # No mean where all diverged.
            values = [r[score] for r in row["rounds"]]
            columns.append(" / ".join("–" if v != v else f"{v:{digits}}" for v in values))
        made.append([f"{row['oracle']}, {row['way']}, {row['seed']}", *columns])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--oracle", nargs="*", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-round", type=int, default=8)
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    for oracle in args.oracle:
        for seed in range(args.seeds):
            for way in args.ways:
                key = {"oracle": oracle, "way": way, "seed": seed}
                if any(key.items() <= row.items() for row in rows):
                    continue
                begin = time.process_time()
                found = one(PROBLEMS[oracle], way, seed, args.rounds, args.per_round)
                spent = round(time.process_time() - begin, 1)
                rows.append({**key, "rounds": found, "cpu_s": spent})
                args.out.write_text(json.dumps(rows, indent=1) + "\n")
                print(*lines(rows[-1:])[0], f"{spent} CPU s", sep=" | ", flush=True)
    if args.record:
        spent = {f"CPU s, {r['oracle']}, {r['way']}, {r['seed']}": r["cpu_s"] for r in rows}
        packages = ("torch", "ase", "tblite")
        write_measurement("golf", HEAD, lines(rows), values=spent, packages=packages)


if __name__ == "__main__":
    main()
