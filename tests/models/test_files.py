"""Weights in files: round trips, damage, and files that would like to run code."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from ase.build import bulk

import ase_nnp
from ase_nnp import build_model, load_model, predict, save_model
from ase_nnp.errors import CheckpointError, ConfigError, UnknownModelError, UnsafeFileError
from ase_nnp.models.files import model_hash
from ase_nnp.models.tensors import read_header, read_tensors, write_sealed, write_tensors


@pytest.fixture
def saved(tmp_path):
    model = build_model("lj", {"sigma": 2.1}, device="cpu")
    save_model(model, tmp_path / "lj.nnp", training_data="none")
    return tmp_path / "lj.nnp"


def test_a_saved_model_comes_back(saved):
    model = load_model(saved, device="cpu")
    assert model.config == {"epsilon": 0.4, "sigma": 2.1, "cutoff": 6.0}
    assert model.provenance["training_data"] == "none"
    assert not model.training
    first = predict(build_model("lj", {"sigma": 2.1}, device="cpu"), [bulk("Cu")])
    again = predict(model, [bulk("Cu")])[0]["energy"]
    assert again == pytest.approx(first[0]["energy"], rel=1e-6)


def test_the_header_is_readable_json(saved):
    header = json.loads(read_header(saved)["ase_nnp"])
    assert header["family"] == "lj"
    assert header["energy_kind"] == "total"
    assert header["format"] == 1


def test_options_override_the_stored_configuration(saved):
    assert load_model(saved, sigma=2.5).config["sigma"] == 2.5


@pytest.mark.parametrize("key", ["family", "config_", "bogus"])
def test_an_option_that_a_file_does_not_take_is_named(saved, key):
    with pytest.raises(ConfigError, match=f"'lj' has no hyper-parameter '{key}'"):
        load_model(saved, **{key: 1})


@pytest.mark.parametrize("key", ["family", "path", "bogus"])
def test_an_option_that_a_loader_does_not_take_is_named(tmp_path, monkeypatch, key):
    from dataclasses import replace

    from ase_nnp.registry.installed import installed

    def inner(path, family, sigma=1.0):
        return build_model("lj", {"sigma": sigma}, device="cpu")

    known = installed().families
    foreign = replace(known["lj"], load=lambda path, **options: inner(path, None, **options))
    monkeypatch.setitem(known, "lj", foreign)
    (tmp_path / "a.pt").write_bytes(b"anything")
    loaded = load_model("lj", checkpoint=tmp_path / "a.pt", device="cpu", sigma=2.0)
    assert loaded.config["sigma"] == 2.0
    with pytest.raises(ConfigError, match=f"'lj', which takes no option '{key}'"):
        load_model("lj", checkpoint=tmp_path / "a.pt", device="cpu", **{key: 1})


def test_a_model_of_weights_keeps_them(tmp_path):
    model = build_model("cgcnn_oc20", dict(_test_config("cgcnn_oc20")), seed=1, device="cpu")
    save_model(model, tmp_path / "m.nnp")
    back = load_model(tmp_path / "m.nnp", device="cpu")
    assert model_hash(back) == model_hash(model)
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)


def _test_config(name):
    from ase_nnp.registry.installed import installed

    return installed().family(name).test_config


def test_fresh_weights_follow_the_seed_and_leave_the_generator_alone():
    config = dict(_test_config("cgcnn_oc20"))
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    one = build_model("cgcnn_oc20", config, seed=3)
    assert torch.equal(torch.rand(1), before)
    assert model_hash(one) == model_hash(build_model("cgcnn_oc20", config, seed=3))
    assert model_hash(one) != model_hash(build_model("cgcnn_oc20", config, seed=4))


def test_a_changed_byte_is_noticed(tmp_path):
    model = build_model("cgcnn_oc20", dict(_test_config("cgcnn_oc20")), seed=1, device="cpu")
    save_model(model, tmp_path / "m.nnp")
    data = bytearray((tmp_path / "m.nnp").read_bytes())
    data[-3] ^= 1
    (tmp_path / "m.nnp").write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model(tmp_path / "m.nnp")


def test_a_truncated_file_is_an_error(saved):
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.raises(CheckpointError):
        load_model(saved)


def test_a_newer_format_is_refused(saved):
    header = json.loads(read_header(saved)["ase_nnp"]) | {"format": 99}
    write_sealed(saved, "ase_nnp", header, {})
    with pytest.raises(CheckpointError, match="Upgrade"):
        load_model(saved)


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    model = build_model("lj")
    model.config = {"bad": object()}
    with pytest.raises(CheckpointError, match="JSON"):
        save_model(model, saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["lj.nnp"]


def test_a_missing_file_names_what_is_installed(tmp_path):
    with pytest.raises(UnknownModelError, match="no file"):
        load_model(tmp_path / "nothing.nnp")


def test_a_family_without_weights_says_what_to_give():
    small = ase_nnp.list_models()["scn"].test_config
    with pytest.raises(ConfigError, match="checkpoint=PATH"):
        load_model("scn", config=small)


def test_a_formula_without_weights_is_usable_by_its_name():
    assert load_model("lj").provenance["source"] == "configuration"
    assert load_model("lj", config={"sigma": 2.0}).sigma == 2.0


def test_unknown_devices_and_dtypes_are_refused():
    with pytest.raises(ConfigError, match="float16"):
        build_model("lj", dtype="float16")
    with pytest.raises(ConfigError, match="gpu"):
        build_model("lj", device="gpu")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_bare_pickle_is_no_checkpoint_and_runs_nothing(tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"w": Payload(tmp_path / "marker")}))
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("kind", ["torch zip", "torch legacy"])
def test_a_checkpoint_cannot_run_code(tmp_path, kind):
    marker, file = tmp_path / "marker", tmp_path / "evil.pt"
    content = {"state_dict": {"w": torch.ones(2)}, "config": Payload(marker)}
    torch.save(content, file, _use_new_zipfile_serialization=kind == "torch zip")
    with pytest.raises(UnsafeFileError, match="open"):
        read_tensors(file)
    with pytest.raises(CheckpointError):
        load_model(file)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["safetensors", "npz", "torch zip", "torch legacy"])
def test_named_tensors_are_read_from_any_usual_file(tmp_path, kind):
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
    path = tmp_path / "weights"
    if kind == "safetensors":
        write_tensors(path, tensors, {})
    elif kind == "npz":
        with open(path, "wb") as file:
            np.savez(file, **{k: v.numpy() for k, v in tensors.items()})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "torch zip")
    loaded = read_tensors(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[k], v) for k, v in tensors.items())


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"nonsense": torch.ones(2)}, {})
    with pytest.raises(CheckpointError, match="nonsense"):
        load_model("cgcnn_oc20", config=dict(_test_config("cgcnn_oc20")), weights=path)


def test_keys_that_came_later_leave_old_hashes_as_they_were(monkeypatch):
    import ase_nnp.models.files as files

    model = build_model("lj", seed=0)
    before = model_hash(model)
    later = {**model.config, "long_range": None}
    monkeypatch.setattr(model, "config", later)
    assert files.model_hash(model) == before
    monkeypatch.setattr(model, "config", {**later, "long_range": {"kind": "ewald"}})
    assert files.model_hash(model) != before
