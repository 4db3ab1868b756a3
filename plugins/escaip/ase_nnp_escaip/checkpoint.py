"""Checkpoints of the reference trainers: fairchem v1 (generation 1) and v2 (generation 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.files.unpickle import load_torch
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp_escaip import FAMILY
from ase_nnp_escaip.build import build
from ase_nnp_escaip.model import EScAIP

__all__ = ["load"]

Arrays = dict[str, np.ndarray[Any, Any]]
ADSORPTION = "the clean slab and gas-phase references of OC20"
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
    content = load_torch(path)
    plain = content if isinstance(content, Mapping) else getattr(content, "__dict__", {})
    if "model_config" in plain and "model_state_dict" in plain:
        config, arrays, used = _inference(plain, ema, task, path)
    elif "state_dict" in plain and isinstance(plain.get("config"), Mapping):
        config, arrays, used = _training(plain, ema, path)
    else:
        raise CheckpointError(
            f"{path} is neither a fairchem v1 checkpoint (state_dict and config) nor a fairchem v2 "
            f"inference checkpoint. It holds: {', '.join(map(str, list(plain)[:6])) or 'nothing'}."
        )
    try:
        full = resolve_config(FAMILY, config, **options)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model = build(full)
    model.family, model.config = FAMILY.name, full
    model.load_weights(as_tensors(arrays, path))
    model.provenance = {"weights": "moving average" if used else "as in the file"}
    return model


def _training(
    content: Mapping[str, Any], ema: bool, path: object
) -> tuple[dict[str, Any], Arrays, bool]:
    """Configuration, weights and whether they are averages, of a fairchem v1 checkpoint."""
    arrays = _stripped(content["state_dict"], path)
    if not any(name.startswith("exportable_model.") for name in arrays):
        raise CheckpointError(
            f"{path} holds no EScAIP weights of generation 1; its first key is "
            f"{next(iter(arrays), 'missing')!r}."
        )
    average = content.get("ema") or {}
    used = ema and bool(average.get("shadow_params"))
    if used:
        arrays = _averaged(arrays, average["shadow_params"], path)
    given = content["config"]
    model = given.get("model")
    attributes = (
        dict(model) if isinstance(model, Mapping) else dict(given.get("model_attributes", {}))
    )
    known = {*FAMILY.defaults, *FAMILY.ignored}
    config = {k: v for k, v in attributes.items() if k in known}
    config["generation"] = 1
    if any(".graph_attention.in_proj_weight" in name for name in arrays):
        config["atten_name"] = "xformers"
    dataset: Any = given.get("dataset") or {}
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        dataset = dataset[0] if dataset else {}
    if isinstance(dataset.get("train"), Mapping):
        dataset = dataset["train"]
    config["normalizer"] = _normalizers(content.get("normalizers") or {}, dataset)
    references = content.get("elementrefs") or {}
    table = references.get("energy", next(iter(references.values()), None))
    if isinstance(table, Mapping):
        table = table.get("element_references")
    if table is not None:
        config["element_references"] = np.asarray(table, dtype=np.float64).ravel().tolist()
        config["energy_kind"] = "total"
    elif config["normalizer"] and any(t in str(dataset.get("src", "")) for t in ("s2ef", "oc20")):
        config["energy_kind"], config["energy_reference"] = "adsorption", ADSORPTION
    return config, arrays, used


def _stripped(state: Mapping[str, Any], path: object) -> Arrays:
    """Drop the leading ``module.`` of a distributed run: as many as the first key has."""
    names = list(state)
    if not names:
        raise CheckpointError(f"{path}: the state_dict is empty.")
    count = names[0].split(".").count("module")
    prefix = "module." * count
    return {str(name).removeprefix(prefix): value for name, value in state.items()}


def _averaged(arrays: Arrays, shadow: Sequence[Any], path: object) -> Arrays:
    """Put averages, a list without names, in place of the parameters, in the order of the file."""
    names = [n for n in arrays if not n.endswith((".offset", ".avg_num_nodes"))]
    if len(names) != len(shadow):
        raise CheckpointError(
            f"{path} has {len(names)} parameters and {len(shadow)} averages of them; load it with "
            "ema=False for the raw weights."
        )
    averaged = dict(arrays)
    for name, value in zip(names, shadow, strict=True):
        if np.shape(value) != np.shape(arrays[name]):
            raise CheckpointError(
                f"{path}: the average for {name} has the shape {np.shape(value)} instead of "
                f"{np.shape(arrays[name])}; load it with ema=False for the raw weights."
            )
        averaged[name] = value
    return averaged


def _normalizers(
    given: Mapping[str, Any], dataset: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    names = {"target": "energy", "grad_target": "forces"}
    for name, value in given.items():
        scale = value.get("rmsd", value.get("std", 1.0))
        found[names.get(name, name)] = {
            "mean": _float(value.get("mean", 0.0)),
            "rmsd": _float(scale),
        }
    for old, name in names.items():  # some old files keep them only beside the data
        if not given and f"{old}_std" in dataset:
            scale, mean = dataset[f"{old}_std"], dataset.get(f"{old}_mean", 0.0)
            found[name] = {"mean": _float(mean), "rmsd": _float(scale)}
    return found


def _float(value: Any) -> float:
    return float(np.asarray(value).reshape(()))


def _inference(
    content: Mapping[str, Any], ema: bool, task: str | None, path: object
) -> tuple[dict[str, Any], Arrays, bool]:
    """Configuration, weights and whether they are averages, of a fairchem v2 checkpoint."""
    average = content.get("ema_state_dict")
    used = ema and bool(average)
    state = average if used and average else content["model_state_dict"]
    arrays = {str(n).removeprefix("module."): v for n, v in state.items() if n != "n_averaged"}
    model = content["model_config"]
    backbone = dict(model.get("backbone", {}))
    if "escaip" not in str(backbone.get("model", "")).lower():
        raise CheckpointError(
            f"{path} holds the model {backbone.get('model')!r}, which is no EScAIP backbone."
        )
    known = {*FAMILY.defaults, *FAMILY.ignored}
    config = {k: v for k, v in backbone.items() if k in known}
    config["generation"] = 3
    config["heads"] = {
        str(name): _head(str(name), value, arrays) for name, value in model.get("heads", {}).items()
    }
    normalizer: dict[str, dict[str, float]] = {}
    for name in ("energy", "forces", "stress"):
        chosen = _task(content.get("tasks_config") or [], name, task, path)
        if chosen is None:
            continue
        given = chosen.get("normalizer")
        if given:
            scale = _float(given.get("rmsd", given.get("std", 1.0)))
            normalizer[name] = {"mean": _float(given.get("mean", 0.0)), "rmsd": scale}
        if name == "energy":
            table = _references(chosen.get("element_references"))
            config["element_references"] = table
            config["energy_kind"] = "total"
            if table is None and "oc20" in [str(d) for d in chosen.get("datasets") or ()]:
                config["energy_kind"], config["energy_reference"] = "adsorption", REFERENCED
    config["normalizer"] = normalizer
    return config, arrays, used


def _head(name: str, value: Mapping[str, Any], arrays: Arrays) -> str:
    """The word for a head that :func:`head_kinds` reads back."""
    text = f"{value.get('module', '')} {value.get('head_cls', '')}".lower()
    own = f"output_heads.{name}."
    wrapped = any(key.startswith(own + "head.") for key in arrays)
    kind = "gradient" if "grad" in text else "force" if "forcehead" in text else "energy"
    return f"wrapper {kind}" if wrapped else kind


def _task(
    tasks: Sequence[Mapping[str, Any]], name: str, wanted: str | None, path: object
) -> Mapping[str, Any] | None:
    fits = [t for t in tasks if t.get("property") == name]
    if wanted is not None:
        fits = [t for t in fits if wanted in (t.get("datasets") or ())]
    if len(fits) > 1:
        sets = sorted({str(d) for t in fits for d in t.get("datasets") or ()})
        raise CheckpointError(
            f"{path} was trained on several data sets; choose one with task=: {', '.join(sets)}."
        )
    return fits[0] if fits else None


def _references(given: Any) -> list[float] | None:
    """The energies of the elements by atomic number, out of the nested constructor arguments."""
    while isinstance(given, Mapping):
        given = given["_args_"][0] if "_args_" in given else given.get("element_references")
    return None if given is None else [float(v) for v in np.asarray(given).ravel()]
