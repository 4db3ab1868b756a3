"""Checkpoints of fairchem 1.x and of ocp before it, read without running code from the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import CheckpointError
from ase_nnp.files.unpickle import load_torch
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp.registry.family import ModelFamily
from ase_nnp_scn.model import SCN
from ase_nnp_scn.scaling import ALIASES, read_normalizers


def load(path: str | Path, family: ModelFamily, *, ema: bool = True, **options: Any) -> SCN:
    """Return the model of a checkpoint.

    Parameters
    ----------
    path
        A file that fairchem 1.x or ocp wrote, for training or for inference.
    ema
        Take the exponential moving average of the weights where the file has one beside the last
        weights. A file without one (written for inference) holds the average already.
    options
        Configuration keys, over those of the file.

    Raises
    ------
    CheckpointError
        For another layout, another model, or weights that do not fit.
    """
    content = load_torch(path)
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise CheckpointError(
            f"{path} is no fairchem 1.x checkpoint: no 'state_dict' was found. Weights alone can "
            "be loaded with config= and weights=."
        )
    attributes, dataset = _configuration(content, path)
    state = _without_prefix(as_tensors(content["state_dict"], path))
    found: dict[str, Any] = {"normalizer": _normalizer(content, dataset)}
    references = _element_references(content)
    if references is not None:
        found["element_references"] = references
    if dataset.get("total_energy"):
        found["energy_kind"] = "total"
    config = resolve_config(family, attributes | found, **options)
    model = SCN(config)
    model.family, model.config = family.name, config
    average = content.get("ema") if ema else None
    if average:
        state |= _averages(model, state, average.get("shadow_params", ()), path)
    try:
        model.load_weights(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.provenance = {
        "format": "fairchem 1.x",
        "weights": "exponential moving average" if average else "state_dict",
        **{k: float(content[k]) for k in ("epoch", "step") if _is_number(content.get(k))},
    }
    return model


def _configuration(
    content: Mapping[str, Any], path: object
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the hyper-parameters and the first entry on data of either spelling of the config."""
    config = content.get("config")
    if not isinstance(config, Mapping) or "model" not in config:
        raise CheckpointError(
            f"{path} does not say which model its weights belong to. Load them with config= and "
            "weights=."
        )
    model = config["model"]
    if isinstance(model, Mapping):
        attributes, name = dict(model), model.get("name")
    else:
        attributes, name = dict(config.get("model_attributes") or {}), model
    if name != "scn":
        raise CheckpointError(f"{path} holds a model called {name!r}, not 'scn'.")
    dataset = config.get("dataset")
    if isinstance(dataset, Mapping) and isinstance(dataset.get("train"), Mapping):
        dataset = dataset["train"]
    elif isinstance(dataset, Sequence) and dataset:
        dataset = dataset[0]
    return attributes, dict(dataset) if isinstance(dataset, Mapping) else {}


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip the ``module.`` that each wrapper of distributed training has put in front."""
    prefix = "module." * next(iter(state)).count("module.")
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _averages(
    model: SCN, state: Mapping[str, Tensor], shadow: Sequence[Any], path: object
) -> dict[str, Tensor]:
    """Name the averaged weights, which the file lists in the order of its parameters.

    A parameter that several modules share is listed once and must be set under all its names.
    """
    own = dict(model.named_parameters())
    names = [name for name in state if name in own]
    if len(names) != len(shadow):
        raise CheckpointError(
            f"{path}: the moving average has {len(shadow)} tensors and the model {len(names)} "
            "parameters. ema=False loads the last weights instead."
        )
    averages = {}
    for name, array in zip(names, shadow, strict=True):
        value = torch.from_numpy(np.array(array))
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"{path}: the moving average has {tuple(value.shape)} where {name} of shape "
                f"{tuple(own[name].shape)} is expected. ema=False loads the last weights instead."
            )
        averages[name] = value
    values = {id(own[name]): value for name, value in averages.items()}
    everywhere = model.named_parameters(remove_duplicate=False)
    return {name: values[id(parameter)] for name, parameter in everywhere}


def _normalizer(content: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the normalizers as plain numbers: from the file, or from what it says on its data."""
    found = content.get("normalizers")
    if not found and dataset.get("normalize_labels", True) and "target_std" in dataset:
        found = {
            "target": {"mean": dataset.get("target_mean", 0.0), "std": dataset["target_std"]},
            "grad_target": {
                "mean": dataset.get("grad_target_mean", 0.0),
                "std": dataset.get("grad_target_std", 1.0),
            },
        }
    if not found:
        return None
    scale = read_normalizers(found)
    return {name: {"mean": mean, "std": std} for name, (mean, std) in scale.items()}


def _element_references(content: Mapping[str, Any]) -> list[float] | None:
    found = content.get("elementrefs") or {}
    entry = next((found[n] for n in ALIASES["energy"] if n in found), None)
    if entry is None:
        return None
    values = entry.get("element_references") if isinstance(entry, Mapping) else entry
    return [float(v) for v in np.asarray(values, dtype=np.float64).ravel()]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, np.ndarray) and value.size == 1)
