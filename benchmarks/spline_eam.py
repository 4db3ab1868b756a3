"""Distill the shipped model into a spline EAM, and time both on 1000 atoms in turns.

    python benchmarks/spline_eam.py OUT_FOLDER

Crystals of copper and silver, strained and rattled, with and without vacancies, are labeled by the
shipped model; 100 frames are learned from, 25 judge.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

import ase_nnp
from ase_nnp.training import Settings, fit


def frames(teacher, count: int, seed: int) -> list:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        atoms = bulk("Cu", cubic=True, a=3.7) * (2, 2, 2)
        silver = rng.integers(0, 33)
        atoms.numbers[rng.choice(32, silver, replace=False)] = 47
        if number % 3 == 0:
            del atoms[rng.integers(0, 32)]
        width = 1 + 0.12 * silver / 32
        strain = width * np.eye(3) + rng.normal(scale=0.015, size=(3, 3))
        atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
        atoms.rattle(rng.uniform(0.02, 0.2), rng=rng)
        made.append(atoms)
    wanted = ("energy", "forces", "stress")
    for atoms, label in zip(
        made, ase_nnp.predict(teacher, made, wanted, progress=False), strict=True
    ):
        values = {k: np.asarray(label[k]) for k in wanted}
        values["energy"] = float(values["energy"])
        atoms.calc = SinglePointCalculator(atoms, **values)
    return made


def errors(model, test) -> str:
    results = ase_nnp.predict(model, test, ("energy", "forces"), progress=False)
    energy = [
        (r["energy"] - a.get_potential_energy()) / len(a)
        for r, a in zip(results, test, strict=True)
    ]
    forces = np.vstack([r["forces"] - a.get_forces() for r, a in zip(results, test, strict=True)])
    size = np.abs(np.vstack([a.get_forces() for a in test])).mean()
    return (
        f"energy MAE {1e3 * np.abs(energy).mean():.1f} meV/atom, "
        f"forces MAE {1e3 * np.abs(forces).mean():.0f} meV/A of {1e3 * size:.0f}"
    )


def seconds(model, atoms, turns: int = 5) -> list[float]:
    used = []
    for _ in range(turns):
        begin = time.process_time()
        ase_nnp.predict(model, [atoms], ("energy", "forces"), progress=False)
        used.append(time.process_time() - begin)
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher = ase_nnp.load_model(uncertainty=False, device="cpu")
    train, test = frames(teacher, 100, 1), frames(teacher, 25, 2)
    student = ase_nnp.build_model(
        "spline_eam", {"elements": ["Cu", "Ag"], "kind": "fs"}, seed=0, device="cpu"
    )
    settings = Settings(
        epochs=100,
        batch={"structures": 5},
        losses={"energy": {"weight": 10.0}, "forces": {"weight": 1.0}},
        optimizer={"name": "adamw", "lr": 1e-2},
        progress=False,
    )
    begin = time.process_time()
    result = fit(student, train, test, settings, folder=args.out / "student")
    print(f"distilled in {(time.process_time() - begin) / 60:.1f} CPU min:", flush=True)
    print(errors(result.model, test), flush=True)

    atoms = bulk("Cu", a=3.7) * (10, 10, 10)
    atoms.rattle(0.05, seed=0)
    for model in (teacher, result.model):
        seconds(model, atoms, 1)
    turns = [(seconds(teacher, atoms, 1)[0], seconds(result.model, atoms, 1)[0]) for _ in range(5)]
    slow, fast = (median(values) for values in zip(*turns, strict=True))
    print(f"1000 atoms: {1e3 * slow:.0f} ms and {1e3 * fast:.1f} ms CPU, {slow / fast:.0f} times")


if __name__ == "__main__":
    main()
