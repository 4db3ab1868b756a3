"""Screening in chunks that relax as batches, against an earlier checkout that went one by one.

    git worktree add /tmp/before COMMIT
    OMP_NUM_THREADS=1 python benchmarks/screening.py --before /tmp/before [--model lj] [--rounds 3]

Both run in processes of their own, in turns, one thread each: CPU seconds of ``screen`` over the
same slabs with everything it stores, the model loaded beforehand. COMMIT is one whose ``screen``
takes a function of one structure (86086d0 is the last). Prints a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CASES = {  # slabs, steps at most, largest force at the end
    "lj": (200, 60, 0.02),
    "shipped": (12, 20, 0.05),
}


def load(name: str):
    """Return the model of a case."""
    if name == "lj":
        import torch
        from lj_model import LennardJones

        return LennardJones(0.4, 2.3, 6.0).to(torch.float64).eval()
    from ase_nnp import NNPCalculator

    return NNPCalculator(uncertainty=False, device="cpu").model


def structures(name: str):
    """Return the slabs of a case: 10 to 37 atoms with adsorbates, lower layers fixed."""
    from batched import slabs

    if name == "lj":
        return slabs(CASES[name][0], lattice=3.55)
    return slabs(CASES[name][0], lattice=3.65, species=("Cu", "Cu", "O"))


def before(name: str, folder: str) -> float:
    """CPU seconds of the earlier form: ASE's optimizer on one structure after the other."""
    from ase_nnp import NNPCalculator
    from ase_nnp.workflows.relax import relax
    from ase_nnp.workflows.screening import screen

    model, given = load(name), structures(name)
    _, steps, fmax = CASES[name]

    def relaxed(atoms):
        return relax(atoms, NNPCalculator(model), fmax=fmax, steps=steps).atoms

    relaxed(given[0])  # what the first call compiles is nobody's time
    began = time.process_time()
    screen(relaxed, given, folder)
    return time.process_time() - began


def after(name: str, folder: str) -> float:
    """CPU seconds of this form, in one thread."""
    from ase_nnp.workflows.batched import relax_many
    from ase_nnp.workflows.screening import screen

    model, given = load(name), structures(name)
    _, steps, fmax = CASES[name]
    relax_many(model, given[0], fmax=fmax, steps=steps)
    with ThreadPoolExecutor(1) as executor:
        began = time.process_time()
        screen(model, given, folder, executor=executor, chunk=64, fmax=fmax, steps=steps)
        return time.process_time() - began


def in_process(which: str, tree: Path, name: str) -> float:
    """Run one of the two forms in a process of its own."""
    paths = [tree, ROOT / "tests" / "helpers", ROOT / "benchmarks", *sorted(tree.glob("plugins/*"))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--run", which, "--model", name, "--folder", folder]
        done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--model", choices=sorted(CASES), default="lj")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", choices=["before", "after"])
    parser.add_argument("--folder")
    options = parser.parse_args()
    if options.run:
        print({"before": before, "after": after}[options.run](options.model, options.folder))
        sys.exit()

    times: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(options.rounds):
        times["before"].append(in_process("before", options.before.resolve(), options.model))
        times["after"].append(in_process("after", ROOT, options.model))
    ratios = [b / a for b, a in zip(times["after"], times["before"], strict=True)]
    report = {"model": options.model, "slabs": CASES[options.model][0]}
    report |= {k: round(statistics.median(v), 2) for k, v in times.items()}
    report |= {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
    }
    print(json.dumps(report))
