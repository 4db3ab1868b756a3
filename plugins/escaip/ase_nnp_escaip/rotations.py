"""Averaging over rotations: where direct forces lose their dependence on the axes.

The features of a network are invariant; only the last step of the direct forces, a product of three
numbers with the three components of a direction, knows the axes. Its mean over K rotations of the
structure (each result rotated back) is one constant tensor, so the average costs nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["rotation_matrices", "rotation_tensor"]

#: Turns of 120 degrees about a body diagonal. The mean over three is exactly equivariant.
CYCLE = ((0, 1, 2), (1, 2, 0), (2, 0, 1))


def rotation_matrices(count: int) -> Tensor:
    """Return K rotations (K, 3, 3) in float64: turns about the diagonal of ever new axes.

    The first is the identity. With a multiple of three the mean of the direct forces is exactly
    equivariant, with any other number nearly so.
    """
    matrices = []
    for k in range(count):
        turn = torch.eye(3, dtype=torch.float64)[list(CYCLE[k % 3])]
        matrices.append(turn @ _axes(k // 3))
    return torch.stack(matrices)


def _axes(k: int) -> Tensor:
    """Well-spread rotations, from three additive sequences of irrational steps (k = 0: none)."""
    if k == 0:
        return torch.eye(3, dtype=torch.float64)
    u, v, w = (
        (k * step) % 1.0 for step in (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)
    )

    # Quaternions spread evenly over the sphere in four dimensions (Shoemake 1992).
    a, b = math.sqrt(1 - u), math.sqrt(u)
    v, w = 2 * math.pi * v, 2 * math.pi * w
    x, y, z, r = a * math.sin(v), a * math.cos(v), b * math.sin(w), b * math.cos(w)
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * r), 2 * (x * z + y * r)],
            [2 * (x * y + z * r), 1 - 2 * (x * x + z * z), 2 * (y * z - x * r)],
            [2 * (x * z - y * r), 2 * (y * z + x * r), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def rotation_tensor(count: int) -> Tensor:
    r"""Return T (3, 3, 3) with :math:`f_a = \sum_{bc} d_b T_{bac} u_c` for numbers d, direction u.

    That is the mean of :math:`R^T (d \odot R u)` over the rotations R.
    """
    matrices = rotation_matrices(count)
    return torch.einsum("kba,kbc->bac", matrices, matrices) / count
