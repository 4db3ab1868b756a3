"""The ASE contract: what scripts written for any calculator rely on."""

from __future__ import annotations

import copy
import json
import pickle

import ase.calculators.calculator as ase_calculator
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import (
    CalculationFailed,
    CalculatorSetupError,
    PropertyNotImplementedError,
)
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write
from ase.mep import NEB

import ase_nnp
from ase_nnp import NNPCalculator, Potential, build_model
from ase_nnp.errors import ConfigError, PredictionError, StructureError, UnsupportedElementError


class Reader(Potential):
    """Energy from what is beside the geometry, to see what triggers a recalculation."""

    outputs = ("energy", "forces")
    required_inputs = ("charge", "tags", "fixed", "external_field")

    def forward(self, graph):
        per_atom = graph.tags.double() + 10.0 * graph.fixed.double()
        energy = graph.charge + torch.zeros(graph.num_structures).double().index_add(
            0, graph.batch, per_atom
        )
        return {"energy": energy, "forces": torch.zeros_like(graph.positions)}


def test_forces_and_stress_are_those_of_finite_differences(copper):
    assert np.allclose(copper.get_forces(), calculate_numerical_forces(copper, 1e-4), atol=1e-6)
    assert np.allclose(copper.get_stress(), calculate_numerical_stress(copper, 1e-5), atol=1e-8)
    assert copper.get_stress().shape == (6,)
    assert copper.get_stress(voigt=False).shape == (3, 3)


def test_one_model_call_serves_energy_forces_and_stress(copper):
    copper.get_stress()
    copper.get_forces()
    copper.get_potential_energy()
    copper.get_potential_energy(force_consistent=True)
    assert copper.calc.model_calls == 1
    copper.rattle(0.01, seed=1)
    copper.get_potential_energy()
    copper.get_stress()
    assert copper.calc.model_calls == 2


def test_stress_is_not_computed_before_it_is_asked_for(copper):
    copper.get_forces()
    assert "stress" not in copper.calc.results
    copper.get_stress()
    copper.rattle(0.01, seed=1)
    copper.get_potential_energy()
    assert "stress" in copper.calc.results


def test_free_energy_is_the_energy(copper):
    assert copper.get_potential_energy(force_consistent=True) == copper.get_potential_energy()


def test_implemented_properties_belong_to_the_instance(lj):
    before = list(ase_calculator.Calculator.implemented_properties)
    one, two = NNPCalculator(lj), NNPCalculator(lj)
    one.implemented_properties.append("mine")
    assert "mine" not in two.implemented_properties
    assert list(ase_calculator.Calculator.implemented_properties) == before
    assert two.implemented_properties == ["energy", "free_energy", "forces", "stress"]


def test_results_are_replaced_and_cleared_by_a_failure(copper):
    copper.get_stress()
    copper.calc.results["stale"] = 1.0
    copper.rattle(0.01, seed=2)
    copper.get_forces()
    assert "stale" not in copper.calc.results
    before = copper.copy()
    copper.positions[0, 0] = np.nan
    with pytest.raises(StructureError):
        copper.get_forces()
    assert copper.calc.results == {}
    copper.positions = before.positions
    assert np.isfinite(copper.get_forces()).all()


def test_results_are_plain_floats_and_double_arrays():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = NNPCalculator(build_model("lj", device="cpu"))
    atoms.get_stress()
    assert type(atoms.calc.results["energy"]) is float
    assert atoms.calc.results["forces"].dtype == np.float64
    assert atoms.get_forces().shape == (4, 3)


@pytest.mark.parametrize("name", ["a.db", "a.json", "a.extxyz", "a.traj"])
def test_results_survive_files(copper, tmp_path, name):
    energy, forces, stress = (
        copper.get_potential_energy(),
        copper.get_forces(),
        copper.get_stress(),
    )
    write(tmp_path / name, copper)
    back = read(tmp_path / name)
    assert back.get_potential_energy() == pytest.approx(energy, abs=1e-7)
    assert np.allclose(back.get_forces(), forces, atol=1e-7)
    assert np.allclose(back.get_stress(), stress, atol=1e-7)


def test_results_survive_an_ase_database_with_its_calculator_name(copper, tmp_path):
    from ase.db import connect

    copper.get_forces()
    with connect(tmp_path / "x.db") as db:
        db.write(copper)
    row = next(iter(connect(tmp_path / "x.db").select()))
    assert row.calculator == "nnp"
    assert row.energy == pytest.approx(copper.get_potential_energy())


def test_parameters_are_json(copper):
    assert json.loads(json.dumps(copper.calc.todict()))["model"] == "lj"
    assert len(copper.calc.todict()["model_hash"]) == 64


