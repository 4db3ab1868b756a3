"""The run file, and ``ase-nnp train`` and ``evaluate`` as a user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.io import write

import ase_nnp
from ase_nnp.cli import main
from ase_nnp.errors import ConfigError
from ase_nnp.training.runfile import parse_options, read_run_file

YAML = """
model: {family: pairs, config: {width: 8}}
data: {train: train.extxyz, valid_fraction: 0.25, test: test.extxyz}
epochs: 2
batch: {structures: 4}
optimizer: {lr: 1e-2}
"""
TOML = """
epochs = 2
[model]
family = "pairs"
config = {width = 8}
[data]
train = "train.extxyz"
valid_fraction = 0.25
test = "test.extxyz"
[batch]
structures = 4
[optimizer]
lr = 1e-2
"""


@pytest.fixture
def place(frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train.extxyz", frames(12))
    write("test.extxyz", frames(4, seed=5))
    (tmp_path / "run.yaml").write_text(YAML)
    return tmp_path


def call(*words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in words])
    return stop.value.code, capsys.readouterr()


def test_yaml_and_toml_say_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text(YAML)
    (tmp_path / "b.toml").write_text(TOML)
    assert read_run_file(tmp_path / "a.yaml") == read_run_file(tmp_path / "b.toml")


def test_every_key_is_an_option(tmp_path):
    (tmp_path / "a.yaml").write_text(YAML)
    words = ["--optimizer.lr", "1e-4", "--losses.stress.weight=3", "--losses.energy", "null"]
    run = read_run_file(tmp_path / "a.yaml", parse_options([*words, "--model.config.width", "4"]))
    assert run.optimizer.lr == 1e-4
    assert run.losses.stress.weight == 3.0
    assert run.losses.energy is None
    assert run.model.config == {"width": 4}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("optimiser.lr", "optimizer"),
        ("optimizer.learning_rates", "optimizer"),
        ("losses.energy.wieght", "losses.energy.weight"),
        ("epoch", "epochs"),
        ("finetune.lora_rnk", "finetune.lora_rank"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_name(tmp_path, name, meant):
    (tmp_path / "a.yaml").write_text(YAML)
    with pytest.raises(ConfigError, match=rf"no key is called .*{meant}"):
        read_run_file(tmp_path / "a.yaml", {name: "1"})


@pytest.mark.parametrize("text", ["epochs: -1", "epochs: many", "[1, 2]", "a: [", "epochs: 3"])
def test_a_bad_run_file_is_one_line_and_code_2(text, place, capsys):
    (place / "bad.yaml").write_text(text)
    code, said = call("train", "bad.yaml", capsys=capsys)
    assert code == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith("ase-nnp: ")


NUMBERS = (
    "optimizer.lr",
    "optimizer.weight_decay",
    "losses.forces.weight",
    "losses.energy.final_weight",
    "schedule.floor",
    "finetune.keep_close",
    "finetune.lora_alpha",
    "references.Cu",
)


@pytest.mark.parametrize("value", [".inf", ".nan"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_without_an_end_are_refused_by_name(tmp_path, name, value):
    (tmp_path / "run.yaml").write_text(YAML)
    with pytest.raises(ConfigError, match=name.split(".")[0]):
        read_run_file(tmp_path / "run.yaml", {name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 2**70), ("optimizer.momentum", 2), ("output", "''")]
)
def test_values_that_would_fail_or_surprise_later_are_refused(tmp_path, name, value):
    (tmp_path / "run.yaml").write_text(YAML)
    with pytest.raises(ConfigError, match=name):
        read_run_file(tmp_path / "run.yaml", {name: value})


def test_a_tilde_in_a_run_file_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text(YAML)
    names = ("output", "data.train", "data.test", "data.isolated_atoms", "finetune.replay")
    run = read_run_file(tmp_path / "run.yaml", dict.fromkeys((*names, "model.start"), "~/x"))
    here = str(tmp_path / "x")
    assert {run.output, run.data.train, run.data.test, run.data.isolated_atoms} == {here}
    assert run.finetune.replay == run.model.start == here


def test_a_test_set_that_is_not_there_is_said_before_training(place, capsys):
    code, said = call("train", "run.yaml", "--data.test", "no.extxyz", capsys=capsys)
    assert code == 2
    assert "no.extxyz" in said.err
    assert str(place) in said.err  # what the path is relative to
    assert not (place / "run").exists()


def test_the_file_of_the_user_is_not_replaced_by_the_resolved_one(place, capsys):
    code, said = call("train", "run.yaml", "--output", ".", capsys=capsys)
    assert code == 2
    assert "run.yaml" in said.err
    assert (place / "run.yaml").read_text() == YAML


def test_ctrl_c_says_that_the_run_goes_on(place, capsys, monkeypatch):
    from ase_nnp.training import running

    def interrupted(config):
        (place / "run").mkdir()
        (place / "run/last.ckpt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run", interrupted)
    code, said = call("train", "run.yaml", capsys=capsys)
    assert code == 130
    assert "same command goes on in run" in said.err


def test_an_accelerator_that_there_is_none_of_is_one_line(place, capsys):
    code, said = call("train", "run.yaml", "--accelerator", "gpuu", capsys=capsys)
    assert code == 2
    assert "accelerator" in said.err


@pytest.mark.parametrize(
    "words", [("--devices=100000", "--accelerator=cpu"), ("--workers=100000",)]
)
def test_more_processes_than_a_machine_can_hold_are_refused(words, place, capsys):
    code, said = call("train", "run.yaml", *words, capsys=capsys)
    assert code == 2
    assert words[0].partition("=")[0].strip("-") in said.err


@pytest.mark.parametrize("other", ["--finetune.ewc=1", '--finetune.freeze=["first*"]'])
def test_low_rank_additions_go_with_no_other_hold_on_the_weights(other, place, capsys):
    words = ("train", "run.yaml", "--finetune.lora_rank=2", "--finetune.replay=train.extxyz", other)
    code, said = call(*words, capsys=capsys)
    assert code == 2
    assert "leave finetune.freeze and finetune.ewc out" in said.err


def test_train_then_evaluate_on_the_command_line(place, capsys):
    code, said = call("train", "run.yaml", "--output", "out", "--json", capsys=capsys)
    assert code == 0, said.err
    trained = json.loads(said.out)
    resolved = read_run_file(place / "out" / "run.yaml")
    assert resolved.optimizer.clip == 10.0
    assert resolved.output == "out"
    assert trained["epochs"] == 2
    words = ["evaluate", "out/model.nnp", "test.extxyz", "--json", "--report", "report"]
    code, said = call(*words, capsys=capsys)
    assert code == 0, said.err
    measured = json.loads(said.out)["models"][0]
    assert measured["metrics"]["forces_mae"] == pytest.approx(trained["test"]["forces_mae"])
    page = (place / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert json.loads((place / "report" / "report.json").read_text())["structures"] == 4


def test_evaluation_is_what_numpy_makes_of_the_predictions(place, frames):
    from ase.constraints import FixAtoms

    from ase_nnp.training.evaluation import evaluate

    some = frames(6, seed=2)
    for atoms in some:
        atoms.set_constraint(FixAtoms([0]))
        atoms.info["group"] = "silver" if 47 in atoms.numbers else "copper"
    models = [ase_nnp.build_model("pairs", seed=k, device="cpu") for k in (0, 1)]
    report = evaluate(models, some, progress=False)
    assert [m.name for m in report.models] == ["pairs (1)", "pairs (2)"]
    for model, scores in zip(models, report.models, strict=True):
        rows = ase_nnp.predict(model, some, ("energy", "forces", "stress"), progress=False)
        both = list(zip(rows, [a.calc.results for a in some], strict=True))
        energy = np.array([r["energy"] - label["energy"] for r, label in both])
        force = [(r["forces"] - label["forces"])[1:] for r, label in both]
        numbers = np.concatenate([a.numbers[1:] for a in some])
        flat = np.concatenate(force)
        assert scores.metrics["energy_mae"] == pytest.approx(np.abs(energy).mean())
        assert scores.metrics["energy_mae_per_atom"] == pytest.approx(np.abs(energy).mean() / 4)
        assert scores.metrics["forces_mae"] == pytest.approx(np.abs(flat).mean())
        assert scores.metrics["forces_rmse"] == pytest.approx(np.sqrt((flat**2).mean()))
        assert scores.metrics["n_free_atoms"] == 18
        copper = np.abs(flat[numbers == 29]).mean()
        assert scores.by_element["Cu"]["forces_mae"] == pytest.approx(copper)
        assert scores.by_group["silver"]["structures"] == 3
        silver = [f for f, a in zip(force, some, strict=True) if 47 in a.numbers]
        mine = np.abs(np.concatenate(silver)).mean()
        assert scores.by_group["silver"]["forces_mae"] == pytest.approx(mine)


def test_a_model_without_labels_to_meet_is_refused(place, frames, capsys):
    bare = frames(2)
    for atoms in bare:
        atoms.calc = None
    write("bare.extxyz", bare)
    model = ase_nnp.build_model("pairs", seed=0, device="cpu")
    ase_nnp.save_model(model, "m.nnp")
    code, said = call("evaluate", "m.nnp", "bare.extxyz", capsys=capsys)
    assert code == 2
    assert "no structure has such a label" in said.err
    assert call("evaluate", "m.nnp", capsys=capsys)[0] == 2
    assert call("evaluate", "m.nnp", "nowhere.extxyz", capsys=capsys)[0] == 2
