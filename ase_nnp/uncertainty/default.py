"""The default model, with the error bars that it comes with."""

from __future__ import annotations

import torch

from ase_nnp.models.default import default_pretrained
from ase_nnp.models.files import _packaged, load_model
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.fitting import attach

__all__ = ["load_default"]


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
    return attach(model, _packaged(family, offered.uncertainty))
