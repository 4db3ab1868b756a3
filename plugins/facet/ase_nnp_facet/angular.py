"""Real spherical harmonics and Clebsch-Gordan tensors, in e3nn's basis and normalization."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

__all__ = ["Harmonics", "wigner_3j"]


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """Return the real Wigner 3j tensor (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), norm 1, float64."""
    from e3nn import o3

    symbols: Tensor = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
    return symbols


class Harmonics(nn.Module):
    r"""Harmonics up to ``lmax`` of unit vectors, component normalization, ``sum_m Y_lm^2 = 2l+1``.

    Each degree is the product of the last with degree one,
    :math:`Y_{l+1} \propto C^{1,l,l+1} (Y_1 \otimes Y_l)`, so any degree works and all derivatives
    are those of polynomials. The polar axis is the second one.
    """

    def __init__(self, lmax: int) -> None:
        super().__init__()
        self.lmax = lmax
        pole = torch.zeros(1, 3, dtype=torch.float64)

        # e3nn's polar axis is y; at the pole only m = 0 is there, which fixes each degree's scale.
        pole[0, 1] = math.sqrt(3.0)
        last = pole
        for degree in range(1, lmax):
            tensor = wigner_3j(1, degree, degree + 1)
            next_ = torch.einsum("ni,nj,ijk->nk", pole, last, tensor)
            tensor = tensor * (math.sqrt(2 * degree + 3) / next_[0, degree + 1])
            last = torch.einsum("ni,nj,ijk->nk", pole, last, tensor)
            self.register_buffer(
                f"step_{degree}", tensor.reshape(3 * (2 * degree + 1), -1), persistent=False
            )

    def forward(self, unit: Tensor) -> Tensor:
        """Return (E, (lmax + 1)^2) for unit vectors (E, 3)."""
        parts = [torch.ones_like(unit[:, :1])]
        if self.lmax:
            parts.append(math.sqrt(3.0) * unit)
        for degree in range(1, self.lmax):
            product = (parts[1].unsqueeze(2) * parts[-1].unsqueeze(1)).flatten(1)
            parts.append(product @ getattr(self, f"step_{degree}"))
        return torch.cat(parts, dim=1)
