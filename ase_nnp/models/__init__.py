"""What a model is, how to get one and how to run it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ase_nnp.models import forking as forking

if TYPE_CHECKING:
    from ase_nnp.models.splines import splinify as splinify

__all__ = ["splinify"]


def __getattr__(name: str) -> Any:
    # Imported when it is first used: it needs torch.
    if name in __all__:
        return getattr(import_module("ase_nnp.models.splines"), name)
    raise AttributeError(f"module 'ase_nnp.models' has no attribute {name!r}")
