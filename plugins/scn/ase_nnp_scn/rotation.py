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

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Degree(NamedTuple):
    """Where the parts of one degree lie."""

    rows: slice  # kept orders among the reduced coefficients
    entries: slice  # in the P rotation numbers of an edge: 2l + 1 coefficients times rows
    block: slice  # among the (lmax + 1)**2 coefficients


def degrees(lmax: int, mmax: int) -> list[Degree]:
    """Return the layout of the degrees 0 .. lmax; the kept orders are -mmax .. mmax."""
    result, row, entry = [], 0, 0
    for degree in range(lmax + 1):
        count, width = 2 * min(degree, mmax) + 1, 2 * degree + 1
        rows, entries = slice(row, row + count), slice(entry, entry + count * width)
        result.append(Degree(rows, entries, slice(degree**2, (degree + 1) ** 2)))
        row, entry = rows.stop, entries.stop
    return result


class WignerRows(nn.Module):
    """Rows |m| <= mmax of the Wigner matrices of edge frames, up to ``lmax``.

    The numbers of one edge lie one behind the other, degree by degree, in each first by coefficient
    and then by row (m = -1, 0, 1): see :func:`degrees`.
    """

    def __init__(self, lmax: int, mmax: int) -> None:
        super().__init__()
        self.lmax, self.mmax = lmax, mmax
        for degree in range(1, lmax + 1):
            coupling, tangent = _constants(degree)
            self.register_buffer(f"coupling_{degree}", coupling, persistent=False)
            self.register_buffer(f"tangent_{degree}", tangent, persistent=False)

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
                three = torch.stack([turned[:, 0], value, turned[:, 1]], dim=2)
                parts.append(three.flatten(1))
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


def back_rotation(rows: Tensor, layout: list[Degree]) -> Tensor:
    """Return the matrices (E, T * R, B) whose transpose turns messages back and averages the taps.

    A tap returns with the rows of its own frame; that is the published combination of taps.
    """
    edges, taps = rows.shape[:2]
    back = rows.new_zeros(edges, taps, layout[-1].rows.stop, layout[-1].block.stop)
    for degree in layout:
        count = degree.rows.stop - degree.rows.start
        matrix = rows[:, :, degree.entries].unflatten(2, (-1, count))
        back[:, :, degree.rows, degree.block] = matrix.transpose(2, 3) / taps
    return back.flatten(1, 2)
