"""The calculator inside ASE's own algorithms: bands, filters, dynamics, vibrations."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import fcc111
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import Trajectory, read
from ase.md import VelocityVerlet
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.vibrations import Vibrations

from ase_nnp import NNPCalculator, build_model


def warm_up(atoms):
    """Momenta of 300 K; ASE's own function for this goes by other names in other releases."""
    widths = np.sqrt(atoms.get_masses() * units.kB * 300)[:, None]
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * widths)


@pytest.mark.parametrize("shared", [True, False])
def test_a_band_runs_with_a_shared_calculator_and_with_one_each(lj, shared):
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    slab.set_constraint(FixAtoms(range(4)))
    first = slab.copy()
    first += Atoms("Cu", positions=[slab.positions[4] + (1.2, 0.7, 1.9)])
    last = first.copy()
    last.positions[-1] += (1.2, 0.7, 0.0)
    images = [first, *(first.copy() for _ in range(2)), last]
    calc = NNPCalculator(lj)
    for image in images:
        image.calc = calc if shared else calc.clone()
    band = NEB(images, allow_shared_calculator=shared, method="improvedtangent")
    band.interpolate()
    BFGS(band, logfile=None).run(fmax=0.3, steps=5)
    assert np.isfinite([image.get_potential_energy() for image in images]).all()


def test_a_cell_relaxes_through_the_frechet_filter(copper):
    FIRE(FrechetCellFilter(copper), logfile=None).run(fmax=1e-3, steps=300)
    assert np.abs(copper.get_stress()).max() < 1e-3


def test_dynamics_conserves_energy(copper):
    copper *= (2, 2, 2)
    copper.calc = NNPCalculator(build_model("lj", dtype="float64", device="cpu"))
    warm_up(copper)
    start = copper.get_total_energy()
    VelocityVerlet(copper, 1.0 * units.fs).run(50)
    assert abs(copper.get_total_energy() - start) / len(copper) < 1e-3


def test_a_thermostat_asks_for_its_conserved_energy(copper):
    warm_up(copper)
    dynamics = NoseHooverChainNVT(copper, units.fs, temperature_K=300, tdamp=100 * units.fs)
    dynamics.run(3)
    assert np.isfinite(dynamics.get_conserved_energy())


def test_vibrations_of_a_dimer(lj, tmp_path):
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.6]])
    atoms.calc = NNPCalculator(lj)
    BFGS(atoms, logfile=None).run(fmax=1e-5)
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
    vibrations.run()
    modes = vibrations.get_energies()
    assert np.sum(modes.real > 1e-3) == 1  # one stretch, five motions of the whole


def test_calculators_add_up(copper):
    alone = copper.get_potential_energy()
    twice = copper.copy()
    twice.calc = SumCalculator([copper.calc, copper.calc.clone()])
    assert twice.get_potential_energy() == pytest.approx(2 * alone)
    assert twice.get_stress() == pytest.approx(2 * copper.get_stress())


def test_a_trajectory_keeps_every_step(copper, tmp_path):
    with Trajectory(tmp_path / "run.traj", "w", copper) as out:
        FIRE(copper, logfile=None, trajectory=out).run(fmax=0.01, steps=4)
    frames = read(tmp_path / "run.traj", ":")
    assert len(frames) >= 4
    assert frames[-1].get_potential_energy() == pytest.approx(copper.get_potential_energy())
