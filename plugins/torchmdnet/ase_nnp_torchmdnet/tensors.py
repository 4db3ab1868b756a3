"""3 x 3 tensors as nine components: a scalar, a vector, and a symmetric traceless part."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PARTS", "basis", "products_of_unit_vectors"]

#: How many of the nine components each part has.
PARTS = (1, 3, 5)


def basis() -> Tensor:
    r"""Return the nine matrices (9, 3, 3) in float64, orthogonal to each other.

    The first is the unit matrix, the next three are :math:`-\epsilon_{kab}` (the matrix of the
    cross product with axis k), the last five symmetric and traceless.
    """
    matrices = torch.zeros(9, 3, 3, dtype=torch.float64)
    matrices[0] = torch.eye(3)
    for k in range(3):
        a, b = (k + 1) % 3, (k + 2) % 3
        matrices[1 + k, b, a], matrices[1 + k, a, b] = 1.0, -1.0
        matrices[4 + k, a, b] = matrices[4 + k, b, a] = 1.0
    matrices[7].diagonal()[:] = matrices.new_tensor([1.0, -1.0, 0.0])
    matrices[8].diagonal()[:] = matrices.new_tensor([-1.0, -1.0, 2.0]) / 3**0.5
    return matrices


def products_of_unit_vectors(unit: Tensor, matrices: Tensor) -> Tensor:
    """Return the nine components (E, 9) of 1, of a vector, and of the product with itself."""
    norms = matrices[4:].square().sum((1, 2))
    squares = torch.einsum("ea,kab,eb->ek", unit, matrices[4:], unit) / norms
    return torch.cat([torch.ones_like(unit[:, :1]), unit, squares], dim=1)
