"""Checkpoints of fairchem's trainers: what both generations write, and what is no such file."""

from __future__ import annotations

import argparse
from collections import OrderedDict

import numpy as np
import pytest
import torch

from ase_nnp.errors import CheckpointError, UnsafeFileError
from ase_nnp.files.fairchem import InferenceCheckpoint, TrainerCheckpoint, read_fairchem

WEIGHTS = OrderedDict(a=torch.ones(2), buffer=torch.zeros(3), b=torch.arange(6.0).reshape(2, 3))


def trainer(tmp_path, wrapped=0, **changes):
    state = OrderedDict(("module." * wrapped + name, value) for name, value in WEIGHTS.items())
    content = {
        "state_dict": state,
        "config": {"model": {"name": "some", "width": 5}},
        "ema": {"shadow_params": [2 * WEIGHTS["a"], 3 * WEIGHTS["b"]], "decay": 0.99},
        "epoch": 1.5,
        **changes,
    }
    torch.save({k: v for k, v in content.items() if v is not None}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


@pytest.mark.parametrize("wrapped", [0, 1, 2])
def test_weights_come_without_the_wrappers_of_parallel_runs(tmp_path, wrapped):
    content = read_fairchem(trainer(tmp_path, wrapped))
    assert isinstance(content, TrainerCheckpoint)
    assert list(content.weights) == ["a", "buffer", "b"]
    assert np.array_equal(content.weights["b"], WEIGHTS["b"].numpy())
    assert content.model == "some"
    assert content.attributes["width"] == 5
    assert content.progress == {"epoch": 1.5}


def test_averages_take_the_names_of_the_parameters_in_order(tmp_path):
    content = read_fairchem(trainer(tmp_path))
    averages = content.averaged(lambda name: name != "buffer")
    assert np.array_equal(averages["a"], [2.0, 2.0])
    assert np.array_equal(averages["b"], 3 * WEIGHTS["b"].numpy())
    with pytest.raises(CheckpointError, match="ema=False"):
        content.averaged(lambda name: True)
    with pytest.raises(CheckpointError, match="ema=False"):
        content.averaged(lambda name: name != "a")
    assert read_fairchem(trainer(tmp_path, ema=None)).averages is None


def test_the_older_spelling_of_the_configuration_is_read(tmp_path):
    config = {"model": "some", "model_attributes": {"width": 7}, "trainer": "energy"}
    content = read_fairchem(trainer(tmp_path, config=config))
    assert content.model == "some"
    assert content.attributes == {"width": 7}
    assert content.config["trainer"] == "energy"


SCALES = [
    {"normalizers": {"energy": {"mean": torch.tensor(1.5), "rmsd": torch.tensor([2.5])}}},
    {"normalizers": {"target": {"mean": 1.5, "std": 2.5}}},
    {"config": {"model": "x", "dataset": {"target_mean": 1.5, "target_std": 2.5}}},
    {"config": {"model": "x", "dataset": [{"target_mean": 1.5, "target_std": 2.5}]}},
    {"config": {"model": "x", "dataset": {"train": {"target_mean": 1.5, "target_std": 2.5}}}},
]


@pytest.mark.parametrize("changes", SCALES, ids=str)
def test_scales_are_found_under_every_name_and_place(tmp_path, changes):
    scale = read_fairchem(trainer(tmp_path, **changes)).normalizers["energy"]
    assert scale == {"mean": 1.5, "std": 2.5}


def test_scales_of_data_that_were_not_normalized_do_not_count(tmp_path):
    dataset = {"target_mean": 1.5, "target_std": 2.5, "normalize_labels": False}
    config = {"model": "x", "dataset": dataset}
    assert read_fairchem(trainer(tmp_path, config=config)).normalizers == {}


@pytest.mark.parametrize(
    "entry", [torch.tensor([0.0, -1.0]), {"element_references": torch.tensor([0.0, -1.0])}]
)
def test_energies_of_elements_are_numbers_by_atomic_number(tmp_path, entry):
    content = read_fairchem(trainer(tmp_path, elementrefs={"energy": entry}))
    assert content.element_references == [0.0, -1.0]


def inference(tmp_path, **changes):
    task = {
        "property": "energy",
        "datasets": ["oc20"],
        "normalizer": {"mean": 0.5, "rmsd": 4.0},
        "element_references": {"element_references": {"_args_": [[0.0, -2.0]]}},
    }
    content = {
        "model_config": {
            "backbone": {"model": "Some", "width": 5},
            "heads": {"h": {"module": "m"}},
        },
        "model_state_dict": {"module.a": torch.ones(2)},
        "ema_state_dict": {"n_averaged": torch.tensor(9), "module.a": 2 * torch.ones(2)},
        "tasks_config": [task],
        **changes,
    }
    torch.save(content, tmp_path / "y.pt")
    return tmp_path / "y.pt"


def test_a_file_for_inference_says_what_its_network_gives(tmp_path):
    content = read_fairchem(inference(tmp_path))
    assert isinstance(content, InferenceCheckpoint)
    assert content.model == "Some"
    assert list(content.heads) == ["h"]
    assert np.array_equal(content.averages["a"], [2.0, 2.0])
    assert list(content.averages) == ["a"]
    task = content.task("energy")
    assert task.normalizer == {"mean": 0.5, "std": 4.0}
    assert task.element_references == [0.0, -2.0]
    assert content.task("forces") is None
    assert content.task("energy", "omat") is None


def test_one_of_several_data_sets_must_be_chosen(tmp_path):
    tasks = [{"property": "energy", "datasets": [name]} for name in ("oc20", "omat")]
    content = read_fairchem(inference(tmp_path, tasks_config=tasks))
    with pytest.raises(CheckpointError, match=r"task=: oc20, omat"):
        content.task("energy")
    assert content.task("energy", "omat").datasets == ("omat",)


@pytest.mark.parametrize(
    "changes",
    [
        {"state_dict": {}},
        {"state_dict": {"a": "no tensor"}},
        {"state_dict": 3},
        {"config": None},
        {"config": 5},
        {"normalizers": {"energy": "wide"}},
        {"normalizers": {"energy": {"mean": [1, 2]}}},
        {"normalizers": [1]},
        {"elementrefs": {"energy": "words"}},
        {"elementrefs": 3},
        {"epoch": "late"},
    ],
    ids=str,
)
def test_what_is_no_checkpoint_is_our_error(tmp_path, changes):
    with pytest.raises(CheckpointError):
        read_fairchem(trainer(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes", [{"model_config": 3}, {"tasks_config": 3}, {"model_state_dict": {"a": 1}}], ids=str
)
def test_what_is_no_file_for_inference_is_our_error(tmp_path, changes):
    with pytest.raises(CheckpointError):
        read_fairchem(inference(tmp_path, **changes)).task("energy")


def test_code_is_refused_by_name(tmp_path):
    with pytest.raises(UnsafeFileError, match="ArgumentParser"):
        read_fairchem(trainer(tmp_path, config={"model": argparse.ArgumentParser}))
