"""A predictor on a device with memory of its own: speed, memory and neighbors, one mixed set.

    python benchmarks/device.py --device cuda [--model facet] [--structures 4096] [--json]

5 to 500 atoms in one set, in no order of size; batches as the predictor learns them. Written for a
GPU and not run on one yet; without ``--device cuda`` it only shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc111

import ase_nnp
from ase_nnp.models.devices import pick_device
from ase_nnp.models.predictor import Predictor


def mixed(count: int, seed: int = 0) -> list[Atoms]:
    """Cells and slabs of copper from 4 to about 500 atoms."""
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(count):
        if rng.random() < 0.3:
            atoms = bulk("Cu", cubic=True) * tuple(rng.integers(1, 5, 3))
        else:
            side = int(rng.integers(2, 9))
            atoms = fcc111("Cu", (side, side, int(rng.integers(3, 8))), vacuum=8.0)
            atoms.pbc = True
        atoms.rattle(0.03, rng=rng)
        structures.append(atoms)
    return structures


def wait(device: torch.device) -> float:
    """Wall clock once the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="facet")
    parser.add_argument("--structures", type=int, default=4096)
    parser.add_argument("--loop", type=int, default=64, help="structures for the loop")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = pick_device(options.device)
    model = ase_nnp.build_model(options.model, seed=0, device=device).freeze()
    structures = mixed(options.structures)
    predictor = Predictor(model)
    report: dict[str, Any] = {"device": str(device), "model": options.model}
    if device.type == "cuda":
        report["device"] = torch.cuda.get_device_name(device)
    for run in ("learning", "learnt"):
        calls, start = predictor.calls, wait(device)
        predictor(structures, progress=False)
        seconds = wait(device) - start
        report[f"structures a second, {run}"] = len(structures) / seconds
        report[f"batches, {run}"] = predictor.calls - calls
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        report["share of memory at the peak"] = torch.cuda.max_memory_reserved(device) / total
    few = structures[: options.loop]
    loop, start = Predictor(model, max_edges=1), wait(device)
    loop(few, progress=False)
    report["structures a second, loop"] = len(few) / (wait(device) - start)
    start = wait(device)
    for atoms in few:
        model.make_graph([atoms])
    report["ms a graph, one at a time"] = 1e3 * (wait(device) - start) / len(few)
    start = wait(device)
    model.make_graph(few)
    report["ms a graph, together"] = 1e3 * (wait(device) - start) / len(few)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    for name, value in report.items():
        print(f"{name:36s} {value}")


if __name__ == "__main__":
    main()
