"""Error bars on acetylacetone at 300 K and, shifted, at 600 K: the whole table from one script.

    python benchmarks/uncertainty_acac.py DATA OUT --family facet --epochs 40

DATA holds train_300K.xyz and dev_600K.xyz. Of the shuffled 300 K frames 400 train the members; the
other 100 calibrate and test by turns (each half calibrates for the other), unless --test names
another file. Members, chains and predictions are kept in OUT and used again; --seeds, --chains
and --only make some of them, so that several processes can share the work.
Writes OUT/table.json and prints the table.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from ase.io import read
from measurement import record_option, write_measurement
from small_training import follow, set_rate, take_step
from uncertainty_acac_scores import cheap_auroc, draw, measures

from ase_nnp import AtomGraph, build_model, load_model, save_model
from ase_nnp.models.predictor import Predictor
from ase_nnp.training.optimizers import muon_with_adamw
from ase_nnp.uncertainty.evaluation import structure_scores_of
from ase_nnp.uncertainty.fitting import wrap
from ase_nnp.uncertainty.sampling.chains import ChainSettings, run_chain
from ase_nnp.uncertainty.sampling.store import load_samples, members_from_samples, save_samples
from ase_nnp.uncertainty.statistics.diagnostics import diagnose

CONFIGS = {
    "facet": {
        "species": [1, 6, 8],
        "hidden_irreps": ["32x0e + 16x1o + 8x2e"] * 2,
        "outs_per_node": 32,
        "avg_num_neighbors": 12.0,
        "edge_embed": {"r_max": 5.0},
        "rescale": {"shift_trainable": False, "global_shift_trainable": False},
    }
}


def labels(frames, kind):
    energy = torch.tensor([a.get_potential_energy() for a in frames], dtype=torch.float64)
    forces = torch.tensor(np.concatenate([a.get_forces() for a in frames]), dtype=kind)
    return energy, forces


def start_energy(model, train):
    """Shift the model's energies to the mean of the labels, through any family's own constants."""
    if hasattr(model, "set_energy_scale"):
        mean = np.mean([a.get_potential_energy() / len(a) for a in train])
        model.set_energy_scale({}, shift=float(mean), scale=1.0)


def fit_member(family, config, train, seed, epochs, batch=5, rate=5e-3):
    """Muon with a cosine schedule and averaged weights; forces first, energies growing in."""
    model = build_model(family, config, seed=seed, device="cpu").train()
    start_energy(model, train)
    graphs = [model.make_graph(a) for a in train]
    marks = [labels([a], model.dtype) for a in train]
    mean_model = copy.deepcopy(model)
    optimizers = muon_with_adamw(model.parameters(), lr=rate)
    total, step = epochs * math.ceil(len(train) / batch), 0
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(train))
        for part in np.array_split(order, math.ceil(len(train) / batch)):
            progress = step / total
            warm = min(1, (step + 1) / 50)
            set_rate(optimizers, rate * warm * 0.5 * (1 + math.cos(math.pi * progress)))
            graph = AtomGraph.collate([graphs[i] for i in part])
            energy = torch.cat([marks[i][0] for i in part])
            forces = torch.cat([marks[i][1] for i in part])
            take_step(model, optimizers, graph, energy, forces, 100**progress)
            step += 1
            follow(mean_model, model, step, 0.995)
    return mean_model.freeze()


def collect(model, frames):
    """Labels, predictions and raw stds of forces (n, atoms, 3), and scores of structures."""
    rows = Predictor(model)(frames, progress=False)
    values = {
        "true": np.array([a.get_forces() for a in frames]),
        "pred": np.array([r["forces"] for r in rows]),
        "score": structure_scores_of(rows)[1],
    }
    if "ood_scores" in rows[0]:  # the mean over atoms, as for deviations of forces; and the largest
        values["worst"] = values["score"]
        values["score"] = np.array([r["ood_scores"].mean() for r in rows])
    if "forces_std" in rows[0]:
        values["std"] = np.array([r["forces_std"] for r in rows])
    if "energies_std" in rows[0]:
        values["atoms"] = np.array([r["energies_std"].max() for r in rows])
        values["total"] = np.array([r["energy_std"] for r in rows])
    return values


def kept(path, make):
    """Arrays in a file, made once."""
    if not path.exists():
        part = path.with_suffix(".part.npz")
        np.savez(part, **make())
        part.replace(path)
    with np.load(path) as stored:
        return dict(stored)


def methods(members, train, noise):
    """Functions that fit each method, by name; what a name needs of ``members`` must be there."""
    single = {"train": train, "noise": noise}

    def ensemble(count):
        return lambda: wrap("ensemble", members[:count], mode="sequential")

    def last_layer(**options):
        return lambda: wrap("last_layer", members[0], **{**single, **options})

    def latent(kind):
        return lambda: wrap("latent", members[0], train=train, kind=kind)

    full = cache(last_layer())

    def cheap(kind):  # one model, no force std: what is had for little more than a plain pass
        def make():
            tensors, values = full().state()
            values = {**values, "force_std": "none"}
            inner = type(full()).from_state(members[0], tensors, values)
            return wrap("latent", inner, train=train, kind=kind)

        return make

    return {
        "ensemble 5": ensemble(5),
        "ensemble 3": ensemble(3),
        "last layer, energy rows": last_layer(noise={"energy": noise["energy"]}),
        "last layer, energy and force rows": full,
        "POPS": last_layer(covariance="pops"),
        "Mahalanobis latents": latent("mahalanobis"),
        "kNN latents": latent("knn"),
        "cheap, Mahalanobis": cheap("mahalanobis"),
        "cheap, kNN": cheap("knn"),
    }


def chain(number, start, train, settings, path):
    """Samples (1, S, ...) of one chain, drawn once."""
    if not path.exists():
        drawn = run_chain(start, train, settings, seed=number)
        save_samples(path, {k: v[None] for k, v in drawn.items()}, start)
    return load_samples(path)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--family", default="facet")
    parser.add_argument("--config", type=json.loads)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=Path, help="official 300 K test frames")
    parser.add_argument("--chain-steps", type=int, default=480, help="0: no chains")
    parser.add_argument("--seeds", type=int, nargs="*", help="only train these members")
    parser.add_argument("--chains", type=int, nargs="*", help="only run these chains")
    parser.add_argument("--figure", type=Path, help="PNG file to draw")
    parser.add_argument("--only", nargs="*", help="only the predictions of these methods")
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    frames = read(args.data / "train_300K.xyz", ":")
    order = np.random.default_rng(0).permutation(len(frames))
    train = [frames[i] for i in order[: args.train]]
    held = [frames[i] for i in order[400:]]
    sets = {"held": held, "hot": read(args.data / "dev_600K.xyz", ":")}
    if args.test is not None:
        sets["test"] = read(args.test, ":")
    config = CONFIGS.get(args.family, {}) if args.config is None else args.config

    everything = args.seeds is None and args.chains is None and args.only is None
    members = []
    for seed in range(5) if args.seeds is None else args.seeds:
        path = args.out / f"member_{seed}.nnp"
        if not path.exists() and (everything or args.seeds is not None):
            begin = time.process_time()
            fitted = fit_member(args.family, config, train, seed, args.epochs)
            spent = round(time.process_time() - begin)
            save_model(fitted, path, cpu_seconds=spent, epochs=args.epochs)
            print(f"member {seed}: {spent} s CPU", flush=True)
        if path.exists():
            members.append(load_model(path, device="cpu"))

    noise = {"energy": 0.02, "forces": 0.06}
    steps = args.chain_steps
    settings = ChainSettings(steps=steps, burn_in=steps // 3, samples=8, noise=noise)
    samples = [
        chain(i, members[i], train, settings, args.out / f"chain_{i}.safetensors")
        for i in (range(3) if everything and steps else args.chains or [])
    ]
    if args.seeds is not None or args.chains is not None:
        return

    def sampled():
        """Return all samples of the three chains, as members."""
        paths = [args.out / f"chain_{i}.safetensors" for i in range(3)]
        chains = samples or [load_samples(path)[0] for path in paths]
        joined = {k: torch.cat([one[k] for one in chains]) for k in chains[0]}
        return members_from_samples(members[:3], joined)

    fits = methods(members, train, noise)
    if steps:
        fits["pSGLD, 3 chains"] = lambda: wrap("ensemble", sampled(), mode="sequential")
    collected = {}
    for name in args.only or fits:
        fitted = cache(fits[name])  # made only if something of it is missing
        collected[name] = {
            part: kept(
                args.out / f"{name.replace(' ', '_')}.{part}.npz",
                lambda f=fitted, s=structures: collect(f(), s),
            )
            for part, structures in sets.items()
        }
    if args.only:
        return

    result: dict = {"table": {}, "single model, cheap": {}}
    for name, values in collected.items():
        parts = values["held"], values.get("test"), values["hot"]
        if name.startswith("cheap"):
            row = result["single model, cheap"][name] = cheap_auroc(*parts)
        else:
            row = result["table"][name] = measures(*parts, held[0].numbers)
        print(
            name,
            json.dumps({k: v if isinstance(v, str) else round(v, 3) for k, v in row.items()}),
            flush=True,
        )
    forces = kept(
        args.out / "chain_forces.npz", lambda: {"forces": by_member(sampled(), held[:20])}
    )
    result["chains"] = diagnose(forces["forces"].reshape(3, -1, 20 * 45))
    print(result["chains"]["verdict"])
    (args.out / "table.json").write_text(json.dumps(result, indent=1))
    if args.record:
        record(result)
    if args.figure is not None:
        draw(collected, result["table"], args.figure)


def record(result):
    """Write the table of methods (300 / 600 K) and that of cheap scores."""
    pairs = ("rmse", "spearman", "ence", "ence_chosen", "area", "coverage90", "auroc_top5")
    head = ["method", "RMSE", "Spearman, atoms", "ENCE, one factor", "ENCE, chosen map"]
    head += ["miscal. area", "coverage of 90 %", "AUROC of the worst 5 %"]
    head += ["adaptive, 600 K: one order (mean of ten)", "OOD AUROC"]

    rows = []
    for name, row in result["table"].items():
        cells = [f"{row[f'{key}_300']:#.3g} / {row[f'{key}_600']:#.3g}" for key in pairs]
        once, mean = (row[f"adaptive_coverage90_600{end}"] for end in ("", "_mean"))
        rows.append([name, *cells, f"{once:.3f} ({mean:.3f})", f"{row['ood_auroc']:.3f}"])
    write_measurement("uncertainty_acac", head, rows)

    cheap = result["single model, cheap"]
    rows = [[key, *(row[key] for row in cheap.values())] for key in next(iter(cheap.values()), {})]
    write_measurement("uncertainty_acac_scores", ["one pass of one model", *cheap], rows)


def by_member(members, frames):
    """Forces (M, n, atoms, 3)."""
    return np.array(
        [[row["forces"] for row in Predictor(m)(frames, progress=False)] for m in members]
    )


if __name__ == "__main__":
    main()
