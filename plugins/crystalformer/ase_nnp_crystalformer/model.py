"""Crystalformer (Taniai et al., ICLR 2024, arXiv:2403.11686)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ase_nnp.errors import ConfigError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential

from .lattice import Pairs, lattice_sums, pairs_of

__all__ = ["Attention", "Crystalformer"]

#: Width of the widest Gaussian as a part of the cutoff: exp(-1 / (2 * 0.18^2)) is 2e-7.
WIDEST = 0.18


class Crystalformer(Potential):
    """A transformer whose atoms attend to all images of all atoms; one number a structure.

    Parameters
    ----------
    property, unit
        Name and unit of the result.
    width, heads, layers, hidden
        Length of an atom's state, heads, blocks, and hidden numbers between attentions.
    num_basis, r_max
        Gaussians of the distance in the values, up to ``r_max`` (Angstrom).
    r_0, least
        Unit of the widths of the attention (Angstrom), and the least width in it.
    cutoff
        Angstrom; of the lattice sums.
    """

    elements = frozenset(range(1, 99))
    energy_kind = "none"
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        property: str,
        unit: str,
        width: int,
        heads: int,
        layers: int,
        hidden: int,
        num_basis: int,
        r_max: float,
        r_0: float,
        least: float,
        cutoff: float,
    ) -> None:
        super().__init__()
        if min(width, heads, layers, hidden, num_basis) < 1 or width % heads:
            raise ConfigError("sizes must be positive, and width a multiple of heads.")
        if not 0 < least < 1 or not r_0 < WIDEST * cutoff:
            raise ConfigError(
                f"least must lie between 0 and 1, and r_0 below {WIDEST} of the cutoff."
            )
        if property in ("energy", "forces", "stress", "energies"):
            raise ConfigError(f"A property of a structure was expected, not {property!r}.")

        self.outputs = (property,)
        self.units = {property: unit}
        self.cutoff = float(cutoff)
        self.embedding = nn.Embedding(98, width)
        sizes = (r_max, r_0, least, WIDEST * self.cutoff)
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, num_basis, sizes) for _ in range(layers)
        )
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

        # There is no normalization, so blocks must begin close to the identity (T-Fixup).
        with torch.no_grad():
            for parameter in self.blocks.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(0.67 * layers**-0.25)

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return the property (B,) under its name."""
        pairs = pairs_of(graph)
        x = self.embedding(graph.atomic_numbers - 1)
        for block in self.blocks:
            x = block(x, pairs)

        count = graph.atoms_per_structure().to(x)
        total = x.new_zeros(graph.num_structures, x.shape[1]).index_add(0, graph.batch, x)
        value = self.head(total / count[:, None])[:, 0]
        return {self.outputs[0]: value * self.spread + self.mean}

    def set_scales(
        self,
        references: Mapping[int, float],
        *,
        mean: float = 0.0,
        energy: float = 1.0,
        forces: float = 1.0,
    ) -> None:
        """As :meth:`Potential.set_scales`; mean and unit are those of the property."""
        if any(references.values()):
            raise ConfigError("This model gives a property: it takes no reference energies.")
        self.mean.fill_(mean)
        self.spread.fill_(energy)


class Block(nn.Module):
    """Attention and two layers, each added to what comes in."""

    def __init__(
        self, width: int, heads: int, hidden: int, num_basis: int, sizes: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, num_basis, *sizes)
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, pairs: Pairs) -> Tensor:
        """Return the states of the atoms (N, width)."""
        x = x + self.attention(x, pairs)
        result: Tensor = x + self.layers(x)
        return result


class Attention(nn.Module):
    r"""Attention over all images of all atoms, by two lattice sums a pair of atoms.

    .. math:: y_i = \frac1{Z_i} \sum_j e^{q_i k_j / \sqrt d + \alpha_{ij}} (v_j + \beta_{ij}),
              \quad \alpha_{ij} = \log\sum_n e^{-r_{ij(n)}^2 / 2\sigma_i^2}

    with :math:`\beta_{ij}` the mean over images of a linear map of Gaussians of the distance, and
    widths :math:`\sigma_i = r_0 \, [(1 - b) \, \mathrm{softplus}(q_i w + c) + b]`.
    """

    centers: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        num_basis: int,
        r_max: float,
        r_0: float,
        least: float,
        widest: float,
    ) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.r_0, self.least, self.widest = r_0, least, widest
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.of_distance = nn.Parameter(torch.randn(heads, num_basis, self.size) * 0.05)
        self.of_width = nn.Parameter(torch.randn(heads, self.size) * self.size**-0.5)
        centers = torch.arange(1, num_basis + 1, dtype=torch.float64) * (r_max / num_basis)
        self.register_buffer("centers", centers, persistent=False)

    def forward(self, x: Tensor, pairs: Pairs) -> Tensor:
        """Return what is added to the states (N, width)."""
        query, key, value = (
            layer(x).view(-1, self.heads, self.size) for layer in (self.query, self.key, self.value)
        )
        step = self.centers[0]
        basis = torch.exp(-0.5 * ((pairs.distance[:, None] - self.centers) / step).square())
        log, means = lattice_sums(pairs, self._widths(query) ** -2, basis.to(x.dtype))
        distance = torch.einsum("phk,hkd->phd", means, self.of_distance)

        logit = (query[pairs.center] * key[pairs.neighbor]).sum(-1) / math.sqrt(self.size) + log
        share = _softmax(logit, pairs.center, len(x))
        terms = share[:, :, None] * (value[pairs.neighbor] + distance)
        summed = torch.zeros_like(value).index_add(0, pairs.center, terms)
        result: Tensor = self.out(summed.flatten(1))
        return result

    def _widths(self, query: Tensor) -> Tensor:
        """Return the widths (N, heads), Angstrom; r_0 where the query has no component along w."""
        x = torch.einsum("nhd,hd->nh", query, self.of_width) + math.log(math.e - 1)
        width = self.r_0 * ((1 - self.least) * F.softplus(x) + self.least)
        # Wider Gaussians would reach beyond the images that are summed.
        return width.clamp(max=self.widest)


def _softmax(logit: Tensor, row: Tensor, count: int) -> Tensor:
    """Softmax of (P, H) over the entries of each row; an atom's pair with itself is finite."""
    rows = row[:, None].expand_as(logit)
    start = logit.new_full((count, logit.shape[1]), -torch.inf)
    largest = start.scatter_reduce(0, rows, logit.detach(), "amax")
    weight = torch.exp(logit - largest[row])
    total = torch.zeros_like(start).fill_(0.0).index_add(0, row, weight)
    return weight / total[row]
