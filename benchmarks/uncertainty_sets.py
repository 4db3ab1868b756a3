"""Error bars on six real sets, each with a shift of its own: the table that the default rests on.

    python benchmarks/uncertainty_sets.py DATA OUT --seconds 120 [--sets acac lips] [--methods auto]

DATA holds acac, 3bpa, ethanol_methanol, lips, oxides and mlearn. A small Facet model is trained for
each (``--seconds`` of CPU time), on 80 % of what is at home; a tenth is held back to calibrate, a
tenth is tested, and so is the shift: another temperature (acac), torsions far from the mean (3bpa),
methanol for a model of ethanol, late frames (lips), other cells of an oxide (oxides), surfaces and
the hottest run (silicon of mlearn). Eight heads are trained with each model. Models, heads and rows
are kept in OUT; models that are there are used again. Writes OUT/table.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
from measurement import RESULTS, record_option, write_measurement
from small_training import follow, set_rate, take_step

from ase_nnp import AtomGraph, build_model, load_model, open_dataset, save_model
from ase_nnp.errors import AseNnpError
from ase_nnp.models.predictor import Predictor
from ase_nnp.training.committee_heads import CommitteeHeads
from ase_nnp.training.graph_dataset import GraphBatch
from ase_nnp.training.optimizers import muon_with_adamw
from ase_nnp.uncertainty import calibrate, fit, load_uncertainty, save_uncertainty
from ase_nnp.uncertainty.evaluation import structure_scores_of
from ase_nnp.uncertainty.statistics import metrics as met

CONFIG = {
    "hidden_irreps": ["32x0e + 16x1o + 8x2e"] * 2,
    "outs_per_node": 32,
    "edge_embed": {"r_max": 5.0},
    "rescale": {"shift_trainable": False, "global_shift_trainable": False},
}


def acac(data):
    home = list(open_dataset(data / "acac/train_300K.xyz"))
    return home, list(open_dataset(data / "acac/dev_600K.xyz"))


def three_bpa(data):
    frames = list(open_dataset(data / "3bpa/train_300K.xyz"))
    angles = np.radians([a.info["dihedrals"] for a in frames])
    mean = np.angle(np.exp(1j * angles).mean(axis=0))
    away = np.abs(np.angle(np.exp(1j * (angles - mean)))).max(axis=1)
    return split(frames, away > np.quantile(away, 0.75))


def ethanol_methanol(data):
    frames = list(open_dataset(data / "ethanol_methanol/train_eth_meth.extxyz.xz"))
    home, other = split(frames, [a.info["config_type"] == "methanol" for a in frames])
    return home[::2], other


def lips(data):
    frames = list(open_dataset(data / "lips/train.extxyz.xz"))
    return split(frames, [a.info["index"] >= 150 for a in frames])


def oxides(data):
    frames = list(open_dataset(data / "oxides/train.extxyz.xz"))
    return split(frames, [len(a) == 12 for a in frames])


def silicon(data):
    frames = list(open_dataset(data / "mlearn/Si_train.extxyz.xz"))
    heat = [re.search(r"(\d+) K", a.info["description"]) for a in frames]
    kelvin = np.array([int(h.group(1)) if h else 0 for h in heat])
    surface = np.array([a.info["group"] == "Surface" for a in frames])
    return split(frames, surface | (kelvin == kelvin.max()))


SETS = {
    "acac": (acac, "300 K to 600 K"),
    "3bpa": (three_bpa, "torsions"),
    "ethanol_methanol": (ethanol_methanol, "ethanol to methanol"),
    "lips": (lips, "late frames"),
    "oxides": (oxides, "other cells"),
    "mlearn": (silicon, "surfaces and melt"),
}


def split(frames, shifted):
    pairs = list(zip(frames, shifted, strict=True))
    return [a for a, far in pairs if not far], [a for a, far in pairs if far]


def train_model(train, seconds, seed=0, rate=5e-3):
    """Muon with a cosine schedule over CPU time and averaged weights, of energies and forces.

    Returns the model and the committee of eight read-outs that was trained beside it.
    """
    species = sorted({int(z) for a in train for z in a.numbers})
    probe = build_model("facet", {**CONFIG, "species": species}, seed=seed, device="cpu")
    graphs = [probe.make_graph(a) for a in train]
    near = float(np.mean([g.num_edges / g.num_atoms for g in graphs]))
    config = {**CONFIG, "species": species, "avg_num_neighbors": near}
    model = build_model("facet", config, seed=seed, device="cpu").train()

    # Energies of free atoms by least squares over compositions; the mean of the rest is a shift.
    counts = np.array([[np.sum(a.numbers == z) for z in species] for a in train], dtype=float)
    energy = np.array([a.get_potential_energy() for a in train])
    free = np.linalg.lstsq(counts, energy, rcond=None)[0]
    model.set_energy_scale(dict(zip(species, free.tolist(), strict=True)), shift=0.0, scale=1.0)

    forces = [torch.tensor(a.get_forces(apply_constraint=False), dtype=model.dtype) for a in train]
    heads = CommitteeHeads(model, train, 8, seed)
    mean = copy.deepcopy(model)
    # Steps are what so short a training lacks: batches of about 64 atoms.
    batch = max(1, round(64 / np.mean([len(a) for a in train])))
    optimizers = muon_with_adamw(model.parameters(), lr=rate)
    start, step, rng = time.process_time(), 0, np.random.default_rng(seed)
    while (progress := (time.process_time() - start) / seconds) < 1:
        slow = min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * progress))
        set_rate(optimizers, rate * slow)
        part = rng.choice(len(train), min(batch, len(train)), replace=False)
        graph = AtomGraph.collate([graphs[i] for i in part])
        labels = torch.tensor(energy[part]), torch.cat([forces[i] for i in part])
        take_step(model, optimizers, graph, *labels, 100**progress, heads.compute)
        heads.take_step(GraphBatch(graph, {"energy": labels[0]}, torch.as_tensor(part)), slow)
        step += 1
        follow(mean, model, step, 0.99)
    model = mean.freeze()
    return model, heads.committee(model), step


def measures(rows, structures):
    """Figures of one method on one set of structures; errors in meV/Angstrom and meV an atom."""
    error = np.concatenate(
        [r["forces"] - a.get_forces(apply_constraint=False)
         for r, a in zip(rows, structures, strict=True)]
    )  # fmt: skip
    out = {"rmse": 1e3 * float(np.sqrt((error**2).mean()))}
    if "forces_std" in rows[0]:
        std = np.concatenate([r["forces_std"] for r in rows])
        ends = np.concatenate([r["forces_interval"] for r in rows], axis=1) - np.concatenate(
            [a.get_forces(apply_constraint=False) for a in structures]
        )
        given = error.ravel(), 0 * error.ravel(), std.ravel()
        out["ence"] = met.ence(*given, bins=20)
        out["chance"] = met.ence_by_chance(*given, bins=20)
        out["covered"] = float(((ends[0] <= 0) & (ends[1] >= 0)).mean())
    true = np.array([a.get_potential_energy() for a in structures])
    missed = (np.array([r["energy"] for r in rows]) - true) / [len(a) for a in structures]
    out["energy_rmse"] = 1e3 * float(np.sqrt((missed**2).mean()))
    ends = np.array([r["energy_interval"] for r in rows])
    out["energy_covered"] = float(((ends[:, 0] <= true) & (true <= ends[:, 1])).mean())
    return out


def cost(model, plain, structures):
    """CPU time of a pass with error bars over one without: the median over structures.

    Each is seen once, so that nothing is known of its bonds that others do not tell.
    """

    def seconds(one, graph):
        begin = time.process_time()
        one.compute(graph, ("energy", "forces", "forces_std", "ood_score"))
        return time.process_time() - begin

    ratios = []
    for number, atoms in enumerate(structures[:25]):
        graph = model.make_graph([atoms])
        # The second of two passes finds more in the caches: both take turns.
        pair = (model, plain) if number % 2 else (plain, model)
        times = {one: seconds(one, graph) for one in pair}
        ratios.append(times[model] / times[plain])
    return float(np.median(ratios[4:]))


def methods(models, heads, train, held):
    """What is fitted, by its name in the table; all are given the same structures."""
    given = {"train": train, "calibration": held}
    spread = {"noise": {"energy": 0.02}, "force_std": "sampled"}
    model, count = models[0], len(models)
    several = {
        f"auto of {count}": lambda: fit("auto", models, **given),
        f"ensemble of {count}, one factor": lambda: fit(
            "ensemble", models, calibration=held, mode="sequential"
        ),
    }
    return (several if count > 1 else {}) | {
        "auto": lambda: fit("auto", model, **given),
        "auto around heads": lambda: fit("auto", load_uncertainty(heads, model), **given),
        "heads, one factor": lambda: calibrate(
            load_uncertainty(heads, model, force_std="exact"), held
        ),
        "latent, one factor": lambda: fit("latent", model, kind="knn", score="mean", **given),
        "last layer, one factor": lambda: fit("last_layer", model, **given, **spread),
    }


def run(name, data, out, seconds, members=1, chosen=()):
    load, shift = SETS[name]
    home, shifted = load(data)
    order = np.random.default_rng(0).permutation(len(home))
    tenth = max(20, len(home) // 10)
    held, test, train = ([home[i] for i in order[part]] for part in (
        slice(0, tenth), slice(tenth, 2 * tenth), slice(2 * tenth, None)))  # fmt: skip
    heads, models = out / f"{name}.uq", []
    for seed in range(members):
        path = out / (f"{name}_{seed}.nnp" if seed else f"{name}.nnp")
        if not path.exists():
            trained, committee, steps = train_model(train, seconds, seed)
            save_model(trained, path, cpu_seconds=seconds, steps=steps)
            save_uncertainty(committee, path.with_suffix(".uq"))
        models.append(load_model(path, device="cpu"))

    table = []
    parts = {"home": test, "shift": shifted[:150]}
    for method, make in methods(models, heads, train, held).items():
        if chosen and method not in chosen:
            continue
        begin = time.process_time()
        try:
            fitted = make()
        except AseNnpError as error:
            table.append({"set": name, "method": method, "failed": str(error)})
            continue
        row = {"set": name, "change": shift, "method": method, "train": len(train)}
        row["fit_cpu_s"] = time.process_time() - begin

        rows = {part: Predictor(fitted)(s, progress=False) for part, s in parts.items()}
        row |= {part: measures(rows[part], parts[part]) for part in parts}
        scores = [structure_scores_of(rows[part])[1] for part in parts]
        row |= {"auroc": met.auroc_ood(*scores), "score": fitted.uq.get("score", "")}
        row["cost"] = cost(fitted, models[0], test)
        table.append(row)
        print(json.dumps(row), flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seconds", type=float, default=120.0, help="CPU time of each training")
    parser.add_argument("--members", type=int, default=1, help="Models of each set, an ensemble.")
    parser.add_argument("--methods", nargs="*", default=[], help="others keep their recorded rows")
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [
        row
        for name in args.sets
        for row in run(name, args.data, args.out, args.seconds, args.members, args.methods)
    ]
    (args.out / "table.json").write_text(json.dumps(rows, indent=1))
    if args.record:
        record([row for row in rows if "failed" not in row])


def record(rows):
    """Write the table: home / shift."""
    head = ["set, shift", "force RMSE, meV/Å", "energy, meV/atom", "method"]
    head += ["force intervals cover", "ENCE", "of perfect bars", "energies cover", "AUROC"]
    head += ["fit, CPU s", "cost"]

    def both(row, key, digits):
        pair = (row[part].get(key) for part in ("home", "shift"))
        return " / ".join("-" if value is None else f"{value:.{digits}f}" for value in pair)

    cells = []
    for row in rows:
        errors = [
            f"{row['set']}: {row['change']}",
            both(row, "rmse", 0),
            both(row, "energy_rmse", 1),
        ]
        bars = [both(row, key, 2) for key in ("covered", "ence", "chance", "energy_covered")]
        auroc = f"{row['auroc']:.2f}" + f" ({row['score']})" * bool(row["score"])
        cells.append([*errors, row["method"], *bars, auroc, row["fit_cpu_s"], row["cost"]])
    order = list(SETS)
    rows = sorted(cells + others(head, cells), key=lambda row: order.index(row[0].split(":")[0]))
    write_measurement("uncertainty_sets", head, rows)


def others(head, cells):
    """Rows of sets and methods that stand in the file and are not measured now."""
    path = RESULTS / "uncertainty_sets.json"
    if not path.exists():
        return []
    old, place = json.loads(path.read_text()), head.index("method")
    new = {(row[0], row[place]) for row in cells}
    rows = [dict(zip(old["columns"], row, strict=True)) for row in old["rows"]]
    rows = [[row.get(name) for name in head] for row in rows]
    return [row for row in rows if (row[0], row[place]) not in new]


if __name__ == "__main__":
    main()
