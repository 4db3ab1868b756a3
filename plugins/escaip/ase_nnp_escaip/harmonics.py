"""Spherical harmonics of the directions to the neighbors, and the bond-order features."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ase_nnp_escaip.layers import Constants

__all__ = ["Harmonics", "safe_sqrt"]

#: A mean of harmonics shorter than this is 0 but for rounding, in double precision.
NOTHING = 1e-11


class Harmonics(nn.Module):
    r"""Real harmonics up to a degree, scaled so that each degree has length 1 on a unit vector.

    They are homogeneous polynomials: the zero vector gives 1 in degree 0 and 0 above. The columns
    run over degrees, ``2 l + 1`` each; within a degree the order and the axes are our own, as only
    lengths and inner products of a degree are ever used.

    Parameters
    ----------
    order
        The highest degree.

    Notes
    -----
    With the normalized associated Legendre functions over :math:`\sin^m\theta`, called Q,

    .. math:: \sqrt{l^2-m^2}\, Q_l^m = (2l-1) z Q_{l-1}^m - \sqrt{(l-1)^2-m^2}\, r^2 Q_{l-2}^m .
    """

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order
        size = order + 1
        first, second = np.zeros((size, size)), np.zeros((size, size))

        for l in range(1, size):  # noqa: E741 - the degree is called l everywhere
            for m in range(l):
                root = math.sqrt(l * l - m * m)
                first[l, m] = (2 * l - 1) / root
                second[l, m] = math.sqrt(max(0, (l - 1) ** 2 - m * m)) / root

        # Q_m^m = (2m-1)!! / sqrt((2m)!); a factor sqrt(2) makes the pair +-m real.
        diagonal = [1.0]
        for m in range(1, size):
            diagonal.append(diagonal[-1] * math.sqrt((2 * m - 1) / (2 * m)))

        degrees = np.repeat(np.arange(size), 2 * np.arange(size) + 1)
        onto = (degrees[:, None] == np.arange(size)).astype(np.float64)
        tables = (first, second, np.array(diagonal), onto)
        self.tables = Constants(*map(torch.from_numpy, tables))

    def forward(self, direction: Tensor) -> Tensor:
        """Return (R, (order + 1)^2) from unit or zero vectors (R, 3)."""
        first, second, ends, _ = self.tables.like(direction)
        x, y, z = direction[:, 0:1], direction[:, 1:2], direction[:, 2:3]
        length = direction.square().sum(-1, keepdim=True)

        # r^m cos(m phi) and sin(m phi) by recurrence: no angle, so no pole where it is undefined.
        cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
        for m in range(1, self.order + 1):
            c, s = cosines[-1], sines[-1]
            if m == 1:
                c = c * math.sqrt(2)
            cosines.append(x * c - y * s)
            sines.append(x * s + y * c)
        cosine, sine = torch.cat(cosines, 1), torch.cat(sines, 1)
        polar = [torch.ones_like(x)]
        columns = [polar[0]]
        for l in range(1, self.order + 1):  # noqa: E741
            inner = first[l, :l] * z * polar[-1]
            if l > 1:
                # With the squared length in it these are polynomials of x, y, z, zero for a zero
                # vector.
                lower = second[l, : l - 1] * length * polar[-2]
                inner = torch.cat([inner[:, : l - 1] - lower, inner[:, l - 1 :]], 1)
            polar.append(torch.cat([inner, ends[l].expand_as(x)], 1))
            columns += [polar[-1] * cosine[:, : l + 1], polar[-1][:, 1:] * sine[:, 1 : l + 1]]
        return torch.cat(columns, 1)

    def power(self, mean: Tensor) -> Tensor:
        """Return the squared length of each degree, (N, order + 1), of rows (N, (order + 1)^2)."""
        return mean.square() @ self.tables.like(mean)[3]


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose derivative is 0, not infinite or noise, where ``x`` vanishes to rounding.

    At a site of high symmetry the mean of a degree is 0 and the derivative of its length has no
    direction; 0 is the mean over all of them.
    """
    zero = x <= NOTHING**2
    root = torch.sqrt(torch.where(zero, torch.ones_like(x), x))
    return torch.where(zero, x.detach().sqrt(), root)
