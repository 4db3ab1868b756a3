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

from ase_nnp import AtomGraph, build_model, load_model, save_model
from ase_nnp.models.predictor import Predictor
from ase_nnp.training.optimizers import muon_with_adamw
from ase_nnp.uncertainty.evaluation import structure_scores_of
from ase_nnp.uncertainty.fitting import wrap
from ase_nnp.uncertainty.sampling.chains import ChainSettings, run_chain
from ase_nnp.uncertainty.sampling.store import load_samples, members_from_samples, save_samples
from ase_nnp.uncertainty.statistics import calibration as cal
from ase_nnp.uncertainty.statistics import metrics as met
from ase_nnp.uncertainty.statistics.diagnostics import diagnose
from ase_nnp.uncertainty.statistics.ood import rank_average

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

#: Of alpha in adaptive conformal intervals, for each labeled structure.
STEP = 0.005


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
            for group in (g for o in optimizers for g in o.param_groups):
                group["lr"] = group["factor"] * (
                    rate * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * progress))
                )
            graph = AtomGraph.collate([graphs[i] for i in part])
            energy = torch.cat([marks[i][0] for i in part])
            forces = torch.cat([marks[i][1] for i in part])
            out = model.compute(graph, ("energy", "forces"))
            size = graph.atoms_per_structure()
            loss = (out["forces"] - forces).square().mean()
            loss = loss + 100**progress * ((out["energy"] - energy) / size).square().mean()
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            with torch.no_grad():
                for slow, now in zip(mean_model.parameters(), model.parameters(), strict=True):
                    slow.lerp_(now, 1 - min(0.995, step / (step + 10)))
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


def folds(count):
    half = np.arange(count) < count // 2
    return ((half, ~half), (~half, half))


def one_map(fit):
    """A calibrator with one map of stds for all elements."""

    def fitted(true, pred, std, z):
        made = fit(true, pred, std)
        return (lambda s, z: made(s)) if callable(made) else (lambda s, z: made * s)

    return fitted


def by_element(fit):
    """A calibrator with a map for each element."""

    def fitted(true, pred, std, z):
        table = fit(true, pred, std, z)

        def apply(s, z):
            out = np.empty_like(s)
            for number, made in table.items():
                out[z == number] = made(s[z == number])
            return out

        return apply

    return fitted


#: What may turn raw stds into calibrated ones; "factor" is what the table has always shown.
CALIBRATORS = {
    "factor": one_map(cal.scale_nll),
    "factor, absolute": one_map(cal.scale_abs),
    "factor, CRPS": one_map(cal.scale_crps),
    "affine": one_map(cal.fit_affine_variance),
    "affine by element": by_element(cal.fit_affine_variance),
    "isotonic": one_map(cal.fit_isotonic),
    "isotonic by element": by_element(cal.fit_isotonic),
}


def choose(true, pred, std, z, parts=5):
    """The calibrator of least NLL on structures left out, all of them of the calibration set."""
    number = np.arange(len(true)) % parts

    def left_out(fit):
        values = []
        for part in range(parts):
            out, rest = number == part, number != part
            made = fit(true[rest], pred[rest], std[rest], z[rest])
            values.append(met.nll_gaussian(true[out], pred[out], made(std[out], z[out])))
        return float(np.mean(values))

    return min(CALIBRATORS, key=lambda name: left_out(CALIBRATORS[name]))


def measures(known, test, shifted, numbers):
    """Figures of one method. ``known`` calibrates; ``test`` is None to use it by turns.

    By turns, each half is scaled by the other, and the halves are judged together: ENCE of fewer
    values is larger by chance alone. Figures with "chosen" are those of the calibrator that
    :func:`choose` takes from the calibrating half alone; the others those of one factor.
    """
    names = ("true", "pred", "std", "score")
    known, test, shifted = (
        None if x is None else tuple(x[k] for k in names) for x in (known, test, shifted)
    )
    if test is None:
        parts = [tuple(tuple(x[m] for x in known) for m in pair) for pair in folds(len(known[0]))]
    else:
        parts = [(known, test)]

    def elements(values):
        return np.broadcast_to(numbers[:, None], values.shape)

    rows, chosen, cool, hot = [], [], [], []
    for fit, check in parts:
        scale = cal.scale_nll(*fit[:3])
        own = elements(fit[0])
        chosen.append(choose(*fit[:3], own))
        better = CALIBRATORS[chosen[-1]](*fit[:3], own)
        q = cal.mondrian_quantiles(cal.normalized_scores(*fit[:3]), own, 0.1)
        table = np.array([q[z] for z in numbers])[:, None]
        for terms, (true, pred, std, _) in ((cool, check), (hot, shifted)):
            terms.append((true - pred, scale * std, better(std, elements(std)), table * std))
        ood = met.auroc_ood(check[3], shifted[3])
        rows.append({"scale": scale, "ood_auroc": ood, **adaptive(fit, shifted)})
    row = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
    row["chosen"] = " / ".join(dict.fromkeys(chosen))
    for name, terms in (("300", cool), ("600", hot)):
        error, std, better, half = (np.concatenate(x) for x in zip(*terms, strict=True))
        atom = np.linalg.norm(error, axis=-1), np.linalg.norm(std, axis=-1)
        row[f"rmse_{name}"] = 1e3 * float(np.sqrt((error**2).mean()))
        row[f"spearman_{name}"] = met.spearman(*atom)
        for key, values in (("", std), ("chosen_", better)):
            row[f"ence_{key}{name}"] = met.ence(error, 0 * error, values, bins=20)
            row[f"area_{key}{name}"] = met.miscalibration_area(error, 0 * error, values)
            row[f"nll_{key}{name}"] = met.nll_gaussian(error, 0 * error, values)
        row[f"coverage90_{name}"] = met.coverage(error, -half, half)
        row[f"auroc_top5_{name}"] = met.auroc_errors(*atom, quantile=0.95)
    return row


