"""Error bars on acetylacetone at 300 K and, shifted, at 600 K: the whole table from one script.

    python benchmarks/uncertainty_acac.py DATA OUT --family facet --epochs 40

DATA holds train_300K.xyz and dev_600K.xyz. Of the shuffled 300 K frames 400 train the members; the
other 100 calibrate and test by turns (each half calibrates for the other), unless --test names
another file. Trained members are kept in OUT and used again.
Writes OUT/table.json and prints the table.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from ase.io import read

from ase_nnp import AtomGraph, build_model, load_model, save_model
from ase_nnp.inference import Predictor
from ase_nnp.uncertainty import calibration as cal
from ase_nnp.uncertainty import metrics as met
from ase_nnp.uncertainty.evaluation import structure_scores_of
from ase_nnp.uncertainty.fitting import wrap
from ase_nnp.uncertainty.ood import rank_average
from ase_nnp.uncertainty.sampling.chains import ChainSettings, run_chains
from ase_nnp.uncertainty.sampling.diagnostics import diagnose
from ase_nnp.uncertainty.sampling.store import members_from_samples, save_samples

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
    """Adam with a cosine schedule and averaged weights; forces first, energies growing in."""
    model = build_model(family, config, seed=seed, device="cpu").train()
    start_energy(model, train)
    graphs = [model.make_graph(a) for a in train]
    marks = [labels([a], model.dtype) for a in train]
    mean_model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    total, step = epochs * math.ceil(len(train) / batch), 0
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(train))
        for part in np.array_split(order, math.ceil(len(train) / batch)):
            progress = step / total
            for group in optimizer.param_groups:
                group["lr"] = (
                    rate * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * progress))
                )
            graph = AtomGraph.collate([graphs[i] for i in part])
            energy = torch.cat([marks[i][0] for i in part])
            forces = torch.cat([marks[i][1] for i in part])
            out = model.compute(graph, ("energy", "forces"))
            size = graph.atoms_per_structure()
            loss = (out["forces"] - forces).square().mean()
            loss = loss + 100**progress * ((out["energy"] - energy) / size).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            step += 1
            with torch.no_grad():
                for slow, now in zip(mean_model.parameters(), model.parameters(), strict=True):
                    slow.lerp_(now, 1 - min(0.995, step / (step + 10)))
    return mean_model.freeze()


def collect(model, frames):
    """Labels, predictions and raw stds of forces (n, atoms, 3), and scores of structures."""
    rows = Predictor(model)(frames, progress=False)
    true = np.array([a.get_forces() for a in frames])
    pred = np.array([r["forces"] for r in rows])
    std = np.array([r["forces_std"] for r in rows]) if "forces_std" in rows[0] else None
    return true, pred, std, structure_scores_of(rows)[1]


def folds(count):
    half = np.arange(count) < count // 2
    return ((half, ~half), (~half, half))


def measures(known, test, shifted, numbers):
    """Figures of one method. ``known`` calibrates; ``test`` is None to use it by turns."""
    rows = []
    if test is None:
        parts = [tuple(tuple(x[m] for x in known) for m in pair) for pair in folds(len(known[0]))]
    else:
        parts = [(known, test)]
    for fit, check in parts:
        scale = cal.scale_nll(*fit[:3])
        q = cal.mondrian_quantiles(
            cal.normalized_scores(*fit[:3]), np.broadcast_to(numbers[:, None], fit[0].shape), 0.1
        )
        table = np.array([q[z] for z in numbers])[:, None]
        row = {"scale": scale}
        for name, (true, pred, std, _) in (("300", check), ("600", shifted)):
            error = true - pred
            atom = np.linalg.norm(error, axis=-1), np.linalg.norm(std, axis=-1)
            row[f"rmse_{name}"] = 1e3 * np.sqrt((error**2).mean())
            row[f"spearman_{name}"] = met.spearman(*atom)
            row[f"ence_{name}"] = met.ence(true, pred, scale * std, bins=20)
            row[f"area_{name}"] = met.miscalibration_area(true, pred, scale * std)
            row[f"coverage90_{name}"] = met.coverage(true, pred - table * std, pred + table * std)
            row[f"auroc_top5_{name}"] = met.auroc_errors(*atom, quantile=0.95)
        row["adaptive_coverage90_600"] = adaptive(fit, shifted)
        row["ood_auroc"] = met.auroc_ood(check[3], shifted[3])
        rows.append(row)
    return {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}


def adaptive(fit, shifted, count=50):
    """Coverage at 600 K by adaptive conformal intervals after labels of ``count`` frames."""
    order = np.random.default_rng(0).permutation(len(shifted[0]))
    scores = cal.normalized_scores(*shifted[:3])[order].reshape(len(order), -1)
    window = count * scores.shape[1]
    state = cal.AdaptiveConformal(
        cal.normalized_scores(*fit[:3]).ravel()[-window:], 0.1, 0.002, extend=True, window=window
    )
    for score in scores[:count].ravel():
        state.update(float(score))
    return float((scores[count:] <= state.quantile()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--family", default="facet")
    parser.add_argument("--config", type=json.loads)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="*", help="only train these members, and stop")
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=Path, help="official 300 K test frames")
    parser.add_argument("--chain-steps", type=int, default=480)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    frames = read(args.data / "train_300K.xyz", ":")
    order = np.random.default_rng(0).permutation(len(frames))
    train = [frames[i] for i in order[: args.train]]
    held = [frames[i] for i in order[400:]]
    hot = read(args.data / "dev_600K.xyz", ":")
    test = None if args.test is None else read(args.test, ":")
    config = CONFIGS.get(args.family, {}) if args.config is None else args.config

    members = []
    for seed in range(args.members) if args.seeds is None else args.seeds:
        path = args.out / f"member_{seed}.nnp"
        if not path.exists():
            begin = time.process_time()
            fitted = fit_member(args.family, config, train, seed, args.epochs)
            spent = round(time.process_time() - begin)
            save_model(fitted, path, cpu_seconds=spent, epochs=args.epochs)
            print(f"member {seed}: {spent} s CPU", flush=True)
        members.append(load_model(path, device="cpu"))
    if args.seeds is not None:
        return
    first = members[0]
    noise = {"energy": 0.02, "forces": 0.06}
    single = {"train": train, "noise": noise}
    methods = {
        f"ensemble {args.members}": wrap("ensemble", members, mode="sequential"),
        "last layer, energy rows": wrap("last_layer", first, train=train, noise={"energy": 0.02}),
        "last layer, energy and force rows": wrap("last_layer", first, **single),
        "POPS": wrap("last_layer", first, covariance="pops", **single),
        "Mahalanobis latents": wrap("latent", first, train=train),
        "kNN latents": wrap("latent", first, train=train, kind="knn"),
    }
    if args.members > 3:
        methods["ensemble 3"] = wrap("ensemble", members[:3], mode="sequential")
    diagnosis = None
    if args.chain_steps:
        steps = args.chain_steps
        settings = ChainSettings(steps=steps, burn_in=steps // 3, samples=8, noise=noise)
        starts = members[:3]
        samples = run_chains(starts, train, settings, workers=2)
        save_samples(args.out / "chains.safetensors", samples, first)
        drawn = members_from_samples(starts, samples)
        name = f"pSGLD, {len(starts)} chains"
        methods[name] = wrap("ensemble", drawn, mode="sequential")
        forces = [[r["forces"] for r in Predictor(m)(held[:20], progress=False)] for m in drawn]
        diagnosis = diagnose(np.array(forces).reshape(len(starts), -1, 20 * 45))
        print(diagnosis["verdict"])

    table, collected = {}, {}
    for name, model in methods.items():
        collected[name] = [None if f is None else collect(model, f) for f in (held, test, hot)]
        table[name] = measures(*collected[name], held[0].numbers)
        print(name, json.dumps({k: round(v, 3) for k, v in table[name].items()}), flush=True)
    laplace, latent = (collected[n] for n in ("last layer, energy and force rows", "kNN latents"))
    check = 0 if test is None else 1
    reference = [laplace[0][3], latent[0][3]]
    inside, outside = (
        rank_average(laplace[i][3], latent[i][3], reference=reference) for i in (check, 2)
    )
    bundle = met.auroc_ood(inside, outside)
    print(f"last layer and kNN latents, mean rank: OOD AUROC {bundle:.3f}")
    result = {"table": table, "bundle_ood_auroc": bundle, "chains": diagnosis}
    (args.out / "table.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
