"""Widths of the same signs, evaluated together on the device where the signs are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ase_nnp.uncertainty.methods.latent import FAR
from ase_nnp.uncertainty.statistics.growth import LogLinearWidth

__all__ = ["WidthTable"]

#: Groups are atomic numbers; 0 is that of none.
GROUPS = 120


class WidthTable:
    """Several formulas of the same signs as one matrix product.

    Parameters
    ----------
    widths
        Formulas by name. One with fewer signs than others takes the first ones.
    """

    def __init__(self, widths: Mapping[str, LogLinearWidth]) -> None:
        self.names = list(widths)
        longest = max((len(one.slopes) for one in widths.values()), default=0)
        slopes = np.zeros((longest, len(widths)))
        levels = np.zeros((GROUPS, len(widths)))
        for column, one in enumerate(widths.values()):
            slopes[: len(one.slopes), column] = one.slopes
            levels[:, column] = one.intercept
            for group, more in one.groups.items():
                levels[group, column] += more
        self._host = torch.as_tensor(slopes), torch.as_tensor(levels)
        self._there = {torch.device("cpu"): self._host}

    def __call__(self, signs: Tensor, numbers: Tensor | None = None) -> dict[str, Tensor]:
        """Widths (n,) by name, at most ``FAR``, for logarithms of signs (n, d) in float64."""
        if not self.names:
            return {}
        if signs.device not in self._there:
            self._there[signs.device] = tuple(t.to(signs.device) for t in self._host)  # type: ignore[assignment]
        slopes, levels = self._there[signs.device]

        level = levels[0] if numbers is None else levels.index_select(0, numbers)
        values = torch.addmm(level, signs[:, : len(slopes)], slopes).exp_().clamp_(max=FAR)
        return dict(zip(self.names, values.unbind(1), strict=True))