def adaptive(fit, shifted, count=50, orders=10):
    """Coverage at 600 K by adaptive conformal intervals after labels of ``count`` frames.

    Of the first order in which frames are labeled, and the mean and spread over ``orders``: one
    order alone moves the coverage by as much as the bar allows.
    """
    calibration = cal.normalized_scores(*fit[:3]).ravel()
    scores = cal.normalized_scores(*shifted[:3]).reshape(len(shifted[0]), -1)
    window = count * scores.shape[1]
    coverages = []
    for seed in range(orders):
        shuffled = scores[np.random.default_rng(seed).permutation(len(scores))]
        # A label is a structure: all its values together move alpha by one step. The window
        # follows the shift by itself; a large step (0.02) would correct for the same misses twice
        # and stay too wide. 0.005 is the step of Gibbs and Candes.
        state = cal.AdaptiveConformal(
            calibration[-window:], 0.1, STEP / scores.shape[1], extend=True, window=window
        )
        for score in shuffled[:count].ravel():
            state.update(float(score))
        coverages.append(float((shuffled[count:] <= state.quantile()).mean()))
    return {
        "adaptive_coverage90_600": coverages[0],
        "adaptive_coverage90_600_mean": float(np.mean(coverages)),
        "adaptive_coverage90_600_spread": float(np.std(coverages)),
    }


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


def cheap_auroc(known, test, shifted):
    """OOD AUROC of the scores that cost no derivatives of features, and of a mean rank of two."""
    names = {
        "score": "mean latent distance",
        "worst": "largest latent distance",
        "total": "energy std",
        "atoms": "largest atomic energy std",
    }
    rows = []
    for fit, check in folds(len(known["score"])) if test is None else [(slice(None), None)]:
        inside = {k: known[k][check] if test is None else test[k] for k in names}
        row = {what: met.auroc_ood(inside[k], shifted[k]) for k, what in names.items()}
        pair = ("score", "total")
        reference = [known[k][fit] for k in pair]
        ranks = [
            rank_average(*(x[k] for k in pair), reference=reference) for x in (inside, shifted)
        ]
        rows.append(row | {"mean rank of mean distance and energy std": met.auroc_ood(*ranks)})
    return {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}


def draw(collected, table, path):
    """Reliability at 300 K and 600 K after scaling at 300 K, and who tells 600 K from 300 K."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    shown = ["ensemble 5", "last layer, energy and force rows", "kNN latents"]
    for title, part, axis in (("300 K", "held", axes[0]), ("600 K", "hot", axes[1])):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for name in (n for n in shown if n in table):
            known = collected[name]["held"]
            check = collected[name].get("test", known) if part == "held" else collected[name][part]
            scale = cal.scale_nll(known["true"], known["pred"], known["std"])
            curve = met.calibration_curve(check["true"], check["pred"], scale * check["std"])
            axis.plot(*curve, label=name)
        axis.set(title=f"{title}, scaled at 300 K", xlabel="nominal", ylabel="observed coverage")
    axes[0].legend(fontsize=8)
    names = sorted(table, key=lambda n: table[n]["ood_auroc"])
    bars = axes[2].barh(names, [table[n]["ood_auroc"] for n in names])
    axes[2].bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    axes[2].set(title="OOD AUROC, 300 K against 600 K", xlim=(0.5, 1.05))
    axes[2].tick_params(axis="y", labelsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


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
    if args.figure is not None:
        draw(collected, result["table"], args.figure)


def by_member(members, frames):
    """Forces (M, n, atoms, 3)."""
    return np.array(
        [[row["forces"] for row in Predictor(m)(frames, progress=False)] for m in members]
    )


if __name__ == "__main__":
    main()
