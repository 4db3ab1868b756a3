"""``--correction`` of the commands that take a model, and what it refuses."""

from __future__ import annotations

import json

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

import ase_nnp
from ase_nnp.cli import main
from ase_nnp.uncertainty.files import load_uncertainty

SMALL = {"hidden_irreps": ["8x0e"], "outs_per_node": 4, "edge_embed": {"r_max": 4.0}}


def call(*words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    return stop.value.code, capsys.readouterr()


@pytest.fixture
def close(tmp_path):
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0.7, 0, 0]])
    write(tmp_path / "close.extxyz", atoms)
    return atoms, tmp_path / "close.extxyz"


def test_predict_adds_the_correction(close, capsys):
    atoms, path = close
    code, out = call("predict", "lj", path, "--correction", "zbl", "--json", capsys=capsys)
    assert code == 0
    parts = [ase_nnp.build_model(name, device="cpu") for name in ("lj", "zbl")]
    expected = sum(ase_nnp.predict(m, [atoms], ("energy",))[0]["energy"] for m in parts)
    assert json.loads(out.out)[0]["energy"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "command",
    [
        *("predict", "relax", "md", "eos", "elastic", "phonons", "bench", "compare", "screen"),
        "export",
        *(f"uncertainty {verb}" for verb in ("fit", "calibrate", "evaluate", "report")),
    ],
)
def test_every_command_with_a_model_knows_the_option(command, capsys):
    words = ["screen", "run"] if command == "screen" else command.split()
    code, out = call(*words, "--help", capsys=capsys)
    assert code == 0
    assert "--correction" in out.out


def test_an_unknown_correction_is_one_clear_line(close, capsys):
    code, out = call("predict", "lj", close[1], "--correction", "zbll", capsys=capsys)
    assert code == 2
    assert "Did you mean 'zbl'" in out.err


@pytest.mark.slow
def test_plugin_check_takes_the_name_of_a_correction(capsys):
    code, out = call("plugin", "check", "zbl", "--json", capsys=capsys)
    assert code == 0
    assert all(row["ok"] for row in json.loads(out.out))


def test_models_lists_corrections_beside_the_families(capsys):
    code, out = call("models", "--json", capsys=capsys)
    rows = {row["name"]: row for row in json.loads(out.out)["corrections"]}
    assert code == 0
    assert rows["zbl"]["state"] == "ok"
    assert rows["zbl"]["functionals"] == 0
    code, out = call("models", capsys=capsys)
    assert "Corrections, for any model" in out.out


def test_error_bars_belong_to_the_model_with_its_correction(tmp_path, capsys):
    structures = [bulk("Cu", a=a) for a in (3.5, 3.6, 3.7)]
    write(tmp_path / "train.extxyz", structures)
    model = ase_nnp.build_model("facet", {"species": [29], **SMALL}, seed=0, device="cpu")
    ase_nnp.save_model(model, tmp_path / "model.nnp")

    words = ["uncertainty", "fit", "latent", tmp_path / "model.nnp", "-o", tmp_path / "fit.uq"]
    words += ["--train", tmp_path / "train.extxyz", "--json"]
    code, out = call(*words, "--correction", "zbl", capsys=capsys)
    assert code == 0, out.err

    with_term = ase_nnp.load_model(tmp_path / "model.nnp", device="cpu", corrections=["zbl"])
    assert load_uncertainty(tmp_path / "fit.uq", with_term).uq["method"] == "latent"
    with pytest.raises(ase_nnp.AseNnpError):
        load_uncertainty(tmp_path / "fit.uq", ase_nnp.load_model(tmp_path / "model.nnp"))
