"""Functions of the distance, under the names of torchmd-net's checkpoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ExpNormal", "Gaussian", "cosine_cutoff"]


def cosine_cutoff(r: Tensor, lower: float, upper: float) -> Tensor:
    """Half a cosine from 1 to 0; with a lower cutoff a whole one that is 0 at both ends."""
    if lower > 0:
        value = 0.5 * (torch.cos(math.pi * (2 * (r - lower) / (upper - lower) + 1)) + 1)
        return value * (r < upper) * (r > lower)
    return 0.5 * (torch.cos(r * math.pi / upper) + 1) * (r < upper)


class _Radial(nn.Module):
    def _keep(self, trainable: bool, **values: Tensor) -> None:
        for name, value in values.items():
            if trainable:
                self.register_parameter(name, nn.Parameter(value.float()))
            else:
                self.register_buffer(name, value)


class ExpNormal(_Radial):
    """Gaussians of exp(-r), with PhysNet's first values (doi:10.1021/acs.jctc.9b00181)."""

    means: Tensor
    betas: Tensor

    def __init__(self, lower: float, upper: float, count: int, trainable: bool) -> None:
        super().__init__()
        self.lower, self.upper = lower, upper
        start = math.exp(lower - upper)
        double = torch.float64
        width = torch.full((count,), (2 / count * (1 - start)) ** -2, dtype=double)
        self._keep(trainable, means=torch.linspace(start, 1, count, dtype=double), betas=width)

    def forward(self, r: Tensor) -> Tensor:
        """Return the functions (E, count) of distances (E,)."""
        r = r[:, None]
        x = torch.exp(5.0 / (self.upper - self.lower) * (self.lower - r))
        return cosine_cutoff(r, 0, self.upper) * torch.exp(-self.betas * (x - self.means).square())


class Gaussian(_Radial):
    """Gaussians of the distance."""

    offset: Tensor
    coeff: Tensor

    def __init__(self, lower: float, upper: float, count: int, trainable: bool) -> None:
        super().__init__()
        offset = torch.linspace(lower, upper, count, dtype=torch.float64)
        self._keep(trainable, offset=offset, coeff=-0.5 / (offset[1] - offset[0]).square())

    def forward(self, r: Tensor) -> Tensor:
        """Return the functions (E, count) of distances (E,)."""
        return torch.exp(self.coeff * (r[:, None] - self.offset).square())
