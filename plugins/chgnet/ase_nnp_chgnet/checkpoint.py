"""Read a CHGNet checkpoint without running code in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase_nnp.errors import CheckpointError
from ase_nnp.files.unpickle import load_torch
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp.registry.family import ModelFamily
from ase_nnp_chgnet.model import CHGNet

__all__ = ["load"]


def load(path: str | Path, family: ModelFamily, **options: Any) -> CHGNet:
    """Return the model in a ``*.pth.tar`` of the ``chgnet`` package.

    Parameters
    ----------
    path
        The file; published, or written by the package's trainer.
    family
        Whose defaults complete the configuration.
    options
        Further configuration keys.

    Raises
    ------
    CheckpointError
        For a file of another kind; UnsafeFileError if it asks for code.
    """
    content = load_torch(path)
    model_part = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model_part, Mapping) or not {"state_dict", "model_args"} <= set(model_part):
        raise CheckpointError(
            f"{path} is no CHGNet checkpoint: 'model' with 'state_dict' and 'model_args' was "
            "expected."
        )
    tensors = as_tensors(model_part["state_dict"], path)
    # Version 0.2.0 had a bias there and its file does not say so.
    biased = any(k.endswith(".bias") and ".mlp_out." in k for k in tensors)
    given = {**model_part["model_args"], "mlp_out_bias": biased}
    model = CHGNet(resolve_config(family, given, **options))
    model.load_weights(tensors)
    return model
