"""Train the toy model ``toy.nnp`` on adsorbates on metal slabs with EMT labels.

    python data/make_model.py [STEPS]

A few minutes on one CPU core. The structures are those of ``make_data.py`` and more of the same
kind, most of them frames of short, hot EMT runs. The model is for trying the software: it knows
these slabs only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from make_data import structures

import ase_nnp
from ase_nnp.models.graph import AtomGraph

HERE = Path(__file__).parent
CONFIG = {
    "hidden_irreps": ["16x0e + 8x1o + 4x2e"],
    "outs_per_node": 8,
    "edge_embed": {"r_max": 4.5},
    "species": [1, 6, 7, 8, 28, 29, 46, 78],
}


def trajectory_frames(seed: int) -> list:
    """Structures with EMT labels: slabs as made, and frames of hot dynamics from them."""
    rng = np.random.default_rng(seed)
    frames = []
    for slab in structures(40, rng):
        atoms = slab.copy()
        atoms.calc = EMT()
        run = Langevin(atoms, 2 * units.fs, temperature_K=600, friction=0.02, rng=rng, fixcm=False)
        for _ in range(8):
            frame = atoms.copy()
            energy = atoms.get_potential_energy()
            frames.append((frame, energy, atoms.get_forces(apply_constraint=False)))
            run.run(12)
    return frames


def main(steps: int) -> None:
    """Train, report the error on structures of another seed, and save."""
    torch.set_num_threads(1)
    train, test = trajectory_frames(1), trajectory_frames(2)[::5]
    numbers = CONFIG["species"]

    def counts(frames: list) -> np.ndarray:
        return np.array([[np.sum(f.numbers == z) for z in numbers] for f, _, _ in frames])

    energies = np.array([e for _, e, _ in train])
    shift, *_ = np.linalg.lstsq(counts(train).astype(float), energies, rcond=1e-8)
    model = ase_nnp.build_model("facet", CONFIG, seed=0, device="cpu")
    with torch.no_grad():  # start from the least-squares energy of each element
        rescale = next(m for m in model.modules() if hasattr(m, "global_shift"))
        rescale.shift[1:] = torch.tensor(shift, dtype=torch.float32)
    model.train()
    graphs = [model.make_graph([f]) for f, _, _ in train]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    rng = np.random.default_rng(0)
    for step in range(steps):
        chosen = rng.choice(len(train), 8, replace=False)
        outputs = model(AtomGraph.collate([graphs[k] for k in chosen]))
        size = torch.tensor([len(train[k][0]) for k in chosen])
        energy = torch.tensor([train[k][1] for k in chosen], dtype=torch.float32)
        forces = torch.tensor(np.concatenate([train[k][2] for k in chosen]), dtype=torch.float32)
        loss = ((outputs["energy"] - energy) / size).square().mean() * 10
        loss = loss + (outputs["forces"] - forces).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    model.eval()
    results = ase_nnp.predict(model, [f for f, _, _ in test])
    sizes = np.array([len(f) for f, _, _ in test])
    wrong = np.array([r["energy"] - e for r, (_, e, _) in zip(results, test, strict=True)])
    force = np.concatenate([r["forces"] - f for r, (_, _, f) in zip(results, test, strict=True)])
    report = {
        "labels": "ASE EMT (classical), not DFT",
        "training_structures": len(train),
        "test_energy_mae_meV_per_atom": round(float(np.abs(wrong / sizes).mean()) * 1e3, 2),
        "test_force_mae_meV_per_A": round(float(np.abs(force).mean()) * 1e3, 1),
        "license": "CC0",
    }
    print(report)
    ase_nnp.save_model(model, HERE / "toy.nnp", **report)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