def test_what_the_model_reads_triggers_a_calculation_and_nothing_else():
    atoms = fcc111("Cu", (1, 1, 3), vacuum=5.0)
    calc = atoms.calc = NNPCalculator(Reader().to(torch.float64))

    def calls():
        atoms.get_potential_energy()
        return calc.model_calls

    assert calls() == 1
    atoms.info["note"] = "nothing to do with it"
    atoms.set_initial_charges([1, 0, 0])
    atoms.set_initial_magnetic_moments([1, 0, 0])
    atoms.set_masses([1, 2, 3])
    assert calls() == 1
    atoms.info["charge"] = 1
    assert calls() == 2
    atoms.set_tags([0, 0, 0])
    assert calls() == 3
    atoms.set_constraint(FixAtoms([0, 1]))
    assert calls() == 4
    atoms.info["external_field"] = np.zeros(3)
    assert calls() == 5
    atoms.info["external_field"][2] = 0.1  # changed in place
    assert calls() == 6
    assert calls() == 6


def test_nothing_is_written_to_the_atoms(copper):
    before = copy.deepcopy((copper.info, list(copper.arrays)))
    copper.get_stress()
    assert (copper.info, list(copper.arrays)) == before


def test_a_model_that_reads_nothing_ignores_info(copper):
    copper.get_potential_energy()
    copper.info["charge"] = 3
    copper.set_tags([1, 2, 3, 4])
    copper.get_potential_energy()
    assert copper.calc.model_calls == 1


@pytest.mark.parametrize("place", ["info", "initial charges"])
def test_a_charge_that_counts_for_nothing_is_warned_of(copper, place):
    if place == "info":
        copper.info["charge"] = -1
    else:
        copper.set_initial_charges([-1, 0.2, -0.2, 0])
    with pytest.warns(UserWarning, match="A structure has a charge"):
        copper.get_potential_energy()
    copper.info["charge"] = 0
    copper.set_initial_charges([-1, 0.5, 0.25, 0.25])  # neutral in all
    copper.calc = NNPCalculator(copper.calc.model)
    copper.get_potential_energy()


def test_no_stress_without_a_volume(lj):
    atoms = molecule("CO")
    atoms.calc = NNPCalculator(lj)
    atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize("pbc", [False, True, (True, False, True)])
def test_the_stress_of_a_molecule_in_a_box_is_that_of_its_volume_as_ase_has_it(lj, pbc):
    atoms = molecule("CO", vacuum=5.0)
    atoms.rattle(0.05, seed=1)
    atoms.pbc = pbc
    atoms.calc = NNPCalculator(lj)
    assert np.allclose(atoms.get_stress(), calculate_numerical_stress(atoms), atol=1e-7)
    assert np.abs(atoms.get_stress()).max() > 1e-4
    atoms.calc = NNPCalculator(ase_nnp.from_ase(EMT))
    assert np.allclose(atoms.get_stress(), EMT().get_property("stress", atoms), atol=1e-12)


def test_without_a_volume_there_is_no_stress(lj):
    atoms = molecule("CO")
    for cell in ([0, 0, 0], [5, 5, 0], [[1, 0, 0], [2, 0, 0], [0, 0, 3]]):
        atoms.set_cell(cell)
        atoms.calc = NNPCalculator(lj)
        with pytest.raises(PropertyNotImplementedError, match="volume"):
            atoms.get_stress()


@pytest.mark.parametrize(
    ("key", "value"),
    [("charge", None), ("charge", "neutral"), ("charge", [0.1, -0.1]), ("spin", "high"),
     ("spin", {}), ("spin", np.nan)],
)  # fmt: skip
def test_metadata_that_the_model_does_not_read_is_not_looked_at(lj, key, value):
    atoms = bulk("Cu", cubic=True)
    energy = NNPCalculator(lj).get_property("energy", atoms)
    atoms.info[key] = value
    assert NNPCalculator(lj).get_property("energy", atoms) == energy
    assert ase_nnp.predict(lj, [atoms])[0]["energy"] == energy


@pytest.mark.parametrize("number", [119, 200, 0, -1])
@pytest.mark.parametrize("known", [None, frozenset({29})])
def test_numbers_that_name_no_element_are_refused_by_their_number(lj, number, known):
    lj = copy.deepcopy(lj)
    lj.elements = known
    atoms = Atoms(numbers=[29, number], positions=[[0, 0, 0], [0, 0, 2]])
    atoms.calc = NNPCalculator(lj)
    for ask in (atoms.get_potential_energy, lambda: ase_nnp.predict(lj, [bulk("Cu"), atoms])):
        with pytest.raises(UnsupportedElementError, match=f"atomic number {number}") as error:
            ask()
        assert "Og," not in str(error.value)


def test_a_refusal_names_the_weights_and_not_what_is_around_them():
    atoms = Atoms("Og", cell=[8, 8, 8])
    atoms.calc = NNPCalculator()
    with pytest.raises(UnsupportedElementError, match="'facet-metals-2' was not made for"):
        atoms.get_potential_energy()


