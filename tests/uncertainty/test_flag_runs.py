"""Runs that the flag of a model stops, or turns back."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.constraints import FixAtoms
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from toy_models import Pair, label, molecules

from ase_nnp import NNPCalculator, sum_potentials
from ase_nnp.errors import ConfigError, UncertaintyError
from ase_nnp.models.predictor import predict
from ase_nnp.uncertainty import UncertaintyMonitor, UncertaintyWarning, fit
from ase_nnp.workflows.batched.monitor_pool import MonitorPool


@pytest.fixture(scope="module")
def bars():
    truth = Pair(hidden=8, seed=9).double()
    train = label(molecules(40, seed=1, spread=0.05), truth)
    return fit("auto", Pair(seed=3).double(), train=train,
               calibration=label(molecules(25, seed=2, spread=0.05), truth))  # fmt: skip


def running(bars, kelvin=3000.0):
    atoms = molecules(1, seed=3, spread=0.0)[0]
    rng = np.random.default_rng(0)
    width = np.sqrt(atoms.get_masses() * units.kB * kelvin)[:, None]
    atoms.set_momenta(width * rng.standard_normal((len(atoms), 3)))
    atoms.calc = NNPCalculator(bars)
    return atoms, VelocityVerlet(atoms, 0.5 * units.fs)


def flagged(bars, atoms):
    return bool(predict(bars, [atoms], ("energy", "ood_flag"))[0]["ood_flag"])


@pytest.fixture(scope="module")
def first(bars):
    """The first flagged step of a run that nothing stops."""
    atoms, dyn = running(bars)
    steps = (number for number, _ in enumerate(dyn.irun(300)) if flagged(bars, atoms))
    return next(steps)


@pytest.mark.parametrize("key", ["ood_flag", "ood_score"])
def test_molecular_dynamics_stops_at_the_first_flagged_step(bars, first, key):
    assert first > 0
    _, dyn = running(bars)
    UncertaintyMonitor(dyn, key)
    with pytest.warns(UncertaintyWarning, match=key):
        dyn.run(300)
    assert dyn.nsteps == first


def test_a_branch_goes_back_to_the_last_trusted_step_with_the_same_energy(bars, first):
    atoms, dyn = running(bars)
    seen = []
    monitor = UncertaintyMonitor(
        dyn, "ood_score", mode="branch", callback=lambda a, e: seen.append(a.positions.copy())
    )
    states = []
    dyn.attach(lambda: states.append((atoms.positions.copy(), atoms.get_kinetic_energy())))
    with pytest.warns(UncertaintyWarning):
        dyn.run(first + 80)
    assert dyn.nsteps == first + 80
    assert len(monitor.events) == len(seen) > 1
    step = monitor.events[0].step
    # What the second observer sees at that step is the trusted state before it.
    np.testing.assert_array_equal(states[step][0], states[step - 1][0])
    assert states[step][1] == pytest.approx(states[step - 1][1], rel=1e-12)
    assert not np.allclose(seen[0], states[step][0])
    assert not flagged(bars, atoms)


def test_a_branch_keeps_the_energy_beside_fixed_atoms_and_the_momentum_without(bars):
    for held in ((0,), ()):
        atoms, dyn = running(bars)
        if held:
            atoms.set_constraint(FixAtoms(held))
            atoms.set_momenta(atoms.get_momenta())
        monitor = UncertaintyMonitor(dyn, "ood_score", mode="branch", interval=None, seed=1)
        monitor()
        energy, total = atoms.get_kinetic_energy(), atoms.get_momenta().sum(axis=0)
        old = atoms.get_momenta()
        monitor._branch(atoms)
        assert atoms.get_kinetic_energy() == pytest.approx(energy, rel=1e-12)
        assert not np.allclose(old, atoms.get_momenta())
        np.testing.assert_array_equal(atoms.get_momenta()[list(held)], 0)
        if not held:
            np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), total, atol=1e-10)


def test_a_branch_refuses_dynamics_that_would_undo_it(bars):
    atoms, _ = running(bars)
    chain = NoseHooverChainNVT(atoms, units.fs, temperature_K=300, tdamp=100 * units.fs)
    with pytest.raises(UncertaintyError, match="NoseHooverChainNVT"):
        UncertaintyMonitor(chain, "ood_score", mode="branch")


def test_a_branch_needs_velocities_and_something_to_go_back_to(bars):
    atoms, _ = running(bars)
    with pytest.raises(UncertaintyError, match="molecular dynamics"):
        UncertaintyMonitor(FIRE(atoms, logfile=None), "ood_score", mode="branch")
    with pytest.raises(ConfigError, match="branch"):
        MonitorPool({"key": "ood_flag", "mode": "branch"})
    atoms.positions *= 0.5
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    UncertaintyMonitor(dyn, "ood_score", mode="branch")
    with (
        pytest.warns(UncertaintyWarning),
        pytest.raises(UncertaintyError, match="nothing to go back to"),
    ):
        dyn.run(2)


def test_a_model_without_a_threshold_of_its_own_needs_one(bars):
    atoms, _ = running(bars)
    for model in (Pair().double(), sum_potentials([Pair().double(), Pair(seed=1).double()])):
        atoms.calc = NNPCalculator(model)
        with pytest.raises(UncertaintyError, match="threshold"):
            UncertaintyMonitor(VelocityVerlet(atoms, units.fs), "ood_score")
