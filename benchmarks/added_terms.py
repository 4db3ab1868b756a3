"""What corrections and long-range blocks cost beside a model: CPU milliseconds a call, one thread.

python benchmarks/added_terms.py [--repeats 15]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from ase.build import add_adsorbate, bulk, fcc111, molecule

import ase_nnp
from ase_nnp.models.corrections import add_corrections, build_term
from ase_nnp.models.sums import sum_potentials

WANTED = ("energy", "forces")


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Least CPU time of a call; the least is what other processes disturb least."""
    call()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return 1e3 * min(times)


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    slab = fcc111("Cu", (4, 4, 4), vacuum=8.0)
    add_adsorbate(slab, molecule("CO"), 1.9, "fcc", mol_index=1)
    crystal = bulk("Cu", cubic=True).repeat((2, 2, 4))
    crystal.rattle(0.05, seed=0)
    base = ase_nnp.load_model(device="cpu", dtype="float32", uncertainty=False)

    def cost(model, atoms):
        return milliseconds(lambda: ase_nnp.predict(model, [atoms], WANTED), repeats)

    print(f"slab of {len(slab)} atoms and crystal of {len(crystal)}, float32, ms a call")
    print(f"{'model that ships':24s} {cost(base, slab):8.1f} {cost(base, crystal):8.1f}")
    for name in ("d3bj:pbe", "d3zero:pbe", "zbl"):
        term = build_term(name).to(torch.float32)
        print(f"{name:24s} {cost(term, slab):8.1f} {cost(term, crystal):8.1f}")
    both = add_corrections(base, ["d3bj:pbe"])
    print(f"{'model with d3bj:pbe':24s} {cost(both, slab):8.1f} {cost(both, crystal):8.1f}")
    twice = sum_potentials([base, base], [0.5, 0.5])
    print(f"{'sum of two such models':24s} {cost(twice, slab):8.1f} {cost(twice, crystal):8.1f}")

    blocks = {
        "none": None,
        "ewald": {"kind": "ewald"},
        "neural_atoms": {"kind": "neural_atoms"},
        "charges": {"kind": "charges"},
    }
    print("\nblocks in fresh models, the same structures")
    for family, kinds in (("facet", blocks), ("cgcnn_oc20", list(blocks)[:3])):
        for kind in kinds:
            config = {"long_range": blocks[kind]}
            model = ase_nnp.build_model(family, config, seed=0, device="cpu")
            size = sum(p.numel() for p in model.parameters())
            row = f"{family + ', ' + kind:24s} {cost(model, slab):8.1f} {cost(model, crystal):8.1f}"
            print(f"{row} {size:9d} parameters")


if __name__ == "__main__":
    main()
