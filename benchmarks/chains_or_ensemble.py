"""Chains over the last layer beside ensembles of five, for growing sets of acetylacetone.

    python benchmarks/chains_or_ensemble.py DATA_FOLDER OUT.json --sizes 25 100 400

A small ``eeacsf`` learns the first frames of a shuffled trajectory at 300 K, five times from other
weights, in as many steps for every size. Compared are the spread of the five; four chains over the
last layer of the first one, with the noise that they sample; and such chains in each of the five.
R-hat is that of the layer's weights and of the noise; predictions are linear in the weights. 40
other frames give one factor on each way's standard deviations; 40 frames at 300 K and 40 at 600 K
judge. What OUT.json holds is not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import read
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.models.predictor import Predictor
from ase_nnp.training import Settings, fit
from ase_nnp.uncertainty.sampling.last_layer import run_last_layer_chains
from ase_nnp.uncertainty.sampling.store import members_from_samples
from ase_nnp.uncertainty.statistics import metrics as met
from ase_nnp.uncertainty.statistics.calibration import scale_nll
from ase_nnp.uncertainty.statistics.diagnostics import r_hat

CONFIG = {"factors": ["1", "n", "m"], "hidden": [48, 32]}
#: Expected errors of labels, eV and eV/Angstrom: the middle of the prior of the noise scales.
NOISE = {"energy": 0.02, "forces": 0.06}
HEAD = ["frames, way", "CPU s", "largest R-hat", "force RMSE, meV/Å", "90 % cover as they are"]
HEAD += ["factor", "90 % cover with it", "NLL", "ENCE"]


def trained(train: list[Any], seed: int, steps: int) -> Any:
    """Return a model in double precision after so many steps of five frames."""
    fresh = ase_nnp.build_model("eeacsf", CONFIG, seed=seed, device="cpu")
    settings = Settings(
        epochs=max(1, steps * 5 // len(train)),
        losses={"energy": {"weight": 1.0, "final_weight": 30.0}, "forces": {"weight": 1.0}},
        batch={"structures": 5},
        optimizer={"name": "muon", "lr": 5e-3},
        seed=seed,
        progress=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        return fit(fresh, train, None, settings, folder=Path(folder)).model.double()


def by_member(members, frames):
    """Forces (M, n, atoms, 3)."""
    return np.array(
        [[row["forces"] for row in Predictor(m)(frames, progress=False)] for m in members]
    )


def chains_of(
    model: Any, train: list[Any], sets: dict[str, list[Any]], keep: int, seed: int
) -> tuple[dict[str, np.ndarray], float, float]:
    """Return forces (4 keep, n, atoms, 3) by set, the variance of the noise, and R-hat."""
    drawn = run_last_layer_chains(model, train, NOISE, seed=seed)
    mixed = max(float(r_hat(s.reshape(*s.shape[:2], -1).numpy()).max()) for s in drawn.values())

    every = drawn["noise.forces"].shape[1] // keep
    members = members_from_samples(model, {k: v[:, ::every] for k, v in drawn.items()})
    noise = float(drawn["noise.forces"].square().mean())
    return {name: by_member(members, frames) for name, frames in sets.items()}, noise, mixed


def judged(values: dict[str, Any], noise: float, true: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one way from forces of its members, by set."""

    def spread(name: str) -> np.ndarray:
        # One spread for the three components of an atom's force, as in the ensembles here.
        variance = values[name].var(axis=0, ddof=1).mean(axis=-1, keepdims=True)
        return np.sqrt(np.broadcast_to(variance, true[name].shape) + noise)

    means = {name: some.mean(axis=0) for name, some in values.items()}
    factor = scale_nll(true["known"], means["known"], spread("known"))
    row: dict[str, Any] = {"factor": float(factor)}
    for name in ("cool", "hot"):
        error, std = means[name] - true[name], spread(name)
        half = 1.645 * std
        row[name] = {
            "rmse": 1e3 * float(np.sqrt(np.mean(error**2))),
            "cover": met.coverage(error, -half, half),
            "cover_with_factor": met.coverage(error, -factor * half, factor * half),
            "nll": float(met.nll_gaussian(error, 0 * error, factor * std)),
            "ence": float(met.ence(error, 0 * error, factor * std, bins=20)),
        }
    return row


def one(size: int, frames: dict[str, list[Any]], steps: int) -> list[dict[str, Any]]:
    """Return a row for each way."""
    train = frames["train"][:size]
    sets = {name: some for name, some in frames.items() if name != "train"}
    true = {name: np.array([a.get_forces() for a in some]) for name, some in sets.items()}
    rows, clock = [], time.process_time()

    def spent() -> float:
        return round(time.process_time() - clock, 1)

    models = [trained(train, seed, steps) for seed in range(1)]
    single = spent()
    models += [trained(train, seed, steps) for seed in range(1, 5)]
    five = spent()
    values = {name: by_member(models, some) for name, some in sets.items()}
    rows.append({"way": "ensemble of five", "cpu_s": five, **judged(values, 0.0, true)})

    # Few samples of each of five models, more of one: as many members in both.
    before = spent()
    values, noise, mixed = chains_of(models[0], train, sets, 5, seed=0)
    row = {"way": "chains, one model", "cpu_s": round(single + spent() - before, 1)}
    rows.append(row | {"r_hat": mixed, "noise": noise**0.5, **judged(values, noise, true)})

    before = spent()
    parts = [chains_of(model, train, sets, 1, seed) for seed, model in enumerate(models)]
    values = {name: np.concatenate([part[0][name] for part in parts]) for name in sets}
    noise = float(np.mean([part[1] for part in parts]))
    row = {"way": "chains in each of five", "cpu_s": round(five + spent() - before, 1)}
    row |= {"r_hat": max(part[2] for part in parts), "noise": noise**0.5}
    rows.append(row | judged(values, noise, true))
    return [{"size": size, **row} for row in rows]


def cells(row: dict[str, Any]) -> list[Any]:
    """Return a row of the table, 300 / 600 K."""

    def pair(key: str, digits: str) -> str:
        return " / ".join(f"{row[name][key]:{digits}}" for name in ("cool", "hot"))

    known = [f"{row['size']}, {row['way']}", row["cpu_s"], row.get("r_hat")]
    known += [pair("rmse", ".1f"), pair("cover", ".2f"), row["factor"]]
    return [*known, pair("cover_with_factor", ".2f"), pair("nll", ".2f"), pair("ence", ".3f")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="*", default=[25, 100, 400])
    parser.add_argument("--steps", type=int, default=500)
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cold = read(args.data / "acac" / "train_300K.xyz", ":")
    order = np.random.default_rng(0).permutation(len(cold))
    parts = {"train": order[:400], "known": order[400:440], "cool": order[440:480]}
    frames = {name: [cold[i] for i in part] for name, part in parts.items()}
    hot = read(args.data / "acac" / "dev_600K.xyz", ":")
    frames["hot"] = hot[:: len(hot) // 40][:40]

    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    for size in args.sizes:
        if any(row["size"] == size for row in rows):
            continue
        rows += one(size, frames, args.steps)
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
        for row in rows[-3:]:
            print(*cells(row), sep=" | ", flush=True)
    if args.record:
        noise = {f"noise {r['size']}, {r['way']}": r["noise"] for r in rows if "noise" in r}
        write_measurement(
            "chains_or_ensemble", HEAD, [cells(r) for r in rows], values=noise, keep_others=True
        )


if __name__ == "__main__":
    main()
