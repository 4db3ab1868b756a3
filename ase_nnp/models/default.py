"""The model that works without being named: the default among the installed pretrained ones."""

from __future__ import annotations

from ase_nnp.errors import ConfigError
from ase_nnp.registry.family import ModelFamily, Pretrained
from ase_nnp.registry.installed import installed

__all__ = ["default_pretrained"]


def default_pretrained() -> tuple[ModelFamily, Pretrained]:
    """Return the pretrained model that is marked as the default, with its family.

    Raises
    ------
    ConfigError
        None is installed, or more than one.
    """
    offered = [(f, p) for f in installed().families.values() for p in f.pretrained if p.default]
    if not offered:
        raise ConfigError(
            "Which model? No installed family has a default one. NNPCalculator('my.nnp'), or "
            "NNPCalculator('NAME', checkpoint=...); `ase-nnp models` lists what is installed."
        )
    if len(offered) > 1:
        names = ", ".join(f"'{p.name}' of '{f.name}'" for f, p in offered)
        raise ConfigError(
            f"Which model? {len(offered)} of them claim to be the default: {names}. Name one."
        )
    return offered[0]