def test_a_slab_has_a_stress(lj):
    atoms = fcc111("Cu", (1, 1, 3), vacuum=5.0)
    atoms.calc = NNPCalculator(lj)
    assert np.allclose(atoms.get_stress()[:2], calculate_numerical_stress(atoms)[:2], atol=1e-7)


def test_calculate_without_properties_fills_results(copper):
    copper.calc.calculate(copper)
    assert set(copper.calc.results) == {"energy", "free_energy", "forces"}


def test_predicting_leaves_a_model_in_training_mode(lj):
    lj.train()
    NNPCalculator(lj).calculate(bulk("Cu"))
    assert lj.training


def test_a_property_the_model_lacks_is_ases_own_error(copper):
    with pytest.raises(PropertyNotImplementedError):
        copper.get_dipole_moment()


def test_an_unsupported_element_names_itself_and_the_supported_set(lj):
    lj.elements = frozenset({1, 29})
    atoms = molecule("CO")
    atoms.calc = NNPCalculator(lj)
    with pytest.raises(CalculatorSetupError, match=r"C, O.*H, Cu") as caught:
        atoms.get_forces()
    assert isinstance(caught.value, UnsupportedElementError)


def test_atoms_on_top_of_each_other_are_refused(lj):
    atoms = Atoms("Cu3", positions=[[0, 0, 0], [2, 0, 0], [2, 0, 0.001]])
    atoms.calc = NNPCalculator(lj)
    with pytest.raises(CalculatorSetupError, match=r"Atoms (1 and 2|2 and 1)"):
        atoms.get_forces()


def test_an_answer_that_is_not_finite_is_an_error(copper, lj):
    lj.epsilon = float("inf")
    with pytest.raises(CalculationFailed, match="not finite") as caught:
        copper.get_forces()
    assert isinstance(caught.value, PredictionError)
    assert copper.calc.results == {}


def test_deepcopy_and_clone_share_the_model_and_nothing_else(copper):
    copper.get_stress()
    twin = copy.deepcopy(copper)
    assert twin.calc.model is copper.calc.model
    assert twin.calc.results.keys() == copper.calc.results.keys()
    twin.calc.results["forces"][0] += 1
    assert not np.allclose(twin.calc.results["forces"], copper.calc.results["forces"])
    other = copper.calc.clone()
    assert other.model is copper.calc.model
    assert other.results == {}


def test_pickling_ships_the_same_weights_once():
    model = build_model("lj", device="cpu")
    model.register_buffer("ballast", torch.zeros(50_000))
    calcs = [NNPCalculator(model) for _ in range(4)]
    one, four = len(pickle.dumps(calcs[0])), len(pickle.dumps(calcs))
    assert four < one + 40_000
    atoms = bulk("Cu", cubic=True)
    atoms.calc = pickle.loads(pickle.dumps(calcs[0]))
    assert np.isfinite(atoms.get_potential_energy())


def test_a_used_calculator_pickles_with_its_results(copper):
    copper.get_stress()
    twin = pickle.loads(pickle.dumps(copper))
    assert twin.get_potential_energy() == copper.get_potential_energy()
    assert twin.calc.model_calls == 1


def test_global_settings_stay_as_they_are(copper):
    import os

    before = (torch.get_default_dtype(), torch.is_grad_enabled(), dict(os.environ))
    copper.get_stress()
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), dict(os.environ)) == before


def test_one_atom_has_forces_of_shape_one_by_three(lj):
    atoms = bulk("Cu")
    atoms.calc = NNPCalculator(lj)
    assert atoms.get_forces().shape == (1, 3)


def test_options_beside_a_model_object_are_refused(lj):
    with pytest.raises(ConfigError, match="complete"):
        NNPCalculator(lj, epsilon=1.0)


def test_results_with_error_bars_make_a_single_point_calculator():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = NNPCalculator(device="cpu")
    forces = atoms.get_forces()
    results = atoms.calc.results
    frozen = SinglePointCalculator(atoms, **results)
    assert set(frozen.results) == {"energy", "free_energy", "forces", "energies"} & set(results)
    assert np.array_equal(frozen.results["forces"], forces)
    seen = [name for name, _ in results.items()]
    assert {"energy_std", "forces_std", "uq"} <= set(seen) == set(results)
    for twin in (results.copy(), copy.deepcopy(results), pickle.loads(pickle.dumps(results))):
        assert set(twin) == set(results)
        assert twin["energy_std"] == results["energy_std"]
    asked = atoms.get_properties(["energy", "stress"])
    assert asked["energy"] == pytest.approx(results["energy"])
    assert "energy_std" not in asked
    NEB.freeze_results_on_image(atoms, **results)
    assert atoms.get_potential_energy() == results["energy"]


def test_ase_is_given_the_same_plugin_objects_each_time():
    plugins = pytest.importorskip("ase._4.plugins")
    assert plugins.PluginCollection.from_entry_points() == plugins.plugins
