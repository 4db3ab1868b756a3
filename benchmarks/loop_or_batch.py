"""Does the predictor find the faster of loop and batches on a CPU, and what does looking cost?

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/loop_or_batch.py [--json]

CPU time on one thread; loop, batches of the default budget and the automatic choice take turns, the
last with a predictor that has learnt nothing yet in every round. Medians of the rounds.

    python benchmarks/loop_or_batch.py --small FAMILY ... [--rounds 3]

Sixteen cells of 4, 8 and 16 atoms: a set too small to measure on, which goes by size.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from importlib.metadata import version

import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.models.predictor import MAX_ATOMS, MAX_EDGES, Predictor


def slab(seed: int) -> Atoms:
    """66 atoms: CO on copper."""
    atoms = fcc111("Cu", (4, 4, 4), vacuum=10.0)
    co = molecule("CO")
    co.positions += atoms.positions[-1] + (0, 0, 1.9) - co.positions[1]
    atoms += co
    atoms.rattle(0.02, seed=seed)
    return atoms


def cell(seed: int, repeat: int = 1) -> Atoms:
    """4 atoms of copper, or 32."""
    atoms = bulk("Cu", cubic=True) * ((repeat,) * 3)
    atoms.rattle(0.02, seed=seed)
    return atoms


def sets(count: int) -> dict[str, list[Atoms]]:
    """Three sets of structures."""
    mixed = [(slab, cell, lambda k: cell(k, 2))[k % 3](k) for k in range(count)]
    return {
        f"{count} slabs of 66 atoms": [slab(k) for k in range(count)],
        f"{4 * count} cells of 4 atoms": [cell(k) for k in range(4 * count)],
        f"{count} of 4, 32 and 66 atoms": mixed,
    }


def measure(model: ase_nnp.Potential, structures: list[Atoms], rounds: int) -> dict[str, float]:
    """Median CPU seconds of the three ways."""
    ways = {
        "loop": {"max_edges": 1},
        "batches": {"max_edges": MAX_EDGES, "max_atoms": MAX_ATOMS},
        "automatic": {},
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    Predictor(model, max_edges=1)(structures[:2])
    for _ in range(rounds):
        for name, options in ways.items():
            gc.collect()
            start = time.process_time()
            Predictor(model, **options)(structures, progress=False)
            times[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    medians["automatic over better"] = statistics.median(
        a / min(b, c)
        for a, b, c in zip(times["automatic"], times["loop"], times["batches"], strict=True)
    )
    return medians


MODELS = {
    "cgcnn_oc20, 3 x 64": (
        "cgcnn_oc20",
        {"atom_embedding_size": 64, "num_graph_conv_layers": 3, "fc_feat_size": 64},
    ),
    "cgcnn_oc20, 1 x 8": (
        "cgcnn_oc20",
        {"atom_embedding_size": 8, "num_graph_conv_layers": 1, "fc_feat_size": 8},
    ),
    "facet": ("facet", {}),
}


def small_sets(names: list[str], rounds: int, record: bool) -> None:
    """Print, and write down, how sixteen small structures fare."""
    rows = []
    for name in names:
        family, config = MODELS.get(name, (name, {}))
        model = ase_nnp.build_model(family, config, seed=0).freeze()
        for repeat in ((1, 1, 1), (2, 1, 1), (2, 2, 1)):
            structures = [bulk("Cu", cubic=True) * repeat for _ in range(16)]
            for k, atoms in enumerate(structures):
                atoms.rattle(0.02, seed=k)
            graph = model.make_graph(structures[:1])
            medians = measure(model, structures, rounds)
            loop = medians["loop"]
            ratios = [loop / medians[way] for way in ("batches", "automatic")]
            size = str(graph.num_edges + graph.num_atoms)
            figures = [f"{1000 * loop / 16:.3g}", *(f"{ratio:.2f}" for ratio in ratios)]
            rows.append([name, str(graph.num_atoms), size, *figures])
            print(*rows[-1], sep="\t", flush=True)
    if record:
        head = ["model", "atoms", "edges + atoms", "ms each in a loop"]
        head += ["loop / batches of the default budget", "loop / automatic"]
        write_measurement("loop_or_batch_small", head, rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only rows with this text in their name")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", nargs="+", metavar="FAMILY", help="sixteen small cells instead")
    record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.small:
        small_sets(options.small, options.rounds, options.record)
        return
    models = {
        name: ase_nnp.build_model(family, config, seed=0).freeze()
        for name, (family, config) in MODELS.items()
    }
    report = {
        "machine": f"{platform.processor() or platform.machine()}, one thread",
        "versions": {n: version(n) for n in ("ase_nnp", "torch")},
    }
    if not options.json:
        print(report["machine"], report["versions"], flush=True)
    times: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        for label, structures in sets(options.count).items():
            if options.only not in f"{name}, {label}":
                continue
            medians = times[f"{name}, {label}"] = measure(model, structures, options.rounds)
            if not options.json:
                figures = "  ".join(f"{k} {v:.3f}" for k, v in medians.items())
                print(f"{name + ', ' + label:48s}", figures, flush=True)
    if options.record:
        head = ["model and set", "loop", "batches", "automatic", "automatic / better"]
        rows = [[name, *medians.values()] for name, medians in times.items()]
        write_measurement("loop_or_batch", head, rows)
    if options.json:
        print(json.dumps({**report, "cpu_seconds": times}, indent=1))


if __name__ == "__main__":
    main()
