"""Mean and standard deviation of the training data, under the names that files give them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ase_nnp.errors import ConfigError

__all__ = ["oc20_scales", "read_scale"]


def read_scale(value: Any) -> dict[str, float]:
    """Return ``{"mean", "std"}`` as plain floats, from floats or arrays of one.

    ``std`` may be called ``stdev`` or ``rmsd``. ConfigError where a number is missing or no scale.
    """
    try:
        std = next(value[name] for name in ("std", "stdev", "rmsd") if name in value)
        mean, std = (float(np.asarray(x).reshape(-1)[0]) for x in (value["mean"], std))
    except (KeyError, TypeError, ValueError, IndexError, StopIteration):
        raise ConfigError(f"A normalizer is {{'mean': m, 'std': s}}, not {value!r}.") from None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ConfigError(f"A normalizer needs a finite mean and a positive std, not {value!r}.")
    return {"mean": mean, "std": std}


def oc20_scales(normalizer: Any) -> dict[str, dict[str, float]]:
    """Return the scales of energy (``target``) and forces (``grad_target``), as far as given.

    Later files say ``energy`` and ``forces``; a lone ``{"mean", "std"}`` is that of the energy.
    """
    if not normalizer:
        return {}
    if not isinstance(normalizer, Mapping):
        raise ConfigError(f"normalizer must be a dictionary, not {normalizer!r}.")
    if "mean" in normalizer:
        return {"target": read_scale(normalizer)}

    scales = {}
    for ours, later in (("target", "energy"), ("grad_target", "forces")):
        for name in (ours, later):
            if normalizer.get(name):
                scales[ours] = read_scale(normalizer[name])

    if not scales:
        raise ConfigError(
            f"normalizer has {', '.join(map(repr, normalizer))}; 'target' and 'grad_target' (or "
            "'energy' and 'forces') were expected."
        )

    return scales
