"""Read a SevenNet checkpoint without running code in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ase_nnp.errors import CheckpointError
from ase_nnp.files.unpickle import load_torch
from ase_nnp.models.quiet import quiet
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp.registry.family import ModelFamily
from ase_nnp_sevennet.model import SevenNet

__all__ = ["load"]


def load(path: str | Path, family: ModelFamily, **options: Any) -> SevenNet:
    """Return the model in a ``checkpoint_*.pth`` of the ``sevenn`` package.

    Parameters
    ----------
    path
        The file; published or written by ``sevenn train``.
    family
        Whose defaults complete the configuration.
    options
        ``modal="PBE"`` for a model of several functionals.

    Raises
    ------
    CheckpointError
        For a file of another kind; UnsafeFileError if it asks for code.
    ConfigError
        ``modal`` is missing or unknown.
    """
    content = load_torch(path)
    known = isinstance(content, Mapping) and {"config", "model_state_dict"} <= set(content)
    if not known or "_type_map" not in content["config"]:
        raise CheckpointError(
            f"{path} is no SevenNet checkpoint: 'config' with '_type_map' and 'model_state_dict' "
            "were expected."
        )
    stored = dict(content["config"])
    with quiet():
        from sevenn.scripts.backward_compatibility import patch_old_config

        stored = patch_old_config(stored)  # names and defaults of earlier releases
    species = {int(z): int(k) for z, k in stored["_type_map"].items()}
    given = {k: _plain(v) for k, v in stored.items() if k in family.defaults}
    given["chemical_species"] = _symbols(sorted(species, key=species.__getitem__))
    full = resolve_config(family, given, **options)
    model = SevenNet(full)
    tensors = as_tensors(content["model_state_dict"], path)
    with quiet():
        from sevenn.scripts.backward_compatibility import patch_state_dict_if_old

        tensors = patch_state_dict_if_old(tensors, stored, model.network)
    _fill(model.network, tensors, path)
    model.provenance = {"sevenn_version": str(stored.get("version", "not stated"))}
    return model


def _symbols(numbers: list[int]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in numbers]


def _plain(value: Any) -> Any:
    """Arrays as lists, so that a configuration can be written as JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _fill(network: torch.nn.Module, tensors: dict[str, torch.Tensor], path: object) -> None:
    own = network.state_dict()
    missing = sorted(set(own) - set(tensors))
    wrong = sorted(k for k in own if k in tensors and own[k].shape != tensors[k].shape)
    if missing or wrong:
        raise CheckpointError(
            f"{path}: the weights do not fit the configuration beside them. "
            f"Missing: {', '.join(missing[:5]) or 'none'}; "
            f"of another shape: {', '.join(wrong[:5]) or 'none'}."
        )
    network.load_state_dict({k: tensors[k] for k in own})
