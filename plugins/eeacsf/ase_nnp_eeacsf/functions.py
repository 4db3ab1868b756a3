"""Radial and angular symmetry functions with factors of the elements, without sums over triples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.graph import AtomGraph

from .elements import FACTORS, element_factors

__all__ = ["SymmetryFunctions"]


class SymmetryFunctions(nn.Module):
    r"""What an atom sees, in numbers that do not depend on how many elements there are.

    .. math::
        R_{i}^{k h} &= \sum_j H_j^h \, g_k(r_{ij}) \\
        A_{i}^{k h \lambda \zeta} &= 2^{1-\zeta} \sum_{j < l} H_j^h H_l^h \,
            (1 + \lambda \cos\theta_{jil})^\zeta \, g_k(r_{ij}) \, g_k(r_{il})

    with :math:`g_k(r) = e^{-\eta (r - s_k)^2} f_c(r)` and the factors :math:`H` of the elements.

    Parameters
    ----------
    cutoff
        Angstrom.
    factors
        Names out of :data:`~ase_nnp_eeacsf.elements.FACTORS`.
    num_radial, num_angular
        Gaussians of the radial and of the angular functions.
    zetas, lambdas
        Whole numbers; and 1 or -1.
    """

    table: Tensor
    radial_centers: Tensor
    angular_centers: Tensor
    binomials: Tensor

    def __init__(
        self,
        cutoff: float,
        factors: Sequence[str],
        num_radial: int,
        num_angular: int,
        zetas: Sequence[int],
        lambdas: Sequence[int],
    ) -> None:
        super().__init__()
        unknown = [name for name in factors if name not in FACTORS]
        if unknown or not factors:
            raise ConfigError(f"factors must be some of {FACTORS}, not {list(factors)}.")
        whole = all(isinstance(z, int) and 1 <= z <= 8 for z in zetas)
        if not whole or not set(lambdas) <= {-1, 1}:
            raise ConfigError("zetas must be whole numbers from 1 to 8, lambdas 1 or -1.")
        if not cutoff > 0 or min(num_radial, num_angular) < 2:
            raise ConfigError("cutoff must be positive; two functions of each kind at least.")

        self.cutoff, self.degree = float(cutoff), max(zetas, default=0)
        columns = [FACTORS.index(name) for name in factors]
        constants = {
            "table": torch.as_tensor(element_factors()[:, columns]),
            # The nearest neighbors of hydrogen are 0.7 Angstrom away.
            "radial_centers": torch.linspace(0.6, cutoff, num_radial, dtype=torch.float64),
            "angular_centers": torch.linspace(0.6, 0.8 * cutoff, num_angular, dtype=torch.float64),
            "binomials": _binomials(zetas, lambdas),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        pairs = len(zetas) * len(lambdas) * num_angular
        self.count = len(factors) * (num_radial + pairs)
        self.zetas, self.signs = list(zetas), len(lambdas)

    def typical(self, density: float = 0.05) -> Tensor:
        """Return about how large the functions are, (count,), where factors are 1.

        Parameters
        ----------
        density
            Atoms around the center per cubic Angstrom, the same everywhere beyond 1 Angstrom.
        """
        r = torch.linspace(1.0, self.cutoff, 400, dtype=torch.float64)[:, None]
        shells = 4 * math.pi * density * r.square() * (r[1] - r[0])
        radial, angular = (
            (shells * self._gaussians(r, centers)).sum(0)
            for centers in (self.radial_centers, self.angular_centers)
        )

        # Over all directions, 2^(1 - zeta) (1 + lambda cos)^zeta is 2 / (zeta + 1) on average.
        means = torch.tensor([1.0 / (z + 1) for z in self.zetas for _ in range(self.signs)])
        pairs = angular.square()[:, None, None] * means
        h = self.table.shape[1]
        return torch.cat([radial.repeat_interleave(h), pairs.expand(-1, h, -1).flatten()])

    def _gaussians(self, r: Tensor, centers: Tensor) -> Tensor:
        """Return g_k(r), (E, K), of distances (E, 1)."""
        width = centers[1] - centers[0]
        fade = (1 - (r / self.cutoff).square()).clamp(min=0) ** 3
        return torch.exp(-0.5 * ((r - centers) / width).square()) * fade

    def forward(self, graph: AtomGraph) -> Tensor:
        """Return the descriptor of each atom, (N, count)."""
        source, target = graph.edge_index
        vector = graph.edge_vectors()
        r = vector.norm(dim=1, keepdim=True)
        factor = self.table[graph.atomic_numbers[source]]

        def weights(centers: Tensor) -> Tensor:
            """Return g_k(r) H^h of every edge, (E, K H)."""
            values = self._gaussians(r, centers)
            return (values[:, :, None] * factor[:, None, :]).flatten(1)

        radial = weights(self.radial_centers)
        summed = radial.new_zeros(graph.num_atoms, radial.shape[1]).index_add(0, target, radial)
        powers = self._powers(weights(self.angular_centers), vector / r, target, graph.num_atoms)
        angular = torch.einsum("pq,npc->ncq", self.binomials, powers)
        return torch.cat([summed, angular.flatten(1)], dim=1)

    def _powers(self, weight: Tensor, unit: Tensor, target: Tensor, count: int) -> Tensor:
        r"""Return :math:`\sum_{j<l} w_j w_l \cos^p\theta`, (N, P + 1, C).

        The cosine is a product of unit vectors, so its powers are products of their monomials: a
        sum over pairs is the square of a sum over neighbors, less the pairs of a neighbor with
        itself.
        """
        same = weight.new_zeros(count, weight.shape[1]).index_add(0, target, weight.square())
        sums = []
        for degree in range(self.degree + 1):
            square = torch.zeros_like(same)
            for exponents, multiplicity in _monomials(degree):
                part = weight
                for axis, power in enumerate(exponents):
                    # Powers of small whole numbers, whose derivative is finite at zero.
                    for _ in range(power):
                        part = part * unit[:, axis : axis + 1]
                moment = torch.zeros_like(same).index_add(0, target, part)
                square = square + multiplicity * moment.square()
            sums.append(0.5 * (square - same))
        return torch.stack(sums, dim=1)


def _monomials(degree: int) -> list[tuple[tuple[int, int, int], int]]:
    """Return exponents of x, y, z that add up to ``degree``, with their multinomials."""
    monomials = []
    for x, y in itertools.product(range(degree + 1), repeat=2):
        z = degree - x - y
        if z >= 0:
            below = math.factorial(x) * math.factorial(y) * math.factorial(z)
            monomials.append(((x, y, z), math.factorial(degree) // below))
    return monomials


def _binomials(zetas: Sequence[int], lambdas: Sequence[int]) -> Tensor:
    """Return (P + 1, Q): from powers of the cosine to 2^(1 - zeta) (1 + lambda cos)^zeta."""
    columns = [
        [2.0 ** (1 - zeta) * math.comb(zeta, p) * sign**p for p in range(max(zetas) + 1)]
        for zeta in zetas
        for sign in lambdas
    ]
    return torch.tensor(columns, dtype=torch.float64).reshape(len(columns), -1).T.contiguous()
