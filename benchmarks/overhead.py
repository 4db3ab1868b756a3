"""What the package costs around a model: graph, transfers, results; and batches against a loop.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/overhead.py [--json] [--record]

CPU time of this process on one thread, medians; positions move before each call, and the timed
parts take turns, so that a noisy machine hits all of them alike.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from measurement import write_measurement

import ase_nnp
from ase_nnp.models.predictor import Predictor


class Free(ase_nnp.Potential):
    """A model that costs nothing, with the cutoff and the cap of a typical one."""

    cutoff, max_neighbors = 6.0, 50
    outputs = ("energy", "forces")

    def forward(self, graph: ase_nnp.AtomGraph) -> dict[str, torch.Tensor]:
        """Return zeros."""
        return {
            "energy": graph.positions.new_zeros(graph.num_structures),
            "forces": torch.zeros_like(graph.positions),
        }


class AllNeighbors(Free):
    """The same without a cap."""

    max_neighbors = None


def slab() -> Atoms:
    """66 atoms: CO on copper."""
    atoms = fcc111("Cu", (4, 4, 4), vacuum=10.0)
    co = molecule("CO")
    co.positions += atoms.positions[-1] + (0, 0, 1.9) - co.positions[1]
    return atoms + co


def take_turns(parts: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each part, in turns."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for k in range(rounds + 3):
        for name, part in parts.items():
            start = time.process_time()
            part()
            if k >= 3:
                times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def moving(atoms: Atoms) -> Callable[[], object]:
    """Move the atoms a little and ask for forces."""
    start, rng = atoms.positions.copy(), np.random.default_rng(0)

    def call() -> object:
        atoms.positions = start + rng.normal(scale=1e-3, size=start.shape)
        return atoms.get_forces()

    return call


def overhead() -> dict[str, float]:
    """CPU milliseconds a call around a free model."""
    capped, every = slab(), slab()
    capped.calc, every.calc = ase_nnp.NNPCalculator(Free()), ase_nnp.NNPCalculator(AllNeighbors())
    still, free = slab(), Free()
    return take_turns(
        {
            "calculator, 50 nearest neighbors": moving(capped),
            "calculator, all neighbors": moving(every),
            "of this the graph, 50 nearest": lambda: free.make_graph([still]),
        },
        rounds=100,
    )


def throughput(models: dict[str, ase_nnp.Potential]) -> dict[str, float]:
    """Time of a loop over that of one batched call, for 16 structures."""
    ratios = {}
    sets = {"16 slabs of 66 atoms": [slab() for _ in range(16)]}
    sets["16 cells of 4 atoms"] = [bulk("Cu", cubic=True) for _ in range(16)]
    for label, structures in sets.items():
        for name, model in models.items():
            loop = Predictor(model, max_edges=1)
            batch = Predictor(model)
            one = Predictor(model, max_edges=10**9, max_atoms=10**9)
            times = take_turns(
                {
                    "loop": lambda loop=loop, s=structures: loop(s),
                    "batched": lambda batch=batch, s=structures: batch(s),
                    "one batch": lambda one=one, s=structures: one(s),
                },
                rounds=5,
            )
            ratios[f"{name}, {label}, default batches"] = times["loop"] / times["batched"]
            ratios[f"{name}, {label}, one batch"] = times["loop"] / times["one batch"]
    return ratios


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    sizes = {"atom_embedding_size": 64, "num_graph_conv_layers": 3, "fc_feat_size": 64}
    models = {"cgcnn_oc20": ase_nnp.build_model("cgcnn_oc20", sizes, seed=0).freeze()}
    report = {
        "machine": f"{platform.processor() or platform.machine()}, one thread",
        "versions": {n: version(n) for n in ("ase_nnp", "torch", "ase", "vesin", "numpy")},
        "overhead_cpu_ms": overhead(),
        "loop_over_batch": throughput(models),
    }
    if "--record" in sys.argv:
        packages = ("torch", "ase", "vesin", "numpy")
        rows = list(report["overhead_cpu_ms"].items())
        write_measurement("overhead", ["what", "CPU ms"], rows, packages=packages)
        rows = list(report["loop_over_batch"].items())
        head = ["model and structures", "loop over batches"]
        write_measurement("overhead_batches", head, rows, packages=packages)
    if "--json" in sys.argv:
        print(json.dumps(report, indent=1))
        return
    print(report["machine"], report["versions"])
    for name, value in report["overhead_cpu_ms"].items():
        print(f"{name:55s} {value:8.2f} ms")
    for name, value in report["loop_over_batch"].items():
        print(f"{name:55s} {value:8.2f} times a loop")


if __name__ == "__main__":
    main()
