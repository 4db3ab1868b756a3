"""Tables of cubic splines on uniform grids, as coefficients of B-splines."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline
from torch import Tensor

__all__ = ["coefficients", "evaluate"]


def coefficients(values: np.ndarray, skip_first: bool = False) -> np.ndarray:
    r"""Return the B-spline coefficients (..., K + 2) of the splines through ``values`` (..., K).

    The not-a-knot spline through all points: its error is :math:`O(h^4)` up to the ends, and it is
    the one that :class:`scipy.interpolate.InterpolatedUnivariateSpline`, and so ASE's ``EAM``,
    makes of the same points.

    Parameters
    ----------
    values
        At K points of equal distance.
    skip_first
        The first point says nothing (a pair energy at distance zero): the first piece goes on.
    """
    values = np.asarray(values, float)
    points = np.arange(values.shape[-1], dtype=float)
    first = int(skip_first)
    spline = CubicSpline(points[first:], values[..., first:], axis=-1, bc_type="not-a-knot")

    # On a unit grid f = (a + 4 b + c) / 6, f' = (c - a) / 2, f'' = a - 2 b + c, solved for the
    # coefficients around each point.
    f, slope, bend = (np.asarray(spline(points, order)) for order in range(3))
    outer = f + bend / 3
    return np.concatenate(
        [(outer - slope)[..., :1], f - bend / 6, (outer + slope)[..., -1:]], axis=-1
    )


def evaluate(table: Tensor, row: Tensor, x: Tensor) -> Tensor:
    """Return the values of spline ``row[n]`` of the table at ``x[n]``.

    Parameters
    ----------
    table
        (R, K + 2), coefficients of splines with K points at 0, 1, ..., K - 1.
    row
        (M,) int64.
    x
        (M,), in units of the grid; beyond its ends the last pieces go on.
    """
    width = table.shape[1]
    piece = x.detach().floor().clamp(0, width - 4)
    t = x - piece
    # One index into the flat table: gathers of single numbers are faster than gathers of rows.
    start = row * width + piece.long()
    a, b, c, d = (table.reshape(-1)[start + k] for k in range(4))

    # The four pieces as one polynomial in t, by Horner's rule.
    cubic = (d - a) / 6 + (b - c) / 2
    return ((cubic * t + (a + c) / 2 - b) * t + (c - a) / 2) * t + (a + 4 * b + c) / 6
