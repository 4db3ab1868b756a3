"""Train every family that gives forces on AcAc and 3BPA, with small configurations.

    python benchmarks/training_curves.py DATA_FOLDER OUT_FOLDER --minutes 8

DATA_FOLDER holds ``acac`` and ``3bpa``. Of the 500 frames at 300 K, 450 are learnt from and 50
choose the weights; AcAc is tested on 150 frames at 600 K besides. Every run gets as many epochs as
its first one says will fit into the time given, so that its cosine schedule ends. Runs that are
there already are not repeated; ``OUT_FOLDER/results.json`` is written after each. ``--record`` puts
them beside what other families had, and with ``--figure`` all curves are drawn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from ase.io import read
from measurement import RESULTS, record_option, write_measurement

import ase_nnp
from ase_nnp.training import Settings, fit

CONFIGS = {
    "facet": {
        "hidden_irreps": ["32x0e + 16x1o + 8x2e"] * 2,
        "outs_per_node": 32,
        "avg_num_neighbors": 12.0,
        "edge_embed": {"r_max": 5.0},
    },
    "escaip": {
        "generation": 3,
        "direct_forces": False,
        "hidden_size": 64,
        "num_layers": 2,
        "atten_num_heads": 4,
        "freequency_list": [6, 6, 4],
        "max_radius": 5.0,
        "knn_k": 20,
        "node_direction_expansion_size": 4,
        "atom_embedding_size": 32,
        "node_direction_embedding_size": 16,
        "edge_distance_embedding_size": 64,
        "edge_distance_expansion_size": 64,
    },
    "scn": {
        "energy_kind": "total",
        "num_interactions": 2,
        "lmax": 4,
        "sphere_channels": 32,
        "sphere_channels_reduce": 32,
        "hidden_channels": 64,
        "num_sphere_samples": 48,
        "num_basis_functions": 48,
        "cutoff": 5.0,
    },
    "cgcnn_oc20": {"num_graph_conv_layers": 3, "num_fc_layers": 2, "cutoff": 5.0},
    "spline_eam": {"cutoff": 5.0, "kind": "fs", "num_r": 41},
    "mpnn": {"cutoff": 5.0},
    "eeacsf": {"factors": ["1", "n", "m", "n'", "m'"]},
    "torchmdnet": {"embedding_dimension": 32, "num_rbf": 16, "cutoff_upper": 5.0},
}
RATES = {"facet": 5e-3, "escaip": 4e-3, "scn": 5e-3, "cgcnn_oc20": 6e-3}
RATES |= {"spline_eam": 1e-2, "mpnn": 5e-3, "eeacsf": 5e-3, "torchmdnet": 5e-3}
#: Muon is for the matrices of networks; rows of spline coefficients are none.
OPTIMIZERS = {"spline_eam": "adamw"}


def settings_of(family: str, epochs: int) -> Settings:
    # Direct forces do not improve with the energy, so both get the same weight to the end.
    energy = {"weight": 1.0, "final_weight": 30.0}
    return Settings(
        epochs=epochs,
        losses={"energy": energy, "forces": {"weight": 1.0}},
        batch={"structures": 5},
        optimizer={"name": OPTIMIZERS.get(family, "muon"), "lr": RATES[family]},
        ema=0.99,
        validate_every=2,
        progress=False,
    )


def rmse(model, frames) -> tuple[float, float]:
    """Root mean square of energy (meV) and of force components (meV/A)."""
    results = ase_nnp.predict(model, frames, ("energy", "forces"), progress=False)
    energy = [r["energy"] - a.get_potential_energy() for r, a in zip(results, frames, strict=True)]
    forces = [(r["forces"] - a.get_forces()).ravel() for r, a in zip(results, frames, strict=True)]
    return tuple(1e3 * float(np.sqrt(np.mean(np.square(x)))) for x in (energy, np.hstack(forces)))


def one(family: str, name: str, data: Path, out: Path, minutes: float) -> dict:
    frames = read(data / name / "train_300K.xyz", ":")
    order = np.random.default_rng(0).permutation(len(frames))
    train, held = ([frames[i] for i in part] for part in (order[:450], order[450:]))
    config = dict(CONFIGS[family])
    if family == "facet":
        config["species"] = sorted({int(z) for z in frames[0].numbers})
    if "elements" in ase_nnp.list_models()[family].defaults:
        config["elements"] = sorted(set(frames[0].get_chemical_symbols()))

    def fresh():
        return ase_nnp.build_model(family, config, seed=0, device="cpu")

    for _ in range(2):  # the first one pays for everything that is done once
        shutil.rmtree(out / "pilot", ignore_errors=True)
        begin = time.process_time()
        fit(fresh(), train[:50], None, settings_of(family, 1), folder=out / "pilot")
        used = (time.process_time() - begin) * len(train) / 50
    shutil.rmtree(out / "pilot")
    epochs = max(2, int(60 * minutes / used))
    begin = time.process_time()
    folder = out / f"{family}_{name}"
    result = fit(fresh(), train, held, settings_of(family, epochs), folder=folder)
    row = {
        "family": family,
        "set": name,
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "epochs": len(result.history),
        "planned": epochs,
        "cpu_minutes": round((time.process_time() - begin) / 60, 2),
        "held_300K": rmse(result.model, held),
        "date": date.today().isoformat(),
    }
    if name == "acac":
        row["test_600K"] = rmse(result.model, read(data / name / "dev_600K.xyz", ":"))
    row["curve"] = [
        [r["epoch"], 1e3 * r["valid_energy_mae"], 1e3 * r["valid_forces_mae"]]
        for r in result.history
        if "valid_loss" in r
    ]
    return row


def draw(content: dict, path: Path) -> None:
    """Force errors of the held-back frames over the CPU time of each run of a measurement."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row[0].split()[0] for row in content["rows"]))
    families = sorted({row[0].split()[1] for row in content["rows"]})
    colors = {family: f"C{number}" for number, family in enumerate(families)}
    shown = {}
    figure, axes = pyplot.subplots(
        1, len(names), figsize=(4.6 * len(names) + 1, 3.6), layout="constrained", squeeze=False
    )
    for name, axis in zip(names, axes[0], strict=True):
        for row in (row for row in content["rows"] if row[0].split()[0] == name):
            epoch, _, force = zip(*content["values"][row[0]], strict=True)
            each = float(row[3]) / float(str(row[2]).split()[0])
            family = row[0].split()[1]
            (line,) = axis.plot([each * e for e in epoch], force, color=colors[family])
            shown[family] = line
        axis.set(title=name, xlabel="CPU minutes", ylabel="force MAE, held back (meV/Å)")
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
    figure.legend(shown.values(), shown.keys(), loc="outside right upper")
    figure.savefig(path, dpi=110, metadata={"Software": None})


