"""Checkpoints that users hold, published or written by the training scripts."""

import argparse
import json

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from ase_nnp import build_model, load_model, predict, save_model
from ase_nnp.errors import AseNnpError, CheckpointError, ConfigError

FILE = "reference/cgcnn/formation-energy-per-atom.pth.tar"
CRYSTAL = {"atom_fea_len": 6, "n_conv": 2, "h_fea_len": 5, "n_h": 2}
SLAB = {
    "atom_embedding_size": 6,
    "num_graph_conv_layers": 2,
    "fc_feat_size": 5,
    "num_fc_layers": 3,
    "num_gaussians": 8,
    "cutoff": 4.0,
}


def value(model):
    return predict(model, [bulk("NaCl", "rocksalt", a=5.6)])[0]


def crystal(**options):
    return build_model("cgcnn", {**CRYSTAL, **options}, seed=3, device="cpu")


def crystal_file(path, model, *, counters=True, prefix="", zipped=True, **content):
    state = {
        prefix + k: v
        for k, v in model.state_dict().items()
        if counters or not k.endswith("num_batches_tracked")
    }
    torch.save(
        {"epoch": 7, "state_dict": state, "best_mae_error": 0.5, **content},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    return path


def oc20(**options):
    return build_model("cgcnn_oc20", {**SLAB, **options}, seed=3, device="cpu")


def oc20_file(path, model, *, prefix="module.module.", config=None, **content):
    attributes = {**SLAB, "use_pbc": True, "otf_graph": False, "regress_forces": True}
    trained = {"trainer": "forces", "model": "cgcnn", "model_attributes": attributes}
    state = {prefix + k: v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state, "config": config or trained, **content}, path)
    return path


def test_published_file_and_safetensors_are_the_same_model(shared, tmp_path):
    folder = shared / "reference/cgcnn/formation-energy-per-atom"
    direct = load_model("cgcnn", checkpoint=shared / FILE, device="cpu", dtype="float64")
    config, weights = folder / "config.json", folder / "weights.safetensors"
    other = load_model("cgcnn", config=config, weights=weights, device="cpu", dtype="float64")
    assert value(direct) == value(other)
    assert set(value(direct)) == {"formation_energy_per_atom"}
    assert dict(direct.config) == dict(other.config)
    assert load_model(shared / FILE, device="cpu").family == "cgcnn"
    save_model(direct, tmp_path / "own.nnp")
    again = load_model(tmp_path / "own.nnp", device="cpu", dtype="float64")
    assert value(again) == value(direct)


def test_published_predictions_follow_from_the_published_file(shared):
    predictions = json.loads(
        (shared / "reference/cgcnn/formation-energy-per-atom/predictions.json").read_text()
    )["predictions"]
    stored = np.load(shared / "reference/cgcnn/inputs.npz")
    for dtype, key, tolerance in (("float32", "f32", 1e-5), ("float64", "prediction", 1e-9)):
        model = load_model("cgcnn", checkpoint=shared / FILE, device="cpu", dtype=dtype)
        for name in ("NaCl", "MgO_rattled", "Ar_sparse"):
            atoms = bulk("Cu")[[0] * len(stored[f"{name}/numbers"])]
            atoms.set_cell(stored[f"{name}/cell"])
            atoms.numbers = stored[f"{name}/numbers"]
            atoms.positions = stored[f"{name}/positions"]
            predicted = predict(model, [atoms])[0]["formation_energy_per_atom"]
            assert predicted == pytest.approx(predictions[name][key], abs=tolerance)


