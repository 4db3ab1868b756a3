"""Thermodynamic integration between potentials with known free energies."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms
from ase.units import kB

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.workflows.thermo.integration import integrate

KELVIN = 400.0


class Well(Calculator):
    """Every atom on a spring of its own, and a constant."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, stiffness, shift=0.0):
        super().__init__()
        self.stiffness, self.shift = stiffness, shift

    def calculate(self, atoms=None, properties=(), system_changes=()):
        away = atoms.positions - np.round(atoms.positions / 10) * 10
        energy = 0.5 * self.stiffness * (away**2).sum() + self.shift
        self.results = {"energy": energy, "forces": -self.stiffness * away}


def crystal(count=4):
    return Atoms(f"Ar{count}", positions=[[10 * k, 0, 0] for k in range(count)])


def model(stiffness, shift=0.0):
    return ase_nnp.from_ase(Well(stiffness, shift))


@pytest.mark.slow
def test_two_harmonic_wells_differ_by_half_kt_ln_of_their_stiffness_a_mode():
    result = integrate(
        crystal(), model(1.0), model(5.0, 0.3), 4,
        temperature=KELVIN, steps=600, equilibration=60, timestep=10.0, friction=0.02, seed=1,
    )  # fmt: skip
    wanted = 0.3 + 12 * 0.5 * kB * KELVIN * np.log(5.0)
    assert result.std < 0.05
    assert abs(result.value - wanted) < 3 * result.std
    # And each point by itself: kT/2 (k2 - k1) / k(lambda) a mode.
    mixed = 1 + 4 * result.lambdas
    points = 0.3 + 12 * 0.5 * kB * KELVIN * 4.0 / mixed
    assert (np.abs(result.means - points) < 4 * result.errors).all()


def test_a_shift_is_exact_and_held_atoms_do_not_count():
    atoms = crystal()
    atoms.set_constraint(FixAtoms([0, 1, 2, 3][:3]))
    same = integrate(
        atoms, model(1.0), model(1.0, 0.7), 2, temperature=KELVIN, steps=20, equilibration=5
    )
    assert same.value == pytest.approx(0.7, abs=1e-12)
    held = integrate(
        atoms,
        model(1.0),
        model(3.0),
        4,
        temperature=KELVIN,
        steps=300,
        equilibration=60,
        timestep=10.0,
        seed=2,
    )
    wanted = 3 * 0.5 * kB * KELVIN * np.log(3.0)
    assert abs(held.value - wanted) < 3 * held.std


def test_points_may_be_given():
    result = integrate(
        crystal(1),
        model(1.0),
        model(1.0, 0.5),
        [0.0, 0.4, 1.0],
        temperature=KELVIN,
        steps=20,
        equilibration=5,
    )
    np.testing.assert_allclose(result.weights, [0.2, 0.5, 0.3])
    assert result.value == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"lambdas": 0}, {"lambdas": [0.0, 0.5]}, {"temperature": 0}, {"timestep": 0}]
)
def test_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(ConfigError):
        integrate(crystal(), model(1.0), model(2.0), **{"temperature": KELVIN, **wrong})
