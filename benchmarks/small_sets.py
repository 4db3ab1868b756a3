"""Properties of small real sets: selected descriptors beside CGCNN, at equal CPU time.

    python benchmarks/small_sets.py DATA_FOLDER OUT.json --seconds 20

DATA_FOLDER holds ``oxides`` (energies of MO2 over their volumes) and ``coverage_adsorption`` (mean
adsorption energies on fcc(111) slabs). Whole curves, one crystal at all volumes, and whole
combinations of metal and adsorbate are held back, so that no near copy of a test structure was
learned from. Features and their selection count as training time. The mean absolute errors of the
tests are written with that of predicting the training mean. What OUT.json holds is not run again.
"""

from __future__ import annotations

import argparse
import json
import lzma
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.training import Settings, fit
from ase_nnp_descriptor_mlp import prepared


def oxides(folder: Path) -> tuple[list[Atoms], list[str]]:
    """Energy an atom; a curve is a formula with the angles of its cell, to tens of degrees."""
    frames = list(ase_nnp.open_dataset(folder / "oxides"))
    groups = []
    for atoms in frames:
        atoms.info["target"] = atoms.get_potential_energy() / len(atoms)
        angles = atoms.cell.cellpar()[3:].round(-1)
        groups.append(f"{atoms.get_chemical_formula()} {angles}")
        atoms.calc = None
    return frames, groups


def adsorption(folder: Path) -> tuple[list[Atoms], list[str]]:
    """Adsorption energy an adsorbate; a group is a metal with an adsorbate."""
    packed = (folder / "coverage_adsorption" / "adsorption.json.xz").read_bytes()
    rows = json.loads(lzma.decompress(packed))
    frames, groups = [], []
    for row in rows:
        atoms = Atoms(row["symbols"], row["pos"], cell=row["cell"], pbc=True)
        atoms.info["target"] = float(row["energy"])
        frames.append(atoms)
        groups.append(f"{row['metal']} {row['adsorbate']}")
    return frames, groups


def settings_of(epochs: int, rate: float) -> Settings:
    return Settings(
        epochs=epochs,
        losses={"energy": None, "forces": None, "scalars": {"target": {}}},
        batch={"structures": 16},
        optimizer={"lr": rate},
        validate_every=5,
        progress=False,
    )


def trained(
    begun: Any, parts: dict[str, list[Atoms]], rate: float, seconds: float
) -> tuple[Any, dict[str, float]]:
    """Return a model after about so many CPU seconds, its cosine schedule at the end."""
    train, held = parts["train"], parts["held"]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("warm", "pilot"):  # the first pays for what is done once a process
            begin = time.process_time()
            fit(deepcopy(begun), train, held, settings_of(2, rate), folder=Path(folder) / name)
            two = time.process_time() - begin
        begin = time.process_time()
        fit(deepcopy(begun), train, held, settings_of(12, rate), folder=Path(folder) / "twelve")
        each = (time.process_time() - begin - two) / 10

        epochs = int(max(4, (seconds - two) / each))
        begin = time.process_time()
        done = fit(
            deepcopy(begun), train, held, settings_of(epochs, rate), folder=Path(folder) / "run"
        )
    return done.model, {"epochs": epochs, "cpu_seconds": round(time.process_time() - begin, 1)}


SETS = {"oxides": oxides, "adsorption": adsorption}
HEAD = ["set, seed of the split", "groups", "training, test structures", "mean of the training"]
HEAD += ["descriptor_mlp (CPU s)", "cgcnn (CPU s)"]


def cells(row: dict[str, Any]) -> list[Any]:
    """Return a row of the table: mean absolute errors in eV."""
    found = []
    for family in ("descriptor_mlp", "cgcnn"):
        spent = row[family]["cpu_seconds"] + row[family]["preparation_s"]
        found.append(f"{row[family]['mae']:.3f} ({spent:.1f})")
    sizes = f"{row['train']}, {row['test']}"
    return [f"{row['set']}, {row['seed']}", row["groups"], sizes, round(row["mean"], 3), *found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU time of a training")
    parser.add_argument("--seeds", type=int, default=2, help="of the split and the weights")
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)

    def ours(train: list[Atoms], seed: int) -> Any:
        return prepared(train[:200], {"target": "eV"}, count=24, seed=seed)

    def cgcnn(train: list[Atoms], seed: int) -> Any:
        return ase_nnp.build_model("cgcnn", {"property": "target"}, seed=seed, device="cpu")

    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    for name in args.sets:
        frames, groups = SETS[name](args.data)
        kinds = sorted(set(groups))
        for seed in range(args.seeds):
            if any((row["set"], row["seed"]) == (name, seed) for row in rows):
                continue
            order = np.random.default_rng(seed).permutation(len(kinds))
            cuts = [0, len(kinds) // 5, 3 * len(kinds) // 10, len(kinds)]
            of = {
                kinds[k]: part
                for p, part in enumerate(("test", "held", "train"))
                for k in order[cuts[p] : cuts[p + 1]]
            }
            parts = {
                part: [a for a, g in zip(frames, groups, strict=True) if of[g] == part]
                for part in ("train", "held", "test")
            }
            wanted = np.array([a.info["target"] for a in parts["test"]])
            mean = np.mean([a.info["target"] for a in parts["train"]])
            row: dict[str, Any] = {"set": name, "seed": seed, "groups": len(kinds)}
            row |= {part: len(some) for part, some in parts.items()}
            row["mean"] = float(np.abs(wanted - mean).mean())
            for family, make, rate in (("descriptor_mlp", ours, 5e-3), ("cgcnn", cgcnn, 5e-3)):
                begin = time.process_time()
                begun = make(parts["train"], seed)
                spent = time.process_time() - begin
                model, told = trained(begun, parts, rate, args.seconds - spent)
                found = ase_nnp.predict(model, parts["test"], ("target",), progress=False)
                error = np.abs(np.array([r["target"] for r in found]) - wanted).mean()
                row[family] = {"mae": float(error), "preparation_s": round(spent, 1), **told}
            rows.append(row)
            args.out.write_text(json.dumps(rows, indent=1) + "\n")
            print(json.dumps(row), flush=True)
    if args.record:
        write_measurement("small_sets", HEAD, [cells(row) for row in rows])


if __name__ == "__main__":
    main()