def test_a_published_file_under_another_name_still_says_its_property(shared, tmp_path):
    copy = tmp_path / "model.pth.tar"
    copy.write_bytes((shared / FILE).read_bytes())
    assert load_model("cgcnn", checkpoint=copy).outputs == ("formation_energy_per_atom",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("counters", [True, False])
def test_files_of_the_training_script_load(tmp_path, zipped, counters):
    model = crystal(normalizer={"mean": 0.25, "std": 2.0})
    path = crystal_file(
        tmp_path / "model_best.pth.tar",
        model,
        zipped=zipped,
        counters=counters,
        best_mae_error=np.float64(0.5),
        normalizer={"mean": torch.tensor(0.25), "std": torch.tensor(2.0)},
        args=vars(argparse.Namespace(task="regression", n_conv=2, data_options=["/some/where"])),
    )
    loaded = load_model("cgcnn", checkpoint=path, device="cpu")
    assert loaded.outputs == ("property",)
    assert value(loaded) == value(model)
    assert loaded.provenance["best_mae_error"] == 0.5


def test_wrapped_weights_load(tmp_path):
    model = crystal()
    path = crystal_file(tmp_path / "a.pt", model, prefix="module.")
    assert value(load_model("cgcnn", checkpoint=path, device="cpu")) == value(model)


@pytest.mark.parametrize(
    ("name", "options", "outputs"),
    [
        ("band-gap.pth.tar", {}, ("band_gap",)),
        ("bulk-moduli.pth.tar", {}, ("log_bulk_modulus", "bulk_modulus")),
        ("final-energy-per-atom.pth.tar", {}, ("energy", "energy_per_atom")),
        ("x.pth.tar", {"property": "efermi"}, ("fermi_energy",)),
        ("x.pth.tar", {"property": "fermi_energy"}, ("fermi_energy",)),
        ("band-gap.pth.tar", {"property": "Exfoliation energy"}, ("exfoliation_energy",)),
        ("semi-metal-classification.pth.tar", {}, ("property",)),
    ],
)
def test_property_follows_from_the_option_or_the_file_name(tmp_path, name, options, outputs):
    path = crystal_file(tmp_path / name, crystal())
    assert load_model("cgcnn", checkpoint=path, device="cpu", **options).outputs == outputs


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("semi-metal-classification.pth.tar", "metal_probability"),
        ("band-gap.pth.tar", "class_probability"),
    ],
)
def test_a_classifier_gives_a_probability_and_ignores_the_normalizer(tmp_path, name, output):
    model = crystal(task="classification")
    scale = {"mean": torch.tensor(0.0), "std": torch.tensor(1.0)}
    path = crystal_file(tmp_path / name, model, normalizer=scale)
    loaded = load_model("cgcnn", checkpoint=path, device="cpu")
    assert loaded.outputs == (output,)
    assert value(loaded)[output] == value(model)["class_probability"]


def test_other_files_are_refused_with_the_reason(tmp_path, shared):
    for content, says in (
        ({"state_dict": {"a.weight": torch.zeros(2)}}, "no layers"),
        ({"something": 1}, "no state_dict"),
        ([1, 2], "not a dictionary"),
    ):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=says):
            load_model("cgcnn", checkpoint=tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="neither a checkpoint of fairchem 1"):
        load_model("cgcnn_oc20", checkpoint=shared / FILE)
    scn = shared / "reference/checkpoints/scn_v1_training_format.pt"
    with pytest.raises(CheckpointError, match="holds a model called 'scn', not a 'cgcnn'"):
        load_model("cgcnn_oc20", checkpoint=scn)


def test_damaged_tensors_are_refused(tmp_path):
    model = crystal()
    state = dict(model.state_dict())
    state["convs.1.bn2.bias"] = torch.zeros(3)
    del state["convs.0.fc_full.bias"]
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"missing: convs.0.fc_full.bias.*convs.1.bn2.bias"):
        load_model("cgcnn", checkpoint=tmp_path / "x.pt")


def test_a_misspelt_option_is_refused(tmp_path):
    path = crystal_file(tmp_path / "x.pt", crystal())
    with pytest.raises(ConfigError, match="Did you mean 'property'"):
        load_model("cgcnn", checkpoint=path, propperty="band-gap")


def test_oc20_file_of_2020_loads_with_its_units(tmp_path):
    scale = {"target": {"mean": -0.75, "std": 2.5}, "grad_target": {"mean": 0.0, "std": 2.5}}
    model = oc20(normalizer=scale)
    tensors = {k: {n: torch.tensor(x) for n, x in v.items()} for k, v in scale.items()}
    path = oc20_file(tmp_path / "x.pt", model, normalizers=tensors, epoch=1.5, optimizer={})
    loaded = load_model("cgcnn_oc20", checkpoint=path, device="cpu")
    atoms = [molecule("CH3OH")]
    one, two = predict(loaded, atoms)[0], predict(model, atoms)[0]
    assert one["energy"] == pytest.approx(two["energy"], rel=1e-5)
    np.testing.assert_allclose(one["forces"], two["forces"], rtol=1e-4, atol=1e-6)
    assert loaded.config["pbc"] == [True, True, False]
    json.dumps(dict(loaded.config), allow_nan=False)


def test_oc20_units_may_stand_with_the_dataset(tmp_path):
    dataset = {"normalize_labels": True, "target_mean": -1.5, "target_std": 2.25, "src": "x"}
    attributes = {**SLAB, "regress_forces": False}
    config = {"trainer": "energy", "model": "cgcnn", "model_attributes": attributes}
    config["dataset"] = [dataset, {"src": "y"}]
    path = oc20_file(tmp_path / "x.pt", oc20(), config=config, prefix="")
    loaded = load_model("cgcnn_oc20", checkpoint=path, device="cpu")
    assert loaded.config["normalizer"] == {"target": {"mean": -1.5, "std": 2.25}}
    assert loaded.outputs == ("energy",)


