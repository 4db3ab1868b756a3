"""Checkpoints that others published load as torch loads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ase_nnp.files.unpickle import (
    load_torch,
)


@pytest.mark.parametrize(
    "name",
    [
        "scn_v1_training_format.pt",
        "escaip_v1_training_format.pt",
        "escaip_v2_inference_ckpt.pt",
    ],
)
def test_checkpoints_of_the_reference_trainers_load_like_torch_loads_them(shared, name):
    path = shared / "reference" / "checkpoints" / name
    loaded = load_torch(path)
    if name.startswith("escaip_v2"):
        assert set(vars(loaded)) >= {
            "model_config",
            "model_state_dict",
            "ema_state_dict",
            "tasks_config",
        }
        assert "n_averaged" in loaded.ema_state_dict
        assert isinstance(loaded.tasks_config, list)
        return
    wanted = torch.load(path, map_location="cpu", weights_only=True)
    assert list(loaded["state_dict"]) == list(wanted["state_dict"])
    for key, tensor in wanted["state_dict"].items():
        assert np.array_equal(loaded["state_dict"][key], tensor.numpy())
    for ours, theirs in zip(
        loaded["ema"]["shadow_params"], wanted["ema"]["shadow_params"], strict=True
    ):
        assert np.array_equal(ours, theirs.numpy())


def test_the_published_cgcnn_file_loads(shared):
    folder = shared / "reference" / "cgcnn"
    loaded = load_torch(folder / "formation-energy-per-atom.pth.tar")
    assert len(loaded["state_dict"]) == 46
    assert isinstance(loaded["normalizer"]["mean"], float)
    from safetensors.numpy import load_file

    weights = load_file(folder / "formation-energy-per-atom" / "weights.safetensors")
    for key, array in weights.items():
        assert np.array_equal(loaded["state_dict"][key], array), key
