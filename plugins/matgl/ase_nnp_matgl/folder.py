"""Read a model folder of matgl without running code in it, and find cached ones by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ase_nnp.errors import CheckpointError, UnsafeFileError
from ase_nnp.files.unpickle import load_torch
from ase_nnp.models.quiet import quiet
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp.registry.family import ModelFamily
from ase_nnp_matgl.model import MatglPotential
from ase_nnp_matgl.networks import LEFT_OUT, NETWORKS

__all__ = ["load", "locate"]

FILES = ("model.json", "model.pt", "state.pt")


def locate(name: str) -> Path:
    """Return the folder of a published model in matgl's cache; the network is never asked.

    Parameters
    ----------
    name
        ``"TensorNet-PES-MatPES-PBE-2025.2"`` or ``"owner/name"``.

    Raises
    ------
    CheckpointError
        It is not in the cache; the message says how to fetch it.
    """
    from huggingface_hub import try_to_load_from_cache

    repository = name if "/" in name else f"materialyze/{name}"

    # matgl's own folder first, then the one of huggingface_hub.
    for cache in (Path.home() / ".cache" / "matgl", None):
        try:
            cached = [try_to_load_from_cache(repository, f, cache_dir=cache) for f in FILES]
        except ValueError:  # not a name that a repository can have
            break
        if all(isinstance(f, str) for f in cached):
            return Path(str(cached[0])).parent
    raise CheckpointError(
        f"'{name}' is neither a folder nor a model in matgl's cache, and nothing is downloaded "
        f"here. With a network: python -c \"import matgl; matgl.load_model('{name}')\" fetches it "
        "once; or give the path of a folder with " + ", ".join(FILES) + "."
    )


def load(path: str | Path, family: ModelFamily, **options: Any) -> MatglPotential:
    """Return the model in a folder that matgl wrote.

    Parameters
    ----------
    path
        The folder, or its ``model.json``.
    family
        Whose defaults complete the configuration.
    options
        Further configuration keys.

    Raises
    ------
    CheckpointError
        Files are missing, damaged or of a class that is no potential; UnsafeFileError if they
        ask for code or for another module's classes.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    missing = [f for f in FILES if not (folder / f).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is no model folder of matgl: {', '.join(missing)} missing."
        )

    name = _class_of(_json(folder / "model.json"), folder)
    arguments = load_torch(folder / "model.pt")
    if not isinstance(arguments, Mapping):
        raise CheckpointError(f"{folder / 'model.pt'} holds no arguments of a model.")

    config: dict[str, Any] = {}
    if name == "Potential":
        inner = arguments.get("model")
        if not isinstance(inner, Mapping):
            raise CheckpointError(f"{folder / 'model.pt'}: the Potential holds no model.")
        for key in ("data_mean", "data_std", "element_refs", "calc_repuls", "zbl_trainable"):
            if arguments.get(key) is not None:
                config[key] = _plain(arguments[key])
        name, arguments = _class_of(inner, folder), inner.get("init_args", {})

    if name not in NETWORKS:
        raise CheckpointError(
            f"{folder} holds a {name}; the potentials that can be used are {', '.join(NETWORKS)}."
        )

    types = arguments.get("element_types")
    config["model"] = name
    config["element_types"] = None if types is None else [str(s) for s in types]
    config["hyperparameters"] = _hyperparameters(name, arguments)
    model = MatglPotential(resolve_config(family, config, **options))
    _fill(model, as_tensors(load_torch(folder / "state.pt"), folder / "state.pt"), folder)

    return model


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path} holds no JSON object.")
    return value


def _class_of(entry: Mapping[str, Any], folder: Path) -> str:
    module, name = str(entry.get("@module", "")), str(entry.get("@class", ""))
    if module.split(".")[0] != "matgl":
        raise UnsafeFileError(
            f"{folder} asks for the class '{module}.{name}'; only matgl's own potentials are made."
        )
    return name


def _hyperparameters(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that the class still takes; those of other releases have no effect in matgl."""
    with quiet():
        import matgl.models

        # Folders of other releases carry arguments that were dropped since; matgl swallows them
        # too.
        known = set(inspect.signature(getattr(matgl.models, name).__init__).parameters) - LEFT_OUT
    given = {str(k): _plain(v) for k, v in arguments.items() if k in known and v is not None}
    given.pop("use_warp", None)  # the layers differ, the weights do not
    return given


def _plain(value: Any) -> Any:
    """Arrays as numbers or lists, so that a configuration can be written as JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _fill(model: MatglPotential, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    names = {"element_refs.property_offset": "element_refs"}
    renamed: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        if key.startswith("model."):
            renamed["network." + key.removeprefix("model.").removeprefix("_orig_mod.")] = value
        elif key.startswith("repuls."):
            renamed["repulsion." + key.removeprefix("repuls.")] = value
        elif key in names or key in ("data_mean", "data_std"):
            renamed[names.get(key, key)] = value
        else:
            renamed["network." + key] = value  # a network without a Potential around it

    own = model.state_dict()
    parameters = {k for k, _ in model.named_parameters()}
    missing = sorted(parameters - set(renamed))
    wrong = [k for k in own if k in renamed and own[k].numel() != renamed[k].numel()]
    if missing or wrong:
        raise CheckpointError(
            f"{folder}: the weights do not fit the arguments beside them. "
            f"Missing: {', '.join(missing[:5]) or 'none'}; "
            f"of another size: {', '.join(wrong[:5]) or 'none'}."
        )

    # Tables that are no parameters were just made in double precision; the file's are rounded.
    kept = parameters | {"element_refs", "data_mean", "data_std"}
    model.load_state_dict(
        {
            k: renamed[k].reshape(v.shape) if k in kept and k in renamed else v
            for k, v in own.items()
        }
    )
