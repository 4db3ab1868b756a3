"""What `fit` costs around a training step: beside a bare loop that does the same arithmetic.

    python benchmarks/training_overhead.py DATA_FOLDER [--record]

Both take turns in one process on the same 50 AcAc frames with the same small Facet: batches of 5,
AdamW, clipping, an average of the weights. Times are CPU time a step.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ase.io import read
from measurement import record_option, write_measurement

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    frames = read(args.data / "acac" / "train_300K.xyz", ":50")
    # Short turns, so that a change of the machine's load meets both.
    turns = [(np.median(bare(frames, 1)[1:]), np.median(ours(frames, 2))) for _ in range(7)]
    loop, module = (1e3 * float(np.median(x)) for x in zip(*turns, strict=True))
    ratio = float(np.median([b / a for a, b in turns]))
    print(f"bare loop {loop:.1f} ms, fit {module:.1f} ms a step: {ratio:.2f} times")
    print("in each turn:", [f"{b / a:.2f}" for a, b in turns])
    if args.record:
        head = ["a training step, CPU ms: a bare loop", "`fit`", "`fit` / bare loop"]
        write_measurement("training_overhead", head, [[loop, module, ratio]])


if __name__ == "__main__":
    main()
