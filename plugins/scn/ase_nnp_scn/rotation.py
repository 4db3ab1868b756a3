r"""Rows of Wigner matrices that turn harmonics so that an edge points along the polar axis.

Only the orders |m| <= mmax are kept after the rotation, and mmax is 0 or 1. With the frame
``R = [a; u; b]`` (rows; u the unit edge vector) these rows need no Euler angles:

.. math:: D_{l,0,\cdot} = \sqrt{4\pi/(2l+1)}\, Y_l(u), \qquad
          D_{l,-1,\cdot} \propto (a\cdot\nabla) Y_l(u), \qquad
          D_{l,+1,\cdot} \propto (b\cdot\nabla) Y_l(u)

because :math:`Y_l(Rr) = D_l(R) Y_l(r)` and :math:`Y_{l0}(Rr)` is the Legendre polynomial of
:math:`u\cdot r`. The harmonics follow from :math:`Y_l \propto [Y_{l-1} \otimes u]_l` and their
derivatives by the product rule: polynomials in the frame, smooth everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def reduced_rows(lmax: int, mmax: int) -> Iterator[tuple[int, int]]:
    """Yield (l, m) of the rows that are kept, in the order of the reduced coefficients."""
    for degree in range(lmax + 1):
        reach = min(degree, mmax)
        for order in range(-reach, reach + 1):
            yield degree, order


class WignerRows(nn.Module):
    """Rows |m| <= mmax of the Wigner matrices of edge frames, up to ``lmax``.

    The rows of one edge lie one behind the other in a vector of length P, row (l, m) taking 2l + 1
    places: ``slices`` says where.
    """

    def __init__(self, lmax: int, mmax: int) -> None:
        super().__init__()
        self.lmax, self.mmax = lmax, mmax
        for degree in range(1, lmax + 1):
            coupling, tangent = _constants(degree)
            self.register_buffer(f"coupling_{degree}", coupling, persistent=False)
            self.register_buffer(f"tangent_{degree}", tangent, persistent=False)

    @staticmethod
    def slices(lmax: int, mmax: int) -> list[tuple[int, slice, slice]]:
        """Return, for each kept row, its degree, its slice in P and its slice of coefficients."""
        rows, start = [], 0
        for degree, _ in reduced_rows(lmax, mmax):
            width = 2 * degree + 1
            rows.append((degree, slice(start, start + width), slice(degree**2, (degree + 1) ** 2)))
            start += width
        return rows

    def forward(self, frames: Tensor) -> Tensor:
        """Return the rows (E, P) for frames (E, 3, 3) with the unit edge vector as middle row."""
        u, sides = frames[:, 1], frames[:, ::2]
        value = torch.ones_like(u[:, :1])  # Y_l(u), scaled to unit length
        slope = torch.zeros_like(value)[:, None].expand(-1, 2, -1)  # its derivatives along a and b
        parts = [value]
        for degree in range(1, self.lmax + 1):
            coupling = getattr(self, f"coupling_{degree}")  # (2l - 1, 3, 2l + 1)
            if self.mmax:
                slope = _couple(slope, u[:, None], coupling) + _couple(
                    value[:, None], sides, coupling
                )
            value = _couple(value, u, coupling)
            if self.mmax:
                turned = slope * getattr(self, f"tangent_{degree}")
                parts += [turned[:, 0], value, turned[:, 1]]
            else:
                parts.append(value)
        return torch.cat(parts, dim=1)


def _couple(low: Tensor, vector: Tensor, coupling: Tensor) -> Tensor:
    """Contract (..., 2l - 1) and (..., 3) with (2l - 1, 3, 2l + 1)."""
    product = low[..., :, None] * vector[..., None, :]
    return product.flatten(-2) @ coupling.flatten(0, 1)


def _constants(degree: int) -> tuple[Tensor, Tensor]:
    """Return the coupling that gives unit vectors, and the factor of the |m| = 1 rows."""
    from e3nn import o3

    coupling: Tensor = o3.wigner_3j(degree - 1, 1, degree, dtype=torch.float64)
    # At the pole y only the m = 0 entries differ from zero; the row m = 0 is 1 there.
    coupling = coupling / coupling[degree - 1, 1, degree]
    # d/dx of Y_l at the pole by the product rule; the row m = -1 is 1 there.
    slope = 0.0
    for low in range(1, degree + 1):
        step: Tensor = o3.wigner_3j(low - 1, 1, low, dtype=torch.float64)
        step = step / step[low - 1, 1, low]
        before = step[low - 2, 1, low - 1] * slope if low > 1 else 0.0
        slope = float(before + step[low - 1, 0, low - 1])
    return coupling, torch.tensor(1.0 / slope, dtype=torch.float64)
