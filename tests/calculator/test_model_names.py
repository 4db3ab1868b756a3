"""A model means the same everywhere, and what files say of it is what made the numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.db import connect

import ase_nnp
from ase_nnp import NNPCalculator, load_model, predict
from ase_nnp.errors import ConfigError, UnknownModelError, UnsupportedElementError
from ase_nnp.models.checkpoints import model_name
from ase_nnp.models.default import default_pretrained


def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture(scope="module")
def default():
    return load_model(device="cpu")


@pytest.fixture(scope="module")
def names(default):
    """Every way to say which model is meant, where the default one is meant each time."""
    family, offered = default_pretrained()
    return {
        "nothing": None,
        "family": family.name,
        "pretrained": offered.name,
        "family:checkpoint": f"{family.name}:{offered.name}",
        "potential": default,
        "calculator": NNPCalculator(device="cpu"),
    }


WAYS = ("nothing", "family", "pretrained", "family:checkpoint", "potential", "calculator")


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_naming_a_model_gives_the_same_numbers_and_error_bars(way, names, default):
    expected = predict(default, [copper()])[0]
    assert "energy_std" in expected
    through_predict = predict(names[way], [copper()], device="cpu")[0]
    atoms = copper()
    atoms.calc = NNPCalculator(names[way], device="cpu")
    atoms.get_forces()
    for results in (through_predict, atoms.calc.results):
        for name in ("energy", "forces", "energy_std", "forces_std"):
            np.testing.assert_allclose(results[name], expected[name], rtol=1e-5, atol=1e-6)


def test_predict_takes_one_structure_alone(default):
    (results,) = predict(default, copper())
    assert results["forces"].shape == (4, 3)


def test_error_bars_can_be_left_out(names):
    for way in WAYS[:4]:
        model = load_model(names[way], device="cpu", uncertainty=False)
        assert not any(name.endswith("_std") for name in model.outputs), way


@pytest.mark.parametrize("model", ["facet-metals-0", "7net-00", "escap"])
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(model):
    with pytest.raises(UnknownModelError, match="Did you mean"):
        load_model(model)


@pytest.mark.parametrize("model", [7, ["facet"], np.zeros(3)])
def test_what_is_no_model_is_refused_by_its_type(model):
    with pytest.raises(ConfigError, match=type(model).__name__):
        load_model(model)


def test_details_with_a_complete_model_are_refused(default):
    _, offered = default_pretrained()
    for model in (default, offered.name):
        with pytest.raises(ConfigError, match="checkpoint"):
            load_model(model, checkpoint="x.pt")


def test_files_say_which_model_made_the_numbers(tmp_path):
    family, offered = default_pretrained()
    atoms = copper()
    atoms.calc = NNPCalculator(device="cpu")
    atoms.get_potential_energy()
    with connect(tmp_path / "a.db") as db:
        db.write(atoms)
        said = db.get(1).calculator_parameters
    assert said["model"] == family.name
    assert said["pretrained"] == offered.name
    assert said["uncertainty"] == atoms.calc.results["uq"]["method"]
    assert "fresh" not in json.dumps(said)
    plain = NNPCalculator(offered.name, device="cpu", uncertainty=False)
    assert said["model_hash"] == plain.todict()["model_hash"]
    assert "uncertainty" not in plain.todict()


def test_a_model_is_called_by_its_weights_its_family_or_its_calculator():
    _, offered = default_pretrained()
    assert model_name(load_model(device="cpu")) == offered.name
    assert model_name(load_model(device="cpu", uncertainty=False)) == offered.name
    assert model_name(ase_nnp.build_model("lj", device="cpu")) == "lj"
    assert model_name(ase_nnp.from_ase(EMT)) == "EMT"


@pytest.mark.parametrize("options", [{}, {"uncertainty": False}, {"corrections": ["d3bj:pbe"]}])
def test_errors_name_the_model_and_not_what_is_wrapped_around_it(options):
    iron = bulk("Fe")
    iron.calc = NNPCalculator(**options)
    with pytest.raises(UnsupportedElementError, match="which 'facet-metals-2' was not made for"):
        iron.get_potential_energy()
    with pytest.raises(ConfigError, match="'facet-metals-2' does not give band_gap"):
        predict(iron.calc, [iron], ("band_gap",))


def test_a_saved_and_loaded_model_is_not_fresh_any_more(tmp_path):
    ase_nnp.save_model(ase_nnp.build_model("lj", device="cpu"), tmp_path / "mine.nnp")
    assert load_model(tmp_path / "mine.nnp").provenance["source"] == "mine.nnp"


def test_a_calculator_cannot_be_told_to_be_another():
    calculator = NNPCalculator("lj", device="cpu")
    for change in ({"model": "chgnet"}, {"dtype": "float64"}, {"color": 1}):
        with pytest.raises(ConfigError, match="make a new one"):
            calculator.set(**change)
    calculator.set(model="lj")  # nothing changes
    assert calculator.parameters["model"] == "lj"


def test_a_calculator_says_what_it_is():
    family, offered = default_pretrained()
    said = repr(NNPCalculator(device="cpu"))
    assert said.startswith(f"NNPCalculator({family.name}, {offered.name}, float32, uncertainty=")
    assert repr(NNPCalculator("lj", device="cpu")) == "NNPCalculator(lj, configuration, float32)"
