"""Parameters, forces and CPU time of a model before and after ``splinify``, in turns.

    python benchmarks/splinify.py [MODEL ...] [--turns 9] [--record]

66 atoms (CO on copper), energy and forces on a graph that is given, one thread.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from ase.build import add_adsorbate, fcc111
from measurement import record_option, write_measurement

import ase_nnp

COLUMNS = (
    "model",
    "splines x intervals",
    "parameters before",
    "after",
    "numbers in splines",
    "CPU ms before",
    "after ",
    "before / after",
    "largest force difference, eV/Å",
)


def slab():
    atoms = fcc111("Cu", (4, 4, 4), vacuum=8.0)
    add_adsorbate(atoms, "C", 1.3, "fcc")
    add_adsorbate(atoms, "O", 2.45, "fcc")
    atoms.rattle(0.05, seed=1)
    return atoms


def seconds(model, graph) -> float:
    begin = time.process_time()
    model.compute(graph, ("energy", "forces"))
    return time.process_time() - begin


def row(name: str, turns: int) -> list:
    before = ase_nnp.load_model(name, uncertainty=False, device="cpu")
    after = ase_nnp.splinify(before)
    models = (before, after)
    graphs = [model.make_graph(slab()) for model in models]
    forces = [
        model.compute(graph, ("energy", "forces"))["forces"].detach()
        for model, graph in zip(models, graphs, strict=True)
    ]

    pairs = []
    for turn in range(turns + 2):
        pair = [seconds(model, graph) for model, graph in zip(models, graphs, strict=True)]
        if turn > 1:  # torch compiles some models at first
            pairs.append(pair)
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    count, intervals = after.config["radial_splines"]
    times = [1e3 * median(values) for values in zip(*pairs, strict=True)]

    ratio = median(old / new for old, new in pairs)
    difference = float((forces[0] - forces[1]).abs().max())
    return [
        name,
        f"{count} x {intervals}",
        *counts,
        4 * count * intervals,
        *times,
        ratio,
        difference,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["facet-metals-2"])
    parser.add_argument("--turns", type=int, default=9)
    record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)

    rows = []
    for name in args.models:
        rows.append(row(name, args.turns))
        print(dict(zip(COLUMNS, rows[-1], strict=True)), flush=True)
    if args.record:
        write_measurement("splinify", COLUMNS, rows, keep_others=True)


if __name__ == "__main__":
    main()
