"""Constants on the sphere: harmonics at points, the grid and its quadrature, sample points.

Everything is computed in float64. Harmonics are the real ones of e3nn with integral normalization
(``Y_00 = 0.28209``) and polar axis y; coefficient ``l**2 + l + m`` stands for (l, m).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def harmonics(points: Tensor, lmax: int) -> Tensor:
    """Return ``Y_b`` (..., (lmax + 1)**2) of points (..., 3); a point of length w gives w**l."""
    from e3nn import o3

    degrees = list(range(lmax + 1))
    values: Tensor = o3.spherical_harmonics(degrees, points.double(), False, "integral")
    return values


def grid(lmax: int) -> tuple[Tensor, Tensor]:
    """Return the matrices from coefficients to grid values (G, B) and back (B, G).

    The grid has 2(lmax + 1) polar angles at the middles of equal intervals and 2(lmax + 1) + 1
    azimuths. Fejer's first rule integrates products of two harmonics on it exactly, so the second
    matrix is the left inverse of the first.
    """
    polar, around = 2 * (lmax + 1), 2 * (lmax + 1) + 1
    beta = (torch.arange(polar, dtype=torch.float64) + 0.5) * (math.pi / polar)
    alpha = torch.arange(around, dtype=torch.float64) * (2 * math.pi / around)
    sine, height = beta.sin()[:, None], beta.cos()[:, None].expand(-1, around)
    points = torch.stack([sine * alpha.sin(), height, sine * alpha.cos()], dim=-1)

    k = torch.arange(1, polar // 2 + 1, dtype=torch.float64)
    series = torch.cos(2 * beta[:, None] * k) / (4 * k * k - 1)
    weight = (1 - 2 * series.sum(1)) * (2 / polar) * (2 * math.pi / around)
    to_grid = harmonics(points.reshape(-1, 3), lmax)
    from_grid = (to_grid * weight.repeat_interleave(around)[:, None]).T.contiguous()
    return to_grid, from_grid


def sample_points(count: int) -> Tensor:
    """Return points (count, 3) along a golden spiral, each scaled by the inverse of its crowding.

    The lengths average to one and differ from it, as in the published models: they enter the
    harmonics and the directions of the forces alike.
    """
    number = torch.arange(count, dtype=torch.float64)
    around = number * (2 * math.pi / ((1 + math.sqrt(5)) / 2))
    height = 1 - 2 * (number + 0.5) / count
    radius = (1 - height * height).sqrt()
    points = torch.stack([around.cos() * radius, around.sin() * radius, height], dim=1)
    crowding = torch.exp(-(points[:, None] - points[None]).square().sum(-1) / 0.15).sum(1)
    share = (1 / crowding) / (1 / crowding).sum()
    return points * (count * share)[:, None]
