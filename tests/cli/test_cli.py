"""The command line: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import read, write

from ase_nnp import build_model, open_dataset, save_model

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture
def model_file(tmp_path):
    config = {"atom_embedding_size": 8, "num_graph_conv_layers": 1, "fc_feat_size": 8}
    save_model(build_model("cgcnn_oc20", config, seed=0, device="cpu"), tmp_path / "m.nnp")
    return str(tmp_path / "m.nnp")


def test_models_lists_families_and_their_state(run):
    code, out, _ = run("models", "--json")
    listed = json.loads(out)
    assert code == 0
    states = {m["name"]: m["state"] for m in listed["models"]}
    assert all(states[name] == "ok" for name in ("cgcnn", "scn", "escaip", "facet"))
    # Packages of others may be missing where only the core's own are installed.
    assert set(states.values()) <= {"ok", "missing dependency"}
    assert listed["broken"] == {}


def test_an_energy_that_the_weights_decide_is_said_in_words(run):
    for words in (("models",), ("models", "show", "scn")):
        code, out, _ = run(*words)
        assert code == 0
        assert "by weights" in out
        assert not [line for line in out.splitlines() if line.split()[-1:] == ["config"]]


def test_one_model_is_shown_in_full(run):
    code, out, _ = run("models", "scn", "--json")
    assert code == 0
    assert json.loads(out)["defaults"]["lmax"] == 6


def test_predict_prints_and_writes(run, model_file, tmp_path):
    code, out, _ = run(
        "predict", model_file, DATA / "oc20_toy", "-o", tmp_path / "out.extxyz", "--json"
    )
    assert code == 0
    rows = json.loads(out)
    assert len(rows) == 40
    frames = read(tmp_path / "out.extxyz", ":")
    assert frames[3].get_potential_energy() == pytest.approx(rows[3]["energy"], abs=1e-6)
    assert frames[3].get_forces(apply_constraint=False).shape == (len(frames[3]), 3)


def test_predict_prints_a_table(run, model_file):
    code, out, _ = run("predict", model_file, DATA / "oc20_toy" / "data.0000.lmdb")
    assert code == 0
    assert "adsorption energies" in out
    assert "Cu12O" in out


def test_relax_writes_a_relaxed_structure_with_fixed_atoms_in_place(run, model_file, tmp_path):
    code, out, _ = run(
        "relax", model_file, DATA / "oc20_toy", "--index", 2, "--steps", 3, "--json",
        "-o", tmp_path / "relaxed.extxyz",
    )  # fmt: skip
    assert code == 0
    report = json.loads(out)["structures"][0]
    assert report["steps"] <= 3
    before, after = open_dataset(DATA / "oc20_toy")[2], read(tmp_path / "relaxed.extxyz")
    held = before.constraints[0].index
    assert abs(after.positions[held] - before.positions[held]).max() < 1e-6
    assert after.get_potential_energy() == pytest.approx(report["energy"], abs=1e-6)


def test_doctor_reports_versions_and_plugins(run):
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["packages"]["torch"]
    assert report["plugins"]["scn"]["state"] == "ok"


def test_data_info_describes_a_dataset(run):
    code, out, _ = run("data", "info", DATA / "oc20_toy", "--json")
    assert code == 0
    assert "40" in out


BAD = {
    "no such file": ["predict", "MODEL", "nowhere.xyz"],
    "no such model": ["predict", "nowhere.nnp", "DATA"],
    "no such family": ["predict", "escap", "DATA"],
    "no such command": ["predikt"],
    "no such option": ["models", "--colour"],
    "a missing argument": ["predict"],
    "no such property": ["predict", "MODEL", "DATA", "--properties", "magmoms"],
    "no such device": ["predict", "MODEL", "DATA", "--device", "abacus"],
    "no such index": ["relax", "MODEL", "DATA", "--index", "999"],
    "no such optimizer": ["relax", "MODEL", "DATA", "--index", "0", "--optimizer", "SGD"],
    "a file that is no dataset": ["data", "info", "MODEL"],
    "a model that is no model": ["predict", "DATA", "DATA"],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_and_exit_code_2(run, model_file, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": model_file, "DATA": DATA / "oc20_toy" / "data.0000.lmdb"}
    code, _, err = run(*(names.get(a, a) for a in BAD[case]))
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("ase-nnp: ")


def test_an_unwritable_output_is_one_line_too(run, model_file, tmp_path):
    write(tmp_path / "cu.xyz", bulk("Cu", cubic=True))
    code, _, err = run("predict", model_file, tmp_path / "cu.xyz", "-o", tmp_path / "no" / "x.xyz")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_an_input_folder_is_left_as_it_was(run, model_file, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(DATA / "oc20_toy", folder)
    run("predict", model_file, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["data.0000.lmdb", "data.0001.lmdb"]
