"""What error bars cost: ratios of times, in one run, one thread, interleaved.

    python benchmarks/uncertainty_overhead.py [--family facet] [--atoms 60]

Prints a table of medians over interleaved repeats, each against energy and forces of the plain
model in the same repeat.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from ase.build import bulk, molecule
from measurement import record_option, write_measurement

from ase_nnp.models.conservative import Conservative
from ase_nnp.models.files import build_model
from ase_nnp.uncertainty.fitting import wrap

torch.set_num_threads(1)


class MessagePassing(Conservative):
    """Two rounds of invariant messages with 32 features: a stand-in where no family is named."""

    cutoff = 5.0

    def __init__(self, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(100, width)
        self.register_buffer("centers", torch.linspace(0.5, 5.0, 16))

        def mlp(a, b):
            return torch.nn.Sequential(
                torch.nn.Linear(a, width), torch.nn.SiLU(), torch.nn.Linear(width, b)
            )

        self.filters = torch.nn.ModuleList([mlp(16, width) for _ in range(2)])
        self.updates = torch.nn.ModuleList([mlp(width, width) for _ in range(2)])
        self.readout = torch.nn.Linear(width, 1)

    def energies(self, graph):
        source, target = graph.edge_index
        r = graph.edge_vectors().norm(dim=-1, keepdim=True)
        basis = torch.exp(-4 * (r - self.centers) ** 2) * (1 - (r / self.cutoff) ** 2) ** 2
        x = self.embed(graph.atomic_numbers)
        for make, update in zip(self.filters, self.updates, strict=True):
            message = torch.zeros_like(x).index_add(0, target, make(basis) * x[source])
            x = x + update(message)
        atoms = self.readout(torch.nn.functional.silu(x))[:, 0]
        return atoms.new_zeros(graph.num_structures).index_add(0, graph.batch, atoms)


def clock(run) -> float:
    run()  # so that what ran before, with its caches, does not count
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family")
    parser.add_argument("--config", type=json.loads, default={})
    parser.add_argument("--molecule", default="C2H6CHOH")
    parser.add_argument("--crystal", action="store_true", help="64 atoms of rattled MgO instead")
    parser.add_argument("--repeats", type=int, default=15)
    record_option(parser)
    options = parser.parse_args()

    def make(seed):
        if options.family is None:
            return MessagePassing(seed=seed).freeze()
        return build_model(options.family, options.config, seed=seed).freeze()

    if options.crystal:
        atoms = bulk("MgO", "rocksalt", 4.2, cubic=True) * 2
    else:
        atoms = molecule(options.molecule)
    train = []
    for seed in range(8):
        frame = atoms.copy()
        frame.rattle(0.05, seed=seed)
        train.append(frame)
    members = [make(seed) for seed in range(5)]
    model = members[0]
    graph = model.make_graph(train[0])
    single = {"train": train, "noise": {"energy": 0.1}}
    none = wrap("last_layer", model, force_std="none", **single)
    runs = {
        "plain": (model, ("energy", "forces")),
        "last layer, energy and atoms": (none, none.outputs),
        "last layer, exact force std": (
            wrap("last_layer", model, **single),
            ("energy", "forces", "energy_std", "forces_std"),
        ),
        "last layer, 16 samples": (
            wrap("last_layer", model, force_std="sampled", **single),
            ("energy", "forces", "energy_std", "forces_std"),
        ),
        "latent distance": (
            wrap("latent", model, train=train),
            ("energy", "forces", "ood_score", "ood_flag"),
        ),
        "last layer and latent distance": (
            wrap("latent", none, train=train),
            ("energy", "forces", "energy_std", "energies_std", "ood_score", "ood_flag"),
        ),
        "5 members in turn": (wrap("ensemble", members, mode="sequential"), ("energy", "forces")),
        "5 members, auto": (wrap("ensemble", members), ("energy", "forces")),
    }
    try:
        joint = wrap("ensemble", members, mode="batched")
        joint.compute(graph, ("energy", "forces"))
        runs["5 members batched"] = (joint, ("energy", "forces"))
    except Exception as error:  # whatever torch.func says about this model
        print("cannot be batched:", type(error).__name__)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.repeats + 2):
        for name, (method, wanted) in runs.items():
            wanted = [w for w in wanted if w != "stress"]
            took = clock(lambda m=method, w=wanted: m.compute(graph, w))
            if repeat >= 2:
                times[name].append(took)
    plain = np.array(times["plain"])
    print(f"{options.family or 'stand-in'}, {len(atoms)} atoms, {graph.num_edges} edges")
    for name, values in times.items():
        print(f"{name:32s} {1e3 * np.median(values):9.2f} ms  {np.median(values / plain):6.2f} x")
    if options.record:
        head = ["model", "what", "CPU ms", "times the plain model"]
        rows = [
            [options.family or "stand-in", k, 1e3 * np.median(v), np.median(v / plain)]
            for k, v in times.items()
        ]
        write_measurement("uncertainty_overhead", head, rows, keep_others=True)
    auto = runs["5 members, auto"][0].runner
    print("auto chose", auto.choice, "-", auto.reason)


if __name__ == "__main__":
    main()
