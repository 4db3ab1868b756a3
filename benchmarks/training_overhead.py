"""What `fit` costs around a training step: beside a bare loop that does the same arithmetic.

    python benchmarks/training_overhead.py DATA_FOLDER

Both take turns in one process on the same 50 AcAc frames with the same small Facet: batches of 5,
AdamW, clipping, an average of the weights. Times are CPU time a step.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ase.io import read

import ase_nnp
from ase_nnp import AtomGraph
from ase_nnp.training import Settings, fit

CONFIG = {
    "species": [1, 6, 8],
    "hidden_irreps": ["32x0e + 16x1o + 8x2e"] * 2,
    "outs_per_node": 32,
    "avg_num_neighbors": 12.0,
    "edge_embed": {"r_max": 5.0},
}


def fresh():
    return ase_nnp.build_model("facet", CONFIG, seed=0, device="cpu")


def bare(frames, epochs):
    model = fresh()
    graphs = []
    for atoms in frames:
        graph = model.make_graph(atoms)
        energy = torch.tensor([atoms.get_potential_energy()], dtype=torch.float64)
        forces = torch.tensor(atoms.get_forces(), dtype=model.dtype)
        graphs.append(graph.replace(extra={"energy": energy, "forces": forces}))
    model.train()
    mean = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    steps, last = [], time.process_time()
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(graphs))
        for part in np.array_split(order, len(graphs) // 5):
            batch = AtomGraph.collate([graphs[i] for i in part])
            out = model.compute(batch, ("energy", "forces"))
            size = batch.atoms_per_structure()
            loss = ((out["energy"] - batch.extra["energy"]) / size).square().mean()
            loss = loss + (out["forces"] - batch.extra["forces"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            with torch.no_grad():
                for old, now in zip(mean.parameters(), model.parameters(), strict=True):
                    old.lerp_(now, 0.01)
            float(loss.detach())
            now = time.process_time()
            steps.append(now - last)
            last = now
    return steps


def ours(frames, epochs):
    times = []

    def look(model):
        times.append(time.process_time())
        return torch.zeros(())

    settings = Settings(
        epochs=epochs, batch={"structures": 5}, optimizer={"lr": 1e-4}, progress=False
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(fresh(), frames, None, settings, folder=folder, penalty=look)
    # The first epoch builds the graphs, which the bare loop has before it starts.
    return np.diff(times)[len(frames) // 5 :].tolist()


def main() -> None:
    torch.set_num_threads(1)
    frames = read(Path(sys.argv[1]) / "acac" / "train_300K.xyz", ":50")
    loop, module = [], []
    for _ in range(3):
        loop += bare(frames, 2)[1:]
        module += ours(frames, 3)
    a, b = (1e3 * float(np.median(x)) for x in (loop, module))
    print(f"bare loop {a:.1f} ms, fit {b:.1f} ms a step: {100 * (b / a - 1):+.1f} %")


if __name__ == "__main__":
    main()
