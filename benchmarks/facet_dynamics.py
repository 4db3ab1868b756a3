"""A trained model in molecular dynamics at constant energy, and its error of rotation.

    python benchmarks/facet_dynamics.py MODEL.nnp FRAMES.xyz --steps 4000

Starts at the first frame with velocities of 300 K. The drift is the slope of a straight line
through the total energy; the rotation error is the largest difference of a force component between
a structure and the same structure turned, over the largest force.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from ase import units
from ase.io import read
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from scipy.spatial.transform import Rotation

from ase_nnp import NNPCalculator


def rotation_error(calculator, frames, turns):
    """Largest relative error over frames and turns."""
    worst = 0.0
    for atoms in frames:
        forces = calculator.get_forces(atoms)
        for turn in turns:
            turned = atoms.copy()
            turned.positions = atoms.positions @ turn.T
            back = calculator.get_forces(turned) @ turn
            worst = max(worst, np.abs(back - forces).max() / np.abs(forces).max())
    return float(worst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("frames")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    args = parser.parse_args()

    torch.set_num_threads(1)
    frames = read(args.frames, ":5")
    calculator = NNPCalculator(args.model, device="cpu", dtype="float64")
    turns = Rotation.random(4, rng=np.random.default_rng(0)).as_matrix()
    result = {"rotation_error_float64": rotation_error(calculator, frames, turns)}

    atoms = frames[0].copy()
    atoms.calc = calculator
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=args.temperature, rng=rng)
    Stationary(atoms)
    if not atoms.pbc.any():
        ZeroRotation(atoms)
    dynamics = VelocityVerlet(atoms, args.timestep * units.fs)
    energies, temperatures = [], []

    def note():
        energies.append(atoms.get_total_energy())
        temperatures.append(atoms.get_temperature())

    dynamics.attach(note, interval=1)
    start = time.process_time()
    dynamics.run(args.steps)
    spent = time.process_time() - start
    energy = 1e3 * np.array(energies) / len(atoms)  # meV an atom
    ps = 1e-3 * args.timestep * np.arange(len(energy))
    result |= {
        "atoms": len(atoms),
        "ps": float(ps[-1]),
        "drift_meV_per_atom_ps": float(np.polyfit(ps, energy, 1)[0]),
        "fluctuation_meV_per_atom": float(energy.std()),
        "mean_temperature_K": float(np.mean(temperatures)),
        "cpu_ms_per_step": 1e3 * spent / args.steps,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
