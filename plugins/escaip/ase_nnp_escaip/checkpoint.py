"""Checkpoints of the reference trainers: fairchem v1 (generation 1) and v2 (generation 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.files.fairchem import InferenceCheckpoint, TrainerCheckpoint, read_fairchem
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp_escaip import FAMILY
from ase_nnp_escaip.build import build
from ase_nnp_escaip.model import EScAIP

__all__ = ["load"]

Arrays = dict[str, np.ndarray[Any, Any]]
ADSORPTION = "the clean slab and gas-phase references of OC20"
#: Ends of the names of tensors that are no parameters.
BUFFERS = (".offset", ".avg_num_nodes")
REFERENCED = "the element references of the training run, which the file leaves out"


def load(path: str | Path, *, ema: bool = True, task: str | None = None, **options: Any) -> EScAIP:
    """Load a checkpoint of either trainer.

    Parameters
    ----------
    path
        A training or best checkpoint of fairchem v1, or an inference checkpoint of fairchem v2.
    ema
        Use the moving average of the weights, with which the trainers evaluate, where the file has
        one; False takes the raw weights.
    task
        Data set whose energies are wanted, for a file with several.
    options
        Further configuration keys (``rotations=3``, ``forces="gradient"``).

    Raises
    ------
    CheckpointError
        The file is damaged or is no EScAIP checkpoint; UnsafeFileError if it asks for code.
    """
    content = read_fairchem(path)
    if isinstance(content, TrainerCheckpoint):
        config, arrays, used = _training(content, ema)
    else:
        config, arrays, used = _inference(content, ema, task)
    try:
        full = resolve_config(FAMILY, config, **options)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error

    model = build(full)
    model.family, model.config = FAMILY.name, full
    model.load_weights(as_tensors(arrays, path))
    model.provenance = {"weights": "moving average" if used else "as in the file"}
    return model


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    known = {*FAMILY.defaults, *FAMILY.ignored}
    return {name: value for name, value in attributes.items() if name in known}


def _training(content: TrainerCheckpoint, ema: bool) -> tuple[dict[str, Any], Arrays, bool]:
    """Return configuration, weights and whether they are averages, for generation 1."""
    arrays = content.weights
    if not any(name.startswith("exportable_model.") for name in arrays):
        raise CheckpointError(
            f"{content.path} holds no EScAIP weights of generation 1; its first key is "
            f"{next(iter(arrays), 'missing')!r}."
        )
    config = _known(content.attributes) | {"generation": 1}
    if any(".graph_attention.in_proj_weight" in name for name in arrays):
        # The file does not say which attention wrote it, but that one names its weights otherwise.
        config["atten_name"] = "xformers"
    config["normalizer"] = {name: _rmsd(scale) for name, scale in content.normalizers.items()}

    source = str(content.dataset.get("src", ""))
    if content.element_references is not None:
        config["element_references"] = content.element_references
        config["energy_kind"] = "total"
    # fairchem 1 files carry no kind of energy; OC20's configurations name their folder.
    elif config["normalizer"] and any(word in source for word in ("s2ef", "oc20")):
        config["energy_kind"], config["energy_reference"] = "adsorption", ADSORPTION

    used = ema and content.averages is not None
    if used:
        arrays = arrays | content.averaged(lambda name: not name.endswith(BUFFERS))
    return config, arrays, used


def _inference(
    content: InferenceCheckpoint, ema: bool, dataset: str | None
) -> tuple[dict[str, Any], Arrays, bool]:
    """Return configuration, weights and whether they are averages, for generation 3."""
    if "escaip" not in str(content.model).lower():
        raise CheckpointError(f"{content.path} holds {content.model!r}, no EScAIP backbone.")
    used = ema and content.averages is not None
    arrays = content.averages if used and content.averages else content.weights
    config = _known(content.backbone) | {"generation": 3, "normalizer": {}}
    config["heads"] = {name: _head(name, value, arrays) for name, value in content.heads.items()}

    for name in ("energy", "forces", "stress"):
        task = content.task(name, dataset)
        if task is None:
            continue
        if task.normalizer is not None:
            config["normalizer"][name] = _rmsd(task.normalizer)
        if name == "energy":
            config["element_references"] = task.element_references
            config["energy_kind"] = "total"
            if task.element_references is None and "oc20" in task.datasets:
                config["energy_kind"], config["energy_reference"] = "adsorption", REFERENCED
    return config, arrays, used


def _rmsd(scale: Mapping[str, float]) -> dict[str, float]:
    return {"mean": scale["mean"], "rmsd": scale["std"]}


def _head(name: str, value: Mapping[str, Any], arrays: Arrays) -> str:
    """The word for a head that :func:`head_kinds` reads back."""
    text = f"{value.get('module', '')} {value.get('head_cls', '')}".lower()
    own = f"output_heads.{name}."

    # Heads may lie in a wrapper for several datasets, which shows in the names of the weights.
    wrapped = any(key.startswith(own + "head.") for key in arrays)
    kind = "gradient" if "grad" in text else "force" if "forcehead" in text else "energy"
    return f"wrapper {kind}" if wrapped else kind
