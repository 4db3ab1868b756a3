"""Five picoseconds at 1000 K, and the energy that a trajectory without a thermostat loses.

    python data/shipped/dynamics.py MODEL.nnp [-o report.json]

A crystal with a vacancy and two covered slabs. Langevin at 1000 K decides whether the model keeps
them together; from its end, one picosecond of NVE in double precision gives the drift: the slope of
the total energy, which Verlet's algorithm keeps if the forces are the energy's gradient and smooth.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.build import add_adsorbate, bcc110, bulk, fcc111, molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from make_structures import LATTICE
from measure import arguments, store
from wide_crystals import nearest
from wide_surfaces import fixed

from ase_nnp import NNPCalculator

KELVIN = 1000
#: Steps of 1 fs, 0.5 fs where hydrogen moves.
STEPS, NVE_STEPS = 5000, 1000
#: Nearer than this part of the sum of covalent radii, two atoms have run into each other.
NEAREST = 0.6


@dataclass
class System:
    """What is heated."""

    name: str
    atoms: Atoms
    step_fs: float = 1.0


def systems() -> Iterator[System]:
    """Yield the three systems."""
    crystal = bulk("Cu", cubic=True, a=LATTICE["Cu"]) * 2
    del crystal[0]
    yield System("Cu crystal with a vacancy", crystal)

    slab = fcc111("Pt", (2, 2, 3), a=LATTICE["Pt"], vacuum=7.0)
    add_adsorbate(slab, molecule("CO"), 1.9, "ontop", mol_index=1)
    slab.positions[-2:, 2] = slab.positions[-3, 2] + np.array([3.0, 1.85])
    yield System("CO on Pt(111)", fixed(slab))

    slab = bcc110("Mo", (2, 2, 3), a=LATTICE["Mo"], vacuum=7.0)
    add_adsorbate(slab, "O", 1.3, "hollow")
    add_adsorbate(slab, "H", 1.2, "longbridge", offset=(1, 1))
    yield System("O and H on Mo(110)", fixed(slab), step_fs=0.5)


def heated(system: System, args: argparse.Namespace) -> dict[str, float | bool]:
    """Return what became of a system."""
    atoms, rng = system.atoms.copy(), np.random.default_rng(1)
    atoms.calc = NNPCalculator(args.model, device="cpu", uncertainty=False)
    MaxwellBoltzmannDistribution(atoms, temperature_K=KELVIN, rng=rng)
    gaps, kelvin = [], []

    heat = {"temperature_K": KELVIN, "friction": 0.01 / units.fs, "rng": rng, "fixcm": False}
    run = Langevin(atoms, system.step_fs * units.fs, **heat)
    run.attach(lambda: gaps.append(nearest(atoms)), interval=20)
    run.attach(lambda: kelvin.append(atoms.get_temperature()), interval=20)
    run.run(round(STEPS / system.step_fs))

    atoms.calc = NNPCalculator(args.model, device="cpu", dtype="float64", uncertainty=False)
    total = []
    free = VelocityVerlet(atoms, system.step_fs * units.fs)
    free.attach(lambda: total.append(atoms.get_total_energy()), interval=1)
    free.run(round(NVE_STEPS / system.step_fs))

    picoseconds = np.arange(len(total)) * system.step_fs / 1000
    slope, _ = np.polyfit(picoseconds, np.array(total) / len(atoms), 1)
    return {
        "stable": bool(min(gaps) > NEAREST),
        "nearest": round(float(min(gaps)), 3),
        "mean_K": round(float(np.mean(kelvin[len(kelvin) // 5 :]))),
        "drift_meV_per_atom_per_ps": round(1e3 * float(slope), 4),
        "spread_meV_per_atom": round(1e3 * float(np.std(total)) / len(atoms), 4),
    }


def main() -> None:
    """All three."""
    args = arguments(__doc__)
    store(args, "dynamics", {s.name: heated(s, args) for s in systems()})


if __name__ == "__main__":
    main()
