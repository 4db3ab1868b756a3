"""Slabs relaxed together against a loop over ASE's own optimizer.

    OMP_NUM_THREADS=1 python benchmarks/batched.py [--case small] [--repeats 3] [--device cuda]

Prints a JSON line for each case: CPU seconds of both (medians of alternated runs; wall seconds on a
GPU), their ratio, the batch size that was chosen, and the largest differences of the results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import ase.optimize
import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111
from measurement import record_option, write_measurement

import ase_nnp
from ase_nnp.workflows.batched import relax_many
from ase_nnp.workflows.batched.evaluate import Evaluator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

SIZES = ((2, 2, 2), (2, 2, 3), (3, 2, 3), (3, 3, 2), (3, 3, 3), (3, 3, 4))
SURFACES = (("ontop", fcc111), ("fcc", fcc111), ("hollow", fcc100), ("bridge", fcc100))
METALS = ("Cu", "Ni", "Pd", "Pt", "Ag", "Au", "Rh", "Ir")


def slabs(count: int, sizes=SIZES, lattice: float | None = None, species=None) -> list[Atoms]:
    """OC20-like: adsorbates on fcc slabs, lower layers fixed, periodic in the plane only."""
    from ase.constraints import FixAtoms

    built = []
    for k in range(count):
        site, make = SURFACES[k % len(SURFACES)]
        metal = (species or METALS)[k % len(species or METALS)]
        size = sizes[k % len(sizes)]
        atoms = make(metal, size, a=lattice or 3.9, vacuum=8.0)
        adsorbate = "OHNC"[k % 4] if species is None else species[-1]
        add_adsorbate(atoms, adsorbate, 1.7, site)
        if k % 3 == 0:
            add_adsorbate(atoms, adsorbate, 3.9, site)
        atoms.pbc = (True, True, False)
        tags = atoms.get_tags()
        atoms.set_constraint(FixAtoms(mask=tags > max(1, tags.max() // 2)))
        atoms.set_tags(np.where(tags == 0, 2, np.where(tags == 1, 1, 0)))
        atoms.rattle(0.05, seed=k)
        built.append(atoms)
    return built


def lj():
    from lj_model import LennardJones

    return LennardJones(0.4, 2.3, 6.0)


CASES = {
    # name: model, slabs, optimizer, steps
    "small": (lj, lambda: slabs(64, ((1, 1, 3), (2, 1, 3), (2, 2, 2)), 3.55), "FIRE", 60),
    "slabs": (lj, lambda: slabs(64, lattice=3.55), "FIRE", 60),
    "slabs-bfgs": (lj, lambda: slabs(64, lattice=3.55), "BFGS", 30),
    "toy": (
        lambda: ase_nnp.load_model(ROOT / "data" / "toy.nnp"),
        lambda: slabs(16, ((1, 1, 3), (2, 1, 3), (2, 2, 2)), 3.65, ("Cu", "Cu", "O")),
        "FIRE",
        25,
    ),
    "large": (
        lambda: ase_nnp.build_model("facet", config={}, seed=0),
        lambda: slabs(64),
        "FIRE",
        20,
    ),
    "sevennet": (  # the package sevenn with its weights
        lambda: ase_nnp.load_model("sevennet", checkpoint="7net-0"),
        lambda: slabs(16),
        "FIRE",
        20,
    ),
}


#: What the table calls their models.
NAMES = {
    "small": "Lennard-Jones",
    "toy": "`data/toy.nnp`",
    "large": "facet (default, random weights, float32)",
    "sevennet": "SevenNet-0 (float32)",
}


def loop(model, structures, optimizer: str, steps: int) -> list[Atoms]:
    """One structure after the other with ASE."""
    ended = []
    for atoms in structures:
        moving = atoms.copy()
        moving.calc = ase_nnp.NNPCalculator(model)
        getattr(ase.optimize, optimizer)(moving, logfile=None).run(fmax=0.02, steps=steps)
        ended.append(moving)
    return ended


def measure(name: str, repeats: int, device: str) -> dict[str, object]:
    """Time one case."""
    make, build, optimizer, steps = CASES[name]
    model = (
        make()
        .to(torch.float32 if name in ("large", "sevennet") else torch.float64)
        .to(device)
        .eval()
    )
    structures = build()
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {"ase": [], "batched": []}
    chosen = []
    note = Evaluator.__call__

    def watched(self, batch):
        results = note(self, batch)
        chosen.append(self.tuner.budget)
        return results

    Evaluator.__call__ = watched
    loop(model, structures[:1], optimizer, 3)  # what compiles at the first calls is nobody's time
    for _ in range(repeats):
        began = clock()
        ours = relax_many(model, structures, optimizer=optimizer, fmax=0.02, steps=steps)
        seconds["batched"].append(clock() - began)
        began = clock()
        theirs = loop(model, structures, optimizer, steps)
        seconds["ase"].append(clock() - began)
    Evaluator.__call__ = note
    energies = [abs(a.energy - b.get_potential_energy()) for a, b in zip(ours, theirs, strict=True)]
    moved = [
        np.abs(a.atoms.positions - b.positions).max() for a, b in zip(ours, theirs, strict=True)
    ]
    sizes = [len(a) for a in structures]
    medians = {k: statistics.median(v) for k, v in seconds.items()}
    return {
        "case": name,
        "device": device,
        "structures": len(structures),
        "atoms": f"{min(sizes)}-{max(sizes)}",
        "optimizer": optimizer,
        "steps": sum(o.steps for o in ours),
        "converged": sum(o.converged for o in ours),
        "ase_s": round(medians["ase"], 2),
        "batched_s": round(medians["batched"], 2),
        "ratio": round(medians["batched"] / medians["ase"], 3),
        "ratios": [
            round(a / b, 3) for a, b in zip(seconds["batched"], seconds["ase"], strict=True)
        ],
        "edges_a_batch": chosen[-1],
        "max_energy_difference_eV": float(max(energies)),
        "max_position_difference_A": float(max(moved)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    record_option(parser)
    chosen_options = parser.parse_args()
    measured = []
    for case in chosen_options.case or CASES:
        measured.append(measure(case, chosen_options.repeats, chosen_options.device))
        print(json.dumps(measured[-1]), flush=True)
    if chosen_options.record:
        head = ["model", "structures", "atoms each", "optimizer"]
        head += ["ASE, CPU s", "here, CPU s", "ratio"]
        keys = ("structures", "atoms", "optimizer", "ase_s", "batched_s", "ratio")
        rows = [
            [NAMES.get(row["case"], NAMES["small"]), *(row[k] for k in keys)] for row in measured
        ]
        write_measurement("batched", head, rows)
