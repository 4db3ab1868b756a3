"""Where weights are from: a file states what its weights are, whoever changed them."""

from __future__ import annotations

import json

import pytest
import torch

from ase_nnp import load_model, save_model
from ase_nnp.models.corrections import add_corrections, functional_of
from ase_nnp.models.default import default_pretrained
from ase_nnp.models.potential import model_name
from ase_nnp.models.tensors import read_sealed
from ase_nnp.registry.ancestry import fine_tuned_from
from ase_nnp.registry.citation import cite

NAME = default_pretrained()[1].name


def stated(path):
    return read_sealed(path, "ase_nnp")[0]["provenance"]


@pytest.fixture
def changed():
    model = load_model(NAME, device="cpu", uncertainty=False)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    return model


def test_a_changed_model_is_not_saved_under_the_name_it_was_loaded_by(changed, tmp_path):
    save_model(changed, tmp_path / "mine.nnp", license="mine")
    said = stated(tmp_path / "mine.nnp")
    assert "pretrained" not in said
    assert said["license"] == "mine"
    origin = said["started_from"]["provenance"]
    assert origin["pretrained"] == NAME
    assert origin["license"] == default_pretrained()[1].license == "MIT"

    back = load_model(tmp_path / "mine.nnp", device="cpu")
    assert model_name(back) == f"{back.family} fine-tuned from {NAME}"
    assert functional_of(back) == ""
    assert cite(back) == cite(NAME)


def test_an_unchanged_model_keeps_its_name(tmp_path):
    model = load_model(NAME, device="cpu", dtype="float64", uncertainty=False)
    save_model(model, tmp_path / "same.nnp")
    assert stated(tmp_path / "same.nnp")["pretrained"] == NAME
    assert model_name(load_model(tmp_path / "same.nnp", device="cpu")) == NAME
    assert functional_of(model).startswith("PBE")


def test_a_changed_file_of_ones_own_does_not_state_the_run_that_made_the_old_one(tmp_path):
    save_model(load_model(NAME, device="cpu", uncertainty=False), tmp_path / "a.nnp", run="first")
    model = load_model(tmp_path / "a.nnp", device="cpu")
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    save_model(model, tmp_path / "b.nnp")
    said = stated(tmp_path / "b.nnp")
    assert set(said) == {"source", "started_from"}
    assert said["started_from"]["provenance"]["run"] == "first"


def test_terms_around_a_model_say_where_its_weights_are_from_now(changed):
    total = add_corrections(changed, ["d3bj:pbe"])
    changed.provenance = {"source": "trained"}
    assert total.provenance == {"source": "trained"}


def test_splines_of_a_fine_tuned_model_and_its_children_still_say_what_they_come_from():
    tuned = {"source": "trained", "started_from": {"provenance": {"pretrained": "p"}}}
    assert fine_tuned_from(tuned) == "p"
    assert fine_tuned_from({"original": tuned}) == "p"
    assert fine_tuned_from({"started_from": {"provenance": tuned}}) == "p"
    assert fine_tuned_from({"original": {"pretrained": "p"}}) == ""
    assert fine_tuned_from(json.loads(json.dumps({"pretrained": "p"}))) == ""
