"""Equations of state against ASE's own and against differences of energies."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.units import GPa

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.eos import FORMS, draw_eos, equation_of_state


def energy_at(volume):
    atoms = bulk("Cu", a=(4 * volume) ** (1 / 3))
    atoms.calc = EMT()
    return atoms.get_potential_energy()


@pytest.mark.parametrize("form", FORMS)
def test_volume_and_bulk_modulus_are_those_of_the_energies_derivatives(form):
    result = equation_of_state(bulk("Cu"), EMT(), form=form, span=0.02)
    volumes = result.volume + np.array([-0.05, 0.0, 0.05])
    energies = np.array([energy_at(v) for v in volumes])
    slope = (energies[2] - energies[0]) / 0.1
    curvature = (energies[2] - 2 * energies[1] + energies[0]) / 0.05**2
    assert slope / curvature == pytest.approx(0, abs=0.005)  # the minimum is here
    assert result.bulk_modulus == pytest.approx(result.volume * curvature / GPa, rel=0.01)
    assert result.energy == pytest.approx(energies[1], abs=1e-5)


def test_ases_own_function_gives_the_same():
    from ase.eos import calculate_eos

    atoms = bulk("Al")
    atoms.calc = EMT()
    span = 0.06
    volume, energy, bulk_modulus = calculate_eos(atoms, npoints=9, eps=span / 3).fit()
    result = equation_of_state(bulk("Al"), EMT(), span=span)
    assert result.volume == pytest.approx(volume, rel=1e-3)
    assert result.energy == pytest.approx(energy, abs=1e-4)
    assert result.bulk_modulus == pytest.approx(bulk_modulus / GPa, rel=0.02)


def test_a_large_constant_energy_changes_nothing():
    class Shifted(EMT):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["energy"] += 1e5

    plain, shifted = (equation_of_state(bulk("Cu"), calc) for calc in (EMT(), Shifted()))
    assert shifted.bulk_modulus == pytest.approx(plain.bulk_modulus, rel=1e-5)
    assert shifted.energy - plain.energy == pytest.approx(1e5, abs=1e-6)


def test_relaxed_atoms_lie_no_higher_than_strained_ones():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    still = equation_of_state(atoms, EMT())
    relaxed = equation_of_state(atoms, EMT(), relax=True)
    assert (relaxed.energies < still.energies).all()


@pytest.mark.parametrize(
    ("atoms", "settings", "error", "said"),
    [
        (bulk("Cu"), {"form": "cubic"}, ConfigError, "There are"),
        (bulk("Cu"), {"points": 3}, ConfigError, "five or more"),
        (bulk("Cu", a=4.6), {}, StructureError, "no minimum"),
        (molecule("H2O", vacuum=4), {}, StructureError, "crystal"),
        (fcc111("Cu", (1, 1, 3), vacuum=8, periodic=True), {}, StructureError, "vacuum of 16"),
    ],
)
def test_what_has_no_equation_of_state_is_refused(atoms, settings, error, said):
    with pytest.raises(error, match=said):
        equation_of_state(atoms, EMT(), **settings)


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    draw_eos(equation_of_state(bulk("Cu"), EMT()), tmp_path / "eos.png")
    assert (tmp_path / "eos.png").stat().st_size > 5000
