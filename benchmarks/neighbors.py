"""Neighbor lists: the batched torch search beside vesin, and how both grow.

    OMP_NUM_THREADS=1 python benchmarks/neighbors.py [--device cuda] [--json]

CPU time of this process on one thread (on a GPU, wall time with synchronisation), medians; the
searches take turns on the same rattled fcc copper. "vesin alone" is its own call, int32 pairs in
numpy and views into its memory; "vesin", "torch" and, where it is installed, "nvalchemi" end with
int64 tensors of our layout.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from measurement import record_option, write_measurement

from ase_nnp import AtomGraph
from ase_nnp.models.neighbors import torch_edges, vesin_edges
from ase_nnp.models.neighbors_nvalchemi import is_installed, nvalchemi_edges

OURS = ("vesin", "torch", "nvalchemi") if is_installed() else ("vesin", "torch")

SIZES = {6.0: (1, 2, 3, 6, 10, 17, 29), 5.0: (6, 29), 4.0: (6, 10, 16, 29)}


def clock(device: str) -> float:
    """CPU seconds of this process; on a GPU wall seconds once it is idle."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def take_turns(
    parts: dict[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, float]:
    """Median milliseconds of each part."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for k in range(rounds + 1):
        for name, part in parts.items():
            start = clock(device)
            part()
            if k:
                times[name].append(1e3 * (clock(device) - start))
    return {name: statistics.median(values) for name, values in times.items()}


def measure(repeat: int, cutoff: float, device: str) -> dict[str, Any]:
    """All searches on a crystal of ``4 repeat^3`` atoms."""
    import vesin

    atoms = bulk("Cu", cubic=True) * ((repeat,) * 3)
    atoms.rattle(0.01, seed=1)
    graph = AtomGraph.from_atoms(atoms, cutoff, dtype=torch.float64)
    here = (graph.positions, graph.cell, graph.pbc, graph.batch, cutoff)
    there = tuple(t.to(device) if isinstance(t, torch.Tensor) else t for t in here)
    alone = vesin.NeighborList(cutoff=cutoff, full_list=True)
    rounds = 15 if len(atoms) < 2000 else 5 if len(atoms) < 50_000 else 3
    xyz, cell = np.asarray(atoms.positions), np.asarray(atoms.cell[:])
    parts: dict[str, Callable[[], object]] = {
        "vesin alone": lambda: alone.compute(xyz, cell, atoms.pbc, quantities="ijSd", copy=False),
        "vesin": lambda: vesin_edges(*here),
        "torch": lambda: torch_edges(*there),
    }
    if is_installed():
        parts["nvalchemi"] = lambda: nvalchemi_edges(*there)
    return {
        "atoms": len(atoms),
        "cutoff": cutoff,
        "edges": graph.num_edges,
        **take_turns(parts, rounds, device),
    }


def exponent(rows: list[dict[str, Any]], name: str, least: int = 800) -> float:
    """Slope of log time against log atoms."""
    used = [r for r in rows if r["atoms"] >= least]
    return float(
        np.polyfit(np.log([r["atoms"] for r in used]), np.log([r[name] for r in used]), 1)[0]
    )


def record(rows: list[dict[str, Any]], device: str) -> None:
    """Write the table."""
    head = ["atoms", "cutoff, Å", "edges", "vesin alone", "vesin", "torch", "torch / vesin"]
    keys = ("atoms", "cutoff", "edges", "vesin alone", "vesin", "torch")
    cells = [[*(row[key] for key in keys), row["torch"] / row["vesin"]] for row in rows]
    name = "neighbors" if device == "cpu" else f"neighbors_{device}"
    write_measurement(name, head, cells, packages=("torch", "vesin", "numpy"))


def main() -> None:
    """Print the table and the exponents of growth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(r, cutoff, options.device) for cutoff, all_ in SIZES.items() for r in all_]
    growth = {
        f"{name}, {cutoff} A": exponent([r for r in rows if r["cutoff"] == cutoff], name)
        for cutoff in SIZES
        for name in OURS
    }
    report = {
        "machine": f"{platform.processor() or platform.machine()}, one thread, {options.device}",
        "versions": {n: version(n) for n in ("torch", "vesin", "numpy")},
        "milliseconds": rows,
        "exponents": growth,
    }
    if options.record:
        record(rows, options.device)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(report["machine"], report["versions"])
    names = ("vesin alone", *OURS)
    print(f"{'atoms':>7s} {'cutoff':>6s} {'edges':>9s}", *(f"{name:>12s}" for name in names))
    for r in rows:
        times = (f"{r[name]:12.2f}" for name in names)
        print(f"{r['atoms']:7d} {r['cutoff']:6.1f} {r['edges']:9d}", *times)
    for name, value in growth.items():
        print(f"time of {name} grows as atoms^{value:.2f} above 800 atoms")


if __name__ == "__main__":
    main()
