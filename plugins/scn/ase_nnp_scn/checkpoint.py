"""Checkpoints of fairchem 1.x and of ocp before it, read without running code from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ase_nnp.errors import CheckpointError
from ase_nnp.files.fairchem import TrainerCheckpoint, read_fairchem
from ase_nnp.models.tensors import as_tensors
from ase_nnp.registry.config import resolve_config
from ase_nnp.registry.family import ModelFamily
from ase_nnp_scn.model import SCN


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
    family
        Whose defaults complete the configuration.

    Raises
    ------
    CheckpointError
        For another layout, another model, or weights that do not fit.
    """
    content = read_fairchem(path)
    if not isinstance(content, TrainerCheckpoint) or content.model != "scn":
        raise CheckpointError(f"{path} holds a model called {content.model!r}, not 'scn'.")

    known: dict[str, Any] = {"normalizer": content.normalizers or None}
    if content.element_references is not None:
        known["element_references"] = content.element_references
    if content.dataset.get("total_energy"):
        known["energy_kind"] = "total"
    config = resolve_config(family, content.attributes | known, **options)
    model = SCN(config)
    model.family, model.config = family.name, config

    state = as_tensors(content.weights, path)
    average = ema and content.averages is not None
    if average:
        state |= _averages(model, content)
    try:
        model.load_weights(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.provenance = {
        "format": "fairchem 1.x",
        "weights": "exponential moving average" if average else "state_dict",
        **content.progress,
    }
    return model


def _averages(model: SCN, content: TrainerCheckpoint) -> dict[str, Tensor]:
    """Return the averaged weights; one that several modules share is set under all its names."""
    own = dict(model.named_parameters())
    averages = as_tensors(content.averaged(own.__contains__), content.path)

    # The averages list each parameter once; the distance basis hangs in every block.
    values = {id(own[name]): value for name, value in averages.items()}
    everywhere = model.named_parameters(remove_duplicate=False)
    return {name: values[id(parameter)] for name, parameter in everywhere}