def test_oc20_averages_are_taken_unless_declined(tmp_path):
    model, averaged = oc20(), build_model("cgcnn_oc20", SLAB, seed=4, device="cpu")
    buffers = {
        k: v for k, v in model.state_dict().items() if k not in dict(model.named_parameters())
    }
    averaged.load_state_dict({**averaged.state_dict(), **buffers})
    shadow = [p.detach() for p in averaged.parameters()]
    ema = {"decay": 0.999, "num_updates": 3, "shadow_params": shadow, "collected_params": []}
    path = oc20_file(tmp_path / "x.pt", model, ema=ema)
    atoms = [molecule("CH3OH")]
    for options, wanted in (({}, averaged), ({"ema": False}, model)):
        loaded = load_model("cgcnn_oc20", checkpoint=path, device="cpu", **options)
        one, two = (predict(m, atoms)[0]["energy"] for m in (loaded, wanted))
        assert one == pytest.approx(two, rel=1e-6)
    ema["shadow_params"] = shadow[:-1]
    path = oc20_file(tmp_path / "y.pt", model, ema=ema)
    with pytest.raises(CheckpointError, match="ema=False"):
        load_model("cgcnn_oc20", checkpoint=path, device="cpu")


def test_oc20_file_of_later_trainers_loads(tmp_path):
    config = {"trainer": "ocp", "model": {"name": "cgcnn", **SLAB}}
    normalizers = {
        "energy": {"mean": torch.tensor(1.0), "rmsd": torch.tensor(2.0)},
        "forces": {"mean": torch.tensor(0.0), "rmsd": torch.tensor(2.0)},
    }
    path = oc20_file(
        tmp_path / "x.pt", oc20(), config=config, prefix="module.", normalizers=normalizers
    )
    loaded = load_model("cgcnn_oc20", checkpoint=path, device="cpu")
    assert loaded.config["normalizer"]["target"] == {"mean": 1.0, "std": 2.0}
    assert loaded.config["pbc"] == [True, True, True]
    again = load_model("cgcnn_oc20", checkpoint=path, device="cpu", pbc=[True, True, False])
    assert again.config["pbc"] == [True, True, False]


def test_code_in_a_checkpoint_is_refused_by_name(tmp_path):
    class Evil:
        def __reduce__(self):
            return (eval, ("1 + 1",))

    torch.save({"state_dict": Evil()}, tmp_path / "x.pt")
    with pytest.raises(AseNnpError, match="eval"):
        load_model("cgcnn", checkpoint=tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("family", "key", "value", "says"),
    [
        ("cgcnn", "n_conv", 0, "n_conv must be a positive number"),
        ("cgcnn", "atom_fea_len", 6.5, "atom_fea_len"),
        ("cgcnn", "normalizer", {"mean": 1.0}, "normalizer"),
        ("cgcnn", "normalizer", {"mean": 1.0, "std": 0.0}, "positive std"),
        ("cgcnn_oc20", "cutoff", "6", "cutoff must be a positive number"),
        ("cgcnn_oc20", "num_gaussians", 1, "2 or more"),
        ("cgcnn_oc20", "normalizer", {"ziel": {"mean": 0.0, "std": 1.0}}, "'ziel'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(family, key, value, says):
    with pytest.raises(ConfigError, match=says):
        build_model(family, {key: value}, device="cpu")


def test_later_names_of_the_normalizer_are_taken():
    scale = {"energy": {"mean": -0.75, "stdev": 2.5}, "forces": {"mean": 0.0, "stdev": 2.5}}
    assert (oc20(normalizer=scale).mean, oc20(normalizer=scale).std) == (-0.75, 2.5)
    assert oc20(normalizer={"mean": 1.0, "std": 3.0}).std == 3.0


def test_numbers_of_an_older_numpy_are_read(tmp_path):
    """The published classifier keeps its best score as a numpy scalar under an old module path."""
    path = crystal_file(
        tmp_path / "x.pth.tar", crystal(), zipped=False, best_mae_error=np.float64(0.9)
    )
    data = path.read_bytes()
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray\nscalar" in old
    path.write_bytes(old)
    assert load_model("cgcnn", checkpoint=path).provenance["best_mae_error"] == 0.9
