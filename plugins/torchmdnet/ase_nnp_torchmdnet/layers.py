"""The embedding and the interaction of TensorNet, on nine components a channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .radial import cosine_cutoff
from .tensors import PARTS, basis, products_of_unit_vectors

__all__ = ["Edges", "Interaction", "TensorEmbedding", "invariants"]

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

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.linears_tensor = nn.ModuleList(
            nn.Linear(width, width, bias=False) for _ in range(count)
        )
        self.register_buffer("matrices", basis(), persistent=False)

    def compose(self, components: Tensor) -> Tensor:
        """From (N, 9, F) to (N, 3, 3, F)."""
        # One small matrix before each atom's nine rows: nothing is laid out anew, as einsum would.
        flat = self.matrices.to(components).reshape(9, 9).T
        composed: Tensor = (flat @ components).unflatten(1, (3, 3))
        return composed

    def decompose(self, x: Tensor) -> Tensor:
        """From (N, 3, 3, F) to (N, 9, F)."""
        # Orthogonal, so the projections are the components but for the matrices' own norms.
        flat = self.matrices.to(x).reshape(9, 9)
        return (flat / flat.square().sum(1, keepdim=True)) @ x.flatten(1, 2)

    def mix(self, components: Tensor, first: int) -> Tensor:
        """Mix the channels, each part by its own matrix."""
        scalar, vector, tensor = components.split(PARTS, dim=1)
        one, two, three = self.linears_tensor[first : first + 3]
        return torch.cat([one(scalar), two(vector), three(tensor)], dim=1)

    def by_part(self, factors: Tensor, components: Tensor) -> list[Tensor]:
        """Multiply (M, 9, F) by three factors (M, 3 F), one for each part; a tensor a part."""
        one, two, three = factors.unflatten(1, (3, 1, -1)).unbind(1)
        scalar, vector, tensor = components.split(PARTS, dim=1)
        return [one * scalar, two * vector, three * tensor]


def sum_at(messages: list[Tensor], center: Tensor, count: int) -> Tensor:
    """Return the sums over edges at their centers, parts side by side, (N, 9, F)."""
    sums = [m.new_zeros(count, *m.shape[1:]).index_add(0, center, m) for m in messages]
    return torch.cat(sums, dim=1)


def square_norm(x: Tensor) -> Tensor:
    """Return the squared Frobenius norms (N, F)."""
    return x.square().sum((1, 2))


def invariants(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a third of the trace, and the square norms of the other two parts, (N, F) each."""
    antisymmetric = 0.5 * (x - x.transpose(1, 2))
    mean = x.diagonal(dim1=1, dim2=2).mean(-1)
    unit = torch.eye(3, dtype=x.dtype, device=x.device)[None, :, :, None]
    symmetric = x - antisymmetric - mean[:, None, None] * unit
    return mean, square_norm(antisymmetric), square_norm(symmetric)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix products (N, 3, 3, F), channel by channel."""
    # Channels lie side by side: three products of long rows beat many of 3 x 3 matrices.
    left = [a[:, :, k, None] * b[:, k, None] for k in range(3)]
    return left[0] + left[1] + left[2]


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
        factors = (factors.unflatten(1, (3, -1)) * (edges.fade[:, None] * pair)[:, None]).flatten(1)

        directions = products_of_unit_vectors(edges.unit, self.matrices.to(edges.unit))
        messages = self.by_part(factors, directions[:, :, None])
        components = sum_at(messages, edges.center, len(z))

        norm = self.init_norm(square_norm(self.compose(components)))
        for layer in self.linears_scalar:
            norm = self.act(layer(norm))
        return self.compose(torch.cat(self.by_part(norm, self.mix(components, 0)), dim=1))


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
        factors = factors * edges.fade[:, None]

        x = x / (square_norm(x) + 1)[:, None, None]
        components = self.mix(self.decompose(x), 0)
        messages = self.by_part(factors, components.index_select(0, edges.neighbor))
        summed = sum_at(messages, edges.center, len(x))
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
