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
from measurement import record_option, write_measurement

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
    record_option(parser)
    options = parser.parse_args()
    repeats, rows = options.repeats, []
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    slab = fcc111("Cu", (4, 4, 4), vacuum=8.0)
    add_adsorbate(slab, molecule("CO"), 1.9, "fcc", mol_index=1)
    crystal = bulk("Cu", cubic=True).repeat((2, 2, 4))
    crystal.rattle(0.05, seed=0)
    base = ase_nnp.load_model(device="cpu", dtype="float32", uncertainty=False)

    def cost(model, atoms):
        return milliseconds(lambda: ase_nnp.predict(model, [atoms], WANTED), repeats)

    def line(name, model, words=""):
        rows.append([name, cost(model, slab), cost(model, crystal)])
        print(f"{name:24s} {rows[-1][1]:8.1f} {rows[-1][2]:8.1f} {words}", flush=True)

    print(f"slab of {len(slab)} atoms and crystal of {len(crystal)}, float32, ms a call")
    line("model that ships", base)
    for name in ("d3bj:pbe", "d3zero:pbe", "zbl"):
        line(name, build_term(name).to(torch.float32))
    line("model with d3bj:pbe", add_corrections(base, ["d3bj:pbe"]))
    line("sum of two such models", sum_potentials([base, base], [0.5, 0.5]))

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
            line(f"{family}, {kind}", model, f"{size} parameters")
    if options.record:
        write_measurement("added_terms", ["ms a call", "slab", "crystal"], rows)


if __name__ == "__main__":
    main()
