"""The embedding and the interaction of TensorNet, on nine components a channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .radial import cosine_cutoff
from .tensors import PARTS, basis, products_of_unit_vectors

__all__ = ["Edges", "Interaction", "TensorEmbedding"]

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Edges:
    """Pairs within the cutoff, each atom with itself at distance 0 among them.

    ``functions`` (E, K) of the distance, ``fade`` (E,) the cutoff function, ``unit`` (E, 3)
    along the pair, 0 for an atom with itself.
    """

    center: Tensor
    neighbor: Tensor
    functions: Tensor
    fade: Tensor
    unit: Tensor


class _Tensors(nn.Module):
    """What both layers do with 3 x 3 tensors."""

    matrices: Tensor
    part: Tensor

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.linears_tensor = nn.ModuleList(
            nn.Linear(width, width, bias=False) for _ in range(count)
        )
        self.register_buffer("matrices", basis(), persistent=False)
        self.register_buffer("part", torch.tensor(PARTS), persistent=False)

    def compose(self, components: Tensor) -> Tensor:
        """From (N, 9, F) to (N, 3, 3, F)."""
        return torch.einsum("nkf,kab->nabf", components, self.matrices.to(components))

    def decompose(self, x: Tensor) -> Tensor:
        """From (N, 3, 3, F) to (N, 9, F)."""
        matrices = self.matrices.to(x)
        # Orthogonal, so the projections are the components but for the matrices' own norms.
        dual = matrices / matrices.square().sum((1, 2))[:, None, None]
        return torch.einsum("nabf,kab->nkf", x, dual)

    def mix(self, components: Tensor, first: int) -> Tensor:
        """Mix the channels, each part by its own matrix."""
        scalar, vector, tensor = components[:, :1], components[:, 1:4], components[:, 4:]
        one, two, three = self.linears_tensor[first : first + 3]
        return torch.cat([one(scalar), two(vector), three(tensor)], dim=1)

    def by_part(self, factors: Tensor) -> Tensor:
        """From three factors (M, 3 F) to one for each component, (M, 9, F)."""
        return factors.reshape(len(factors), 3, -1)[:, self.part]


def square_norm(x: Tensor) -> Tensor:
    """Return the squared Frobenius norms (N, F)."""
    return x.square().sum((1, 2))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix products (N, 3, 3, F), channel by channel."""
    return torch.einsum("nabf,nbcf->nacf", a, b)


class TensorEmbedding(_Tensors):
    """The first tensors of atoms: sums over neighbors of 1, of unit vectors and their squares."""

    def __init__(self, width: int, num_rbf: int, act: Activation, max_z: int) -> None:
        super().__init__(width, 3)
        self.act = act
        self.distance_proj1, self.distance_proj2, self.distance_proj3 = (
            nn.Linear(num_rbf, width) for _ in range(3)
        )
        self.emb = nn.Embedding(max_z, width)
        self.emb2 = nn.Linear(2 * width, width)
        self.linears_scalar = nn.ModuleList(
            [nn.Linear(width, 2 * width), nn.Linear(2 * width, 3 * width)]
        )
        self.init_norm = nn.LayerNorm(width)

    def forward(self, z: Tensor, edges: Edges) -> Tensor:
        """Return (N, 3, 3, F)."""
        states = self.emb(z)
        pair = self.emb2(torch.cat([states[edges.center], states[edges.neighbor]], dim=1))
        projections = (self.distance_proj1, self.distance_proj2, self.distance_proj3)
        factors = torch.cat([layer(edges.functions) for layer in projections], dim=1)
        factors = self.by_part(factors) * (edges.fade[:, None] * pair)[:, None]

        directions = products_of_unit_vectors(edges.unit, self.matrices.to(edges.unit))
        messages = factors * directions[:, :, None]
        summed = messages.new_zeros(len(z), *messages.shape[1:])
        components = summed.index_add(0, edges.center, messages)

        norm = self.init_norm(square_norm(self.compose(components)))
        for layer in self.linears_scalar:
            norm = self.act(layer(norm))
        return self.compose(self.mix(components, 0) * self.by_part(norm))


class Interaction(_Tensors):
    """One round: tensors of neighbors are summed and multiplied with the atom's own."""

    def __init__(self, width: int, num_rbf: int, act: Activation, group: str) -> None:
        super().__init__(width, 6)
        self.act, self.group = act, group
        self.linears_scalar = nn.ModuleList(
            [
                nn.Linear(num_rbf, width),
                nn.Linear(width, 2 * width),
                nn.Linear(2 * width, 3 * width),
            ]
        )

    def forward(self, x: Tensor, edges: Edges, charge: Tensor) -> Tensor:
        """From (N, 3, 3, F) to the same; ``charge`` (N,) is that of the atom's structure."""
        factors = edges.functions
        for layer in self.linears_scalar:
            factors = self.act(layer(factors))
        factors = self.by_part(factors * edges.fade[:, None])

        x = x / (square_norm(x) + 1)[:, None, None]
        components = self.mix(self.decompose(x), 0)
        messages = factors * components[edges.neighbor]
        summed = torch.zeros_like(components).index_add(0, edges.center, messages)
        own, message = self.compose(components), self.compose(summed)

        # Symmetrized, a product keeps parity: both orders together are even under inversion.
        charged = (1 + 0.1 * charge)[:, None, None, None]
        if self.group == "O(3)":
            both = charged * (product(message, own) + product(own, message))
        else:
            both = 2 * product(own, message)
        components = self.decompose(both) / (square_norm(both) + 1)[:, None]
        change = self.compose(self.mix(components, 3))
        return x + change + charged * product(change, change)


def edges_with_loops(
    index: Tensor, vectors: Tensor, count: int, functions: nn.Module, lower: float, upper: float
) -> Edges:
    """Return the edges of a graph, and one of length 0 from each atom to itself.

    Parameters
    ----------
    index, vectors
        (2, E) as in the graph, and (E, 3) as the network takes them.
    count
        Atoms.
    functions, lower, upper
        Of the distance, and the two cutoffs.
    """
    own = torch.arange(count, device=index.device)
    source, target = index
    r = vectors.norm(dim=1)
    unit = torch.cat([vectors / r[:, None], vectors.new_zeros(count, 3)])
    r = torch.cat([r, r.new_zeros(count)])
    return Edges(
        torch.cat([target, own]),
        torch.cat([source, own]),
        functions(r),
        cosine_cutoff(r, lower, upper),
        unit,
    )
