"""What a model in an environment of its own costs more than at home.

    OMP_NUM_THREADS=1 python benchmarks/worker.py --python /path/to/mace/bin/python

66 atoms (CO on copper), positions moved before each call. CPU time, which a busy machine leaves
alone: that of this process for a call (graph, socket, results), plus that of the worker outside of
its model; beside it the wall time of a round trip with a model that costs nothing. The worker is
killed once on the way, to show what happens. ``mace-torch`` must be installed in the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import fcc111, molecule
from measurement import record_option, write_measurement

import ase_nnp

HERE = Path(__file__).parent


#: What the table calls the figures.
WORDS = {
    "model_cpu_ms": "CPU: the model, in the worker",
    "client_cpu_ms": "CPU: this process (tensors, socket, results)",
    "worker_cpu_ms": "CPU: the worker around its model (Atoms, JSON, socket, this benchmark's log)",
    "overhead_cpu_ms": "CPU: overhead of a call",
    "overhead_percent": "the same in % of the model",
    "wall_outside_model_ms_median": "by the clock, outside the model: median",
    "wall_outside_model_ms_least": "by the clock, outside the model: least",
}


def slab() -> Atoms:
    """66 atoms: CO on copper."""
    atoms = fcc111("Cu", (4, 4, 4), vacuum=10.0)
    co = molecule("CO")
    co.positions += atoms.positions[-1] + (0, 0, 1.9) - co.positions[1]
    return atoms + co


def measure(python: str, factory: str, calls: int) -> dict[str, Any]:
    """Medians over ``calls`` calculator calls for energy and forces, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        model = ase_nnp.remote(
            python, f"worker_models:{factory}", {"log": str(log)}, path=[str(HERE)]
        )
        atoms, rng = slab(), np.random.default_rng(0)
        atoms.calc = ase_nnp.NNPCalculator(model)
        start = atoms.positions.copy()
        here, wall = [], []
        for _ in range(calls + 2):
            atoms.positions = start + rng.normal(scale=1e-3, size=start.shape)
            cpu, clock = time.process_time(), time.perf_counter()
            atoms.get_forces()
            here.append(1e3 * (time.process_time() - cpu))
            wall.append(1e3 * (time.perf_counter() - clock))
        rows = 1e3 * np.loadtxt(log)  # CPU and clock before, CPU and clock after
        model.close()
    inside = rows[:, 2] - rows[:, 0]
    between = rows[1:, 0] - rows[:-1, 2]  # the worker's CPU time outside of its model
    outside = np.array(wall) - (rows[:, 3] - rows[:, 1])
    overhead = statistics.median(here[2:]) + float(np.median(between[1:]))
    return {
        "model_cpu_ms": float(np.median(inside[2:])),
        "client_cpu_ms": statistics.median(here[2:]),
        "worker_cpu_ms": float(np.median(between[1:])),
        "overhead_cpu_ms": overhead,
        "overhead_percent": 100 * overhead / float(np.median(inside[2:])),
        "wall_outside_model_ms_median": float(np.median(outside[2:])),
        "wall_outside_model_ms_least": float(outside[2:].min()),
    }


def same_numbers(python: str) -> dict[str, float]:
    """Largest differences to the calculator called in its own environment, without a worker."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "from contract_calculators import mace; import numpy as np; from ase.io import read\n"
        "atoms = read(sys.argv[2]); atoms.calc = mace()\n"
        "print(json.dumps([float(atoms.get_potential_energy()), atoms.get_forces().tolist()]))"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slab.traj"
        slab().write(path)
        done = subprocess.run(
            [python, "-W", "ignore", "-c", code, str(HERE), str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
    energy, forces = json.loads(done.stdout.strip().splitlines()[-1])
    model = ase_nnp.remote(python, "contract_calculators:mace", path=[str(HERE)])
    (row,) = ase_nnp.predict(model, [slab()], ("energy", "forces"))
    os.kill(model.worker.pid or 0, signal.SIGKILL)
    try:
        ase_nnp.predict(model, [slab()])
    except ase_nnp.WorkerError as error:
        print(f"killed: {error}")
    (again,) = ase_nnp.predict(model, [slab()], ("energy", "forces"))
    model.close()
    return {
        "energy_eV": abs(row["energy"] - energy),
        "forces_eV_per_A": float(np.abs(row["forces"] - forces).max()),
        "after_a_kill_energy_eV": abs(again["energy"] - energy),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True, help="interpreter of the environment")
    parser.add_argument("--calls", type=int, default=5)
    record_option(parser)
    options = parser.parse_args()
    report = {
        "machine": f"{platform.processor() or platform.machine()}, one thread",
        "versions": {n: version(n) for n in ("ase_nnp", "torch", "ase", "numpy")},
        "free": measure(options.python, "free", 100),
        "small mace": measure(options.python, "mace", 2 * options.calls),
        "medium mace": measure(options.python, "mace_medium", options.calls),
        "differences": same_numbers(options.python),
    }
    print(json.dumps(report, indent=1))
    if options.record:
        columns = ("free", "small mace", "medium mace")
        rows = [[words, *(report[c][key] for c in columns)] for key, words in WORDS.items()]
        head = ["ms", "a model that costs nothing", "MACE, 32x0e + 32x1o, max_ell 2, 5 Å"]
        write_measurement("worker", [*head, "MACE, 128x0e + 128x1o, max_ell 3, 6 Å"], rows)


if __name__ == "__main__":
    main()
