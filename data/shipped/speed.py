"""A single point on 66 atoms: the shipped model beside its teacher, taking turns in one run.

    python data/shipped/speed.py MODEL.nnp [MODEL.uq] [-o speed.json]

One thread; CPU time, so that other programs matter less; positions move before each call.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from label import teacher

from ase_nnp import NNPCalculator


def slab() -> Atoms:
    """CO on 64 copper atoms."""
    atoms = fcc111("Cu", (4, 4, 4), a=3.63, vacuum=8.0)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop", mol_index=1)
    return atoms


def main() -> None:
    """Print and write medians of CPU ms a call, and ratios of neighboring calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("uncertainty", nargs="?")
    parser.add_argument("--output", "-o", type=Path)
    parser.add_argument("--calls", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    calcs = {"teacher": teacher(), "model": NNPCalculator(args.model, device="cpu")}

    if args.uncertainty:
        calcs["with uncertainty"] = NNPCalculator(
            args.model, device="cpu", uncertainty=args.uncertainty
        )

    spent: dict[str, list[float]] = {name: [] for name in calcs}
    atoms = slab()
    for call in range(args.calls + 2):
        atoms.rattle(0.01, seed=call)
        for name, calc in calcs.items():
            own = atoms.copy()
            own.calc = calc
            start = time.process_time()
            own.get_potential_energy()
            own.get_forces()
            spent[name].append(time.process_time() - start)

    report = {}
    for name, times in spent.items():
        ratio = np.median(np.array(spent["teacher"][2:]) / np.array(times[2:]))
        report[name] = {
            "cpu_ms": round(1e3 * float(np.median(times[2:])), 1),
            "teacher_over_this": round(float(ratio), 1),
        }

    print(json.dumps(report, indent=1))
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
