"""Vacancies of a pair potential, whose energy is the cohesive energy by counting bonds."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

import ase_nnp
from ase_nnp.errors import StructureError
from ase_nnp.uncertainty import DeepEnsemble
from ase_nnp.workflows.thermo.vacancies import distinct_sites, vacancy_energies

pytest.importorskip("spglib")


@pytest.fixture(scope="module")
def members():
    return [ase_nnp.build_model("lj", {"epsilon": e}, dtype="float64") for e in (0.36, 0.4, 0.46)]


def test_an_unrelaxed_vacancy_of_a_pair_potential_costs_the_cohesive_energy(members):
    crystal = bulk("Ar", "fcc", a=3.56)
    (vacancy,) = vacancy_energies(crystal, members[1], relax=False)
    cohesive = -ase_nnp.predict(members[1], [crystal])[0]["energy"]
    assert vacancy.energy.value == pytest.approx(cohesive, abs=1e-8)
    heights = 1 / np.linalg.norm(vacancy.atoms.cell.reciprocal()[:], axis=1)
    assert (heights >= 9.0 - 1e-6).all()
    (relaxed,) = vacancy_energies(crystal, members[1], fmax=0.01)
    assert relaxed.energy.value <= vacancy.energy.value + 1e-6


def test_the_bar_is_the_spread_of_each_members_own_vacancy_energy(members):
    crystal = bulk("Ar", "fcc", a=3.56)
    (vacancy,) = vacancy_energies(crystal, DeepEnsemble(members), relax=False)
    single = [vacancy_energies(crystal, m, relax=False)[0].energy.value for m in members]
    assert vacancy.energy.std == pytest.approx(np.std(single, ddof=1), abs=1e-10)


def test_sites_that_symmetry_tells_apart_are_computed_each():
    crystal = bulk("CuAu", "cesiumchloride", a=3.1)
    assert distinct_sites(crystal) == {0: 1, 1: 1}
    results = vacancy_energies(crystal, ase_nnp.from_ase(EMT), smallest=6.0, fmax=0.05)
    assert [v.symbol for v in results] == ["Cu", "Au"]
    assert distinct_sites(bulk("Cu", cubic=True)) == {0: 4}


def test_references_may_be_given_and_are_asked_for_where_there_is_none():
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    lj = ase_nnp.build_model("lj", dtype="float64")
    with pytest.raises(StructureError, match="references"):
        vacancy_energies(crystal, lj, relax=False)
    one = vacancy_energies(crystal, lj, relax=False, references={"Na": 0.0, "Cl": 0.0})
    two = vacancy_energies(crystal, lj, relax=False, references={"Na": -1.0, "Cl": 0.0})
    assert one[0].energy.value - two[0].energy.value == pytest.approx(1.0)
    assert one[1].energy.value == pytest.approx(two[1].energy.value)
