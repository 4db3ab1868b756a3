"""Faults that calculators in wide use have had, as tests of ours around the same models."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import (
    Calculator,
    CalculatorSetupError,
    PropertyNotImplementedError,
)
from ase.calculators.emt import EMT
from ase.io import Trajectory

import ase_nnp
from ase_nnp.registry.installed import missing_packages

KINDS = ("chgnet", "matgl", "sevennet", "emt")
LISTED = list(Calculator.implemented_properties)


def make(kind: str, dtype: str = "float64"):
    if kind == "emt":
        return ase_nnp.from_ase(EMT, elements=[6, 8, 29])
    family = ase_nnp.list_models().get(kind)
    if family is None or missing_packages(family):
        pytest.skip(f"needs the package behind '{kind}' (extra '{kind}')")
    return ase_nnp.build_model(kind, family.test_config, seed=0, device="cpu", dtype=dtype)


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return make(request.param)


@pytest.fixture
def calc(model):
    return ase_nnp.NNPCalculator(model)


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def wire() -> Atoms:
    return Atoms("Cu2", [[0, 0, 0], [2.3, 0.4, 0.1]], cell=[4.6, 0, 0], pbc=[True, False, False])


def energy(model, atoms) -> float:
    return ase_nnp.predict(model, [atoms], ("energy",))[0]["energy"]


def test_1_a_slab_is_no_molecule_and_a_wire_is_a_wire(model):
    slab = fcc111("Cu", (1, 1, 2), vacuum=12.0)
    free = slab.copy()
    free.pbc = False
    assert abs(energy(model, slab) - energy(model, free)) > 1e-5
    assert energy(model, wire() * (4, 1, 1)) == pytest.approx(4 * energy(model, wire()), abs=1e-7)


def test_2_stress_is_voigt_and_in_electronvolt_per_cubic_angstrom(model, calc):
    atoms = crystal()
    atoms.calc = calc
    stress, volume, values = atoms.get_stress(), atoms.get_volume(), []
    assert stress.shape == (6,)
    for sign in (1, -1):
        moved = crystal()
        moved.set_cell(atoms.cell[:] * (1 + sign * 1e-4), scale_atoms=True)
        values.append(energy(model, moved))
    slope = (values[0] - values[1]) / 2e-4 / volume
    assert stress[:3].sum() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_3_the_list_of_properties_of_ase_itself_is_left_alone(calc):
    assert list(Calculator.implemented_properties) == LISTED
    assert "implemented_properties" in vars(calc)


def test_4_what_is_declared_is_returned(calc):
    atoms = crystal()
    for name in calc.implemented_properties:
        assert calc.get_property(name, atoms) is not None, name
    assert set(calc.results) == set(calc.implemented_properties)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[:3])
def test_5_the_process_is_left_as_it_was(kind):
    make(kind)  # or skip
    code = (
        "import os, sys, warnings, torch, ase_nnp\n"
        "warnings.simplefilter('error')\n"
        "state = lambda: (dict(os.environ), torch.get_default_dtype(), list(warnings.filters),\n"
        "                 torch.get_num_threads(), torch.is_grad_enabled())\n"
        "before = state()\n"
        f"family = ase_nnp.list_models()['{kind}']\n"
        f"ase_nnp.build_model('{kind}', family.test_config, device='cpu')\n"
        "assert state() == before\n"
        "assert torch.load.__kwdefaults__['weights_only'] is None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_6_results_are_plain_and_can_be_stored(calc, tmp_path):
    atoms = crystal()
    atoms.calc = calc
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    atoms.get_stress()
    assert json.loads(json.dumps(calc.results["energy"])) == calc.results["energy"]
    assert all(isinstance(v, float) or v.dtype == np.float64 for v in calc.results.values())
    json.dumps(calc.todict())
    with ase.db.connect(tmp_path / "a.db") as base:
        base.write(atoms)
    row = ase.db.connect(tmp_path / "a.db").get(1)
    np.testing.assert_allclose(row.toatoms().get_forces(), atoms.get_forces())
    with Trajectory(str(tmp_path / "a.traj"), "w", atoms) as file:
        file.write()
    with Trajectory(str(tmp_path / "a.traj")) as file:
        assert file[0].get_potential_energy() == atoms.get_potential_energy()


def test_6_a_molecule_needs_no_cell_and_nothing_is_printed(calc, capfd):
    atoms = molecule("CO")
    atoms.calc = calc
    assert np.isfinite(atoms.get_forces()).all()
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")


def test_7_positions_that_are_no_numbers_are_refused(calc):
    atoms = crystal()
    atoms.positions[1, 1] = np.nan
    with pytest.raises(CalculatorSetupError, match="finite"):
        calc.get_potential_energy(atoms)


def test_7_an_unknown_element_is_named(model, calc):
    strange = Atoms("Og", cell=[5, 5, 5], pbc=True)
    with pytest.raises(CalculatorSetupError, match="contains Og"):
        calc.get_potential_energy(strange)
    with pytest.raises(ase_nnp.UnsupportedElementError):
        ase_nnp.predict(model, [strange])


def test_8_stress_without_a_cell_is_refused(calc):
    for atoms in (molecule("CO"), wire()):
        with pytest.raises(PropertyNotImplementedError, match="cell with a volume"):
            calc.get_stress(atoms)


def test_9_the_structure_is_not_written_to(calc):
    atoms = crystal()
    before = atoms.copy()
    atoms.calc = calc
    atoms.get_forces()
    assert atoms.info == before.info
    assert atoms.arrays.keys() == before.arrays.keys()


def test_9_a_change_of_the_charge_is_noticed_by_what_reads_it():
    config = {"model": "QET", "hyperparameters": {"units": 8, "nblocks": 1, "num_rbf": 8}}
    make("matgl")  # or skip
    model = ase_nnp.build_model("matgl", config, seed=0, device="cpu")
    atoms = molecule("CO")
    atoms.calc = ase_nnp.NNPCalculator(model)
    neutral = atoms.get_charges().sum()
    atoms.info["charge"] = 1
    assert atoms.get_charges().sum() == pytest.approx(neutral + 1, abs=1e-5)


def test_10_one_model_call_gives_everything(calc):
    atoms = crystal()
    atoms.calc = calc
    atoms.get_potential_energy(), atoms.get_forces()
    assert calc.model_calls == 1
    atoms.get_stress()
    atoms.rattle(0.01, seed=5)
    before = calc.model_calls
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    assert calc.model_calls == before + 1


def test_11_a_used_calculator_can_be_copied_and_pickled(calc):
    atoms = crystal()
    atoms.calc = calc
    forces = atoms.get_forces()
    for twin in (copy.deepcopy(calc), pickle.loads(pickle.dumps(calc))):
        np.testing.assert_allclose(twin.get_forces(crystal()), forces, atol=1e-10)


def test_12_a_failed_call_does_not_poison_the_next(calc):
    good, bad = crystal(), crystal()
    forces = calc.get_forces(good)
    bad.positions[0] = np.inf
    with pytest.raises(CalculatorSetupError):
        calc.get_forces(bad)
    assert calc.results == {}
    np.testing.assert_allclose(calc.get_forces(good), forces, atol=1e-12)


def test_13_one_atom_has_forces_of_one_row(calc):
    assert calc.get_forces(Atoms("Cu")).shape == (1, 3)
    assert calc.get_forces(bulk("Cu")).shape == (1, 3)


def test_14_results_are_replaced(calc):
    calc.get_stress(crystal())
    calc.get_potential_energy(molecule("CO"))
    assert "stress" not in calc.results
    moved = crystal()
    moved.rattle(0.05, seed=9)
    calc.get_potential_energy(moved)
    fresh = ase_nnp.NNPCalculator(calc.model).get_stress(moved)
    np.testing.assert_allclose(calc.results["stress"], fresh, atol=1e-10)
