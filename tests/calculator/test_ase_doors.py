"""ASE's own ways to a calculator."""

from __future__ import annotations

import json

import ase.io
import pytest
from ase.build import bulk
from ase.calculators.calculator import get_calculator_class

from ase_nnp import NNPCalculator, build_model, save_model

ASE = tuple(int(part) for part in ase.__version__.split(".")[:2])


@pytest.fixture
def model_file(tmp_path):
    config = {"atom_embedding_size": 8, "num_graph_conv_layers": 1, "fc_feat_size": 8}
    save_model(build_model("cgcnn_oc20", config, seed=0, device="cpu"), tmp_path / "m.nnp")
    return tmp_path / "m.nnp"


@pytest.fixture
def ase_command(tmp_path, monkeypatch, capsys):
    """ASE's own command in this process, in a folder of its own; returns what it prints."""
    from ase.cli.main import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        main(args=arguments)
        return capsys.readouterr().out

    return call


def test_the_calculator_is_found_by_name(model_file):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = get_calculator_class("nnp")(model=str(model_file))
    assert isinstance(atoms.calc, NNPCalculator)
    assert atoms.get_potential_energy() == atoms.calc.results["energy"]


def test_ase_run_uses_a_model_file(model_file, tmp_path, ase_command):
    ase.io.write(tmp_path / "cu.xyz", bulk("Cu", cubic=True))
    ase_command("run", "nnp", "cu.xyz", "-p", "model=m.nnp", "-o", "out.json")
    row = json.loads((tmp_path / "out.json").read_text())["1"]
    assert row["calculator"] == "nnp"
    atoms = bulk("Cu", cubic=True)
    atoms.calc = NNPCalculator(model_file)
    assert row["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)


@pytest.mark.skipif(ASE < (3, 29), reason="ASE lists plugins from 3.29 on")
def test_ase_lists_the_plugin(ase_command):
    text = ase_command("info", "--plugins")
    assert "ase_nnp 0.1.0" in text
    assert "nnp-lmdb" in text


def test_ase_reads_the_projects_datasets():
    from pathlib import Path

    path = Path(__file__).resolve().parents[2] / "data" / "oc25_toy" / "data.0000.aselmdb"
    frames = ase.io.read(path, ":3", format="nnp-lmdb")
    assert len(frames) == 3
    assert frames[0].get_forces().shape == (len(frames[0]), 3)