HEAD = ["set, family", "parameters", "epochs", "CPU min"]
HEAD += ["held 300 K: E (meV), F (meV/Å)", "600 K", "run on"]


def table(rows: list[dict]) -> list[list[str]]:
    """Return the cells of the table."""
    lines = []
    for r in rows:
        hot = "{:.1f}, {:.1f}".format(*r["test_600K"]) if "test_600K" in r else "–"
        cut = "" if r["epochs"] == r["planned"] else f" of {r['planned']}"
        held = "{:.1f}, {:.1f}".format(*r["held_300K"])
        epochs, name = f"{r['epochs']}{cut}", f"{r['set']} {r['family']}"
        lines.append([name, r["parameters"], epochs, r["cpu_minutes"], held, hot, r["date"]])
    return lines


def record(rows: list[dict]) -> Path:
    """Write these runs, and those of other families that the file holds already."""
    known = json.loads((RESULTS / "training_curves.json").read_text())
    made = table(rows)
    kept = [row for row in known["rows"] if row[0] not in [one[0] for one in made]]
    curves = {name: known["values"][name] for name, *_ in kept}
    curves |= {f"{r['set']} {r['family']}": r["curve"] for r in rows}

    # Sets one after the other, each from the best to the worst.
    merged = sorted(kept + made, key=lambda row: (row[0][0] != "a", float(row[4].split(", ")[1])))
    packages = ("torch", "lightning")
    return write_measurement("training_curves", HEAD, merged, values=curves, packages=packages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0, help="CPU time of a run")
    parser.add_argument("--families", nargs="*", default=list(CONFIGS))
    parser.add_argument("--sets", nargs="*", default=["acac", "3bpa"])
    parser.add_argument("--figure", type=Path, help="PNG file to draw, with --record")
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    for name in args.sets:
        for family in args.families:
            if any((r["family"], r["set"]) == (family, name) for r in rows):
                continue
            rows.append(one(family, name, args.data, args.out, args.minutes))
            file.write_text(json.dumps(rows, indent=1) + "\n")
            print(*table(rows[-1:])[0], sep=" | ", flush=True)
    if args.record:
        target = record(rows)
        if args.figure is not None:
            draw(json.loads(target.read_text()), args.figure)


if __name__ == "__main__":
    main()
