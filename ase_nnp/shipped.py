"""The model that works without being named: the default among the installed pretrained ones."""

from __future__ import annotations

import torch

from ase_nnp.errors import ConfigError
from ase_nnp.family import ModelFamily, Pretrained
from ase_nnp.models import _packaged, load_model
from ase_nnp.potential import Potential
from ase_nnp.registry import installed

__all__ = ["default_pretrained", "load_default"]


def default_pretrained() -> tuple[ModelFamily, Pretrained]:
    """Return the pretrained model that is marked as the default, with its family.

    Raises
    ------
    ConfigError
        None is installed, or more than one.
    """
    found = [(f, p) for f in installed().families.values() for p in f.pretrained if p.default]
    if not found:
        raise ConfigError(
            "Which model? No installed family has a default one. NNPCalculator('my.nnp'), or "
            "NNPCalculator('NAME', checkpoint=...); `ase-nnp models` lists what is installed."
        )
    if len(found) > 1:
        names = ", ".join(f"'{p.name}' of '{f.name}'" for f, p in found)
        raise ConfigError(
            f"Which model? {len(found)} installed ones claim to be the default: {names}. Name one."
        )
    return found[0]


def load_default(
    *,
    uncertainty: bool = True,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
) -> Potential:
    """Return the default model; with the uncertainty that it comes with, where there is one.

    Parameters
    ----------
    uncertainty
        Whether to put it on.
    device, dtype
        As in :func:`ase_nnp.load_model`.
    """
    family, offered = default_pretrained()
    model = load_model(family.name, checkpoint=offered.name, device=device, dtype=dtype)
    if not (uncertainty and offered.uncertainty):
        return model
    from ase_nnp.uncertainty import attach

    return attach(model, _packaged(family, offered.uncertainty))
