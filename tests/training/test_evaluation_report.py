"""The page of an evaluation names the unit of what it shows."""

from __future__ import annotations

import pytest

from ase_nnp.training.evaluation_report import units_of


@pytest.mark.parametrize(
    ("measure", "unit"),
    [
        ("energy_mae", "eV"),
        ("energy_per_atom_rmse", "eV/atom"),
        ("energies_mae", "eV"),
        ("forces_mse", "(eV/Å)²"),
        ("stress_mae", "eV/Å³"),
        ("forces_cos", ""),
        ("band_gap_mae", ""),
    ],
)
def test_a_measure_has_the_unit_of_its_property(measure, unit):
    assert units_of(measure) == unit
