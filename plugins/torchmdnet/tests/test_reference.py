"""TensorNet2, priors and periodic boxes: what torchmd-net 3.1 computes for the same files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import ase_nnp
from ase_nnp.errors import CheckpointError, ConfigError, StructureError
from ase_nnp.models.corrections import build_term

HERE = Path(__file__).parent
REFERENCE = json.loads((HERE / "reference.json").read_text())
CASES = REFERENCE["cases"]

spec = importlib.util.spec_from_file_location("make_reference", HERE / "make_reference.py")
made_by = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made_by)


def structures(count=None):
    made = []
    for one in REFERENCE["structures"][:count]:
        atoms = Atoms(one["numbers"], one["positions"], cell=one["cell"], pbc=bool(one["cell"]))
        atoms.info["charge"] = one["charge"]
        atoms.set_initial_charges(one["charges"])
        made.append(atoms)
    return made


def write(folder, name, **settings):
    """The file that the package itself read."""
    case = CASES[name]
    empty = {
        k: torch.empty(shape, dtype=torch.int64 if k in case["integers"] else torch.float64)
        for k, shape in case["shapes"].items()
    }
    tensors = made_by.fill(empty, case["constants"])
    content = {"state_dict": {f"model.{k}": v for k, v in tensors.items()}}
    content["hyper_parameters"] = {**case["settings"], **settings}
    torch.save(content, folder / "model.ckpt")
    return folder / "model.ckpt"


def load(path, **options):
    return ase_nnp.load_model(
        "torchmdnet", checkpoint=path, device="cpu", dtype="float64", **options
    )


def predicted(model, frames):
    return ase_nnp.predict(model, frames, ("energy", "forces"), progress=False)


@pytest.mark.parametrize("name", CASES)
def test_energies_and_forces_are_those_of_torchmd_net(tmp_path, name):
    layout = {"tensors": "full"} if "plain" in name else {}
    model = load(write(tmp_path, name), unit="Hartree" if name == "one, ZBL" else "eV", **layout)
    unit = 27.211386024367243 if name == "one, ZBL" else 1.0

    known = [(a, r) for a, r in zip(structures(), CASES[name]["results"], strict=True) if r]
    frames, wanted = zip(*known, strict=True)
    for got, row in zip(predicted(model, list(frames)), wanted, strict=True):
        assert got["energy"] / unit == pytest.approx(row["energy"], abs=1e-6)
        assert np.abs(got["forces"] / unit - row["forces"]).max() < 1e-6


def test_both_layouts_of_tensors_are_told_apart():
    compact, full = (CASES[f"two, SO(3){end}"]["results"] for end in ("", ", plain"))
    pairs = zip(compact, full, strict=True)
    differences = [np.subtract(a["forces"], b["forces"]) for a, b in pairs]
    assert max(np.abs(d).max() for d in differences) > 1e-4  # the tolerance above is 1e-6


@pytest.mark.parametrize("name", ["two, all pairs", "two, reaction field", "two, four priors"])
def test_a_batch_gives_what_its_molecules_give_alone(tmp_path, name):
    model, frames = load(write(tmp_path, name), unit="eV"), structures(4)
    for one, row in zip(frames, predicted(model, frames), strict=True):
        alone = predicted(model, [one])[0]
        assert row["energy"] == pytest.approx(alone["energy"], abs=1e-10)
        assert np.allclose(row["forces"], alone["forces"], atol=1e-10)


def test_priors_become_corrections_that_a_file_keeps(tmp_path):
    model = load(write(tmp_path, "two, four priors"))
    assert model.corrections == ("torchmdnet_zbl", "torchmdnet_d2", "torchmdnet_coulomb")
    ase_nnp.save_model(model, tmp_path / "model.nnp")
    again = ase_nnp.load_model(tmp_path / "model.nnp", device="cpu", dtype="float64")
    one, two = (predicted(m, structures(2)) for m in (model, again))
    assert [r["energy"] for r in one] == [r["energy"] for r in two]


def test_a_prior_says_the_unit_of_the_file(tmp_path):
    path = write(tmp_path, "one, ZBL")
    stated, named = (predicted(load(path, **o), structures(1)) for o in ({}, {"unit": "Hartree"}))
    assert stated[0]["energy"] == pytest.approx(named[0]["energy"], rel=1e-7)
    with pytest.raises(ConfigError, match=r"27\.21"):
        load(path, unit="eV")


ZBL = {"cutoff_distance": 4.0, "distance_scale": 1e-10, "energy_scale": 1.602176634e-19}


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ({"Morse": {}}, "Morse"),
        ({"ZBL": {}}, "energy_scale"),
        ({"ZBL": {**ZBL, "distance_scale": 1e-9}}, "distance_scale"),
        ({"ZBL": {**ZBL, "energy_scale": float("nan")}}, "energy_scale"),
        ({"ZBL": {**ZBL, "energy_scale": 0.0}}, "energy_scale"),
        ({"ZBL": {**ZBL, "atomic_number": [0, 6, 1, 8]}}, "atomic_number"),
        ({"ZBL": {**ZBL, "atomic_number": 7}}, "atomic_number"),
        ({"Coulomb": {**ZBL, "initial_box": [[1.0]]}}, "box"),
        ({"D2": [1.0]}, "D2"),
        ({"ZBL": ZBL, "D2": {**ZBL, "energy_scale": 4e-18}}, "disagree"),
    ],
)
def test_a_prior_that_cannot_be_read_exactly_is_refused_by_name(tmp_path, prior, said):
    path = write(tmp_path, "two, O(3)", prior_model=[prior])
    with pytest.raises(CheckpointError, match=said):
        load(path)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"max_z": 10**12}, CheckpointError, "max_z"),
        ({"num_layers": 10**9}, CheckpointError, "num_layers"),
        ({"embedding_dimension": 10**9}, CheckpointError, "embedding_dimension"),
        ({"num_rbf": 10**9}, CheckpointError, "num_rbf"),
        ({"q_dim": 10**9}, CheckpointError, "q_dim"),
        ({"output_mlp_num_layers": 10**9}, CheckpointError, "output_mlp_num_layers"),
        ({"cutoff_upper": 1e9}, ConfigError, "cutoffs"),
        ({"coulomb_cutoff": 1e9}, ConfigError, "coulomb_cutoff"),
        ({"q_weights": [1.0, -1.0]}, ConfigError, "q_weights"),
        ({"q_weights": [1.0, -1.0, 0.0]}, ConfigError, "q_weights"),
        ({"q_weights": ["a", [1.0, 2.0], 0.0]}, ConfigError, "q_weights"),
        ({"prior_model": [{"ZBL": {**ZBL, "cutoff_distance": 1e9}}]}, ConfigError, "cutoff"),
        ({"prior_model": ["ZBL", "D2"], "prior_args": [{}]}, CheckpointError, "2 priors"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused(tmp_path, settings, error, said):
    with pytest.raises(error, match=said):
        load(write(tmp_path, "two, all pairs", **settings))


def test_pairs_without_an_end_are_refused_in_a_crystal(tmp_path):
    crystal = bulk("NaCl", "rocksalt", a=5.64)
    crystal.symbols, crystal.info["charge"] = "HF", 0
    crystal.set_initial_charges([1.0, -1.0])
    for name in ("two, all pairs", "one, Coulomb"):
        with pytest.raises(StructureError, match="periodic"):
            predicted(load(write(tmp_path, name)), [crystal])


def test_charges_of_atoms_must_be_given(tmp_path):
    atoms = Atoms("HF", [[0, 0, 0], [0, 0, 0.9]])
    with pytest.raises(StructureError, match="set_initial_charges"):
        predicted(load(write(tmp_path, "one, Coulomb")), [atoms])


def test_charges_of_elements_may_be_named_instead():
    pair = Atoms("NaCl", [[0, 0, 0], [0, 0, 9.0]])
    named = build_term("torchmdnet_coulomb", {"charges": {"Na": 1.0, "Cl": -1.0}}).to(torch.float64)
    assert predicted(named, [pair])[0]["energy"] == pytest.approx(-14.399645 / 9.0, rel=1e-12)
    near = build_term("torchmdnet_coulomb", {"charges": {"Na": 1.0, "Cl": -1.0}, "cutoff": 9.0})
    result = predicted(near.to(torch.float64), [pair])[0]
    assert abs(result["energy"]) < 1e-12
    assert np.abs(result["forces"]).max() < 1e-12


def test_tensornet2_is_built_by_name_and_feels_charges():
    config = {"model": "tensornet2", "embedding_dimension": 8, "num_rbf": 8, "q_dim": 4}
    model = ase_nnp.build_model("torchmdnet", config, seed=0, device="cpu", dtype="float64")
    neutral, charged = predicted(model, structures(1)), structures(1)
    charged[0].info["charge"] = 1
    assert abs(predicted(model, charged)[0]["energy"] - neutral[0]["energy"]) > 1e-9
    with pytest.raises(ConfigError, match="q_dim"):
        ase_nnp.build_model("torchmdnet", {"q_dim": 4})
    with pytest.raises(ConfigError, match="tensornet3"):
        ase_nnp.build_model("torchmdnet", {"model": "tensornet3"})
