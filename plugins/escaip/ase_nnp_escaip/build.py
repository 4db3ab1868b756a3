"""From a configuration to the potential of its generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ase_nnp_escaip.config import settings_from
from ase_nnp_escaip.early import FirstGeneration
from ase_nnp_escaip.model import EScAIP, ThirdGeneration

__all__ = ["build"]


def build(config: Mapping[str, Any]) -> EScAIP:
    """Return a potential with fresh weights."""
    if settings_from(config).generation == 3:
        return ThirdGeneration(config)
    return FirstGeneration(config)
