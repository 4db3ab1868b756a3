"""Sums over neighbors of an evaluation, a block of atoms at a time, with their pullback.

The same sums as :meth:`Convolution._moments`, for fixed weights and one derivative. A block's
moments stay in the processor's cache and are never needed again: the gradient of a product with
fixed matrices needs only the matrices. Edges lie in the order of their targets and atoms in the
order of their numbers of neighbors, so that a block is a slice of every array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .convolution import Convolution
from .irreps import Blocks
from .places import Places, Slice, Spaces

__all__ = ["SortedEdges", "fill", "moments_with_pullback"]

#: Products of basis and harmonics held for all layers; more edges than this make them again.
HELD = 4_000_000


@dataclass(frozen=True)
class SortedEdges:
    """Edges of atoms that are sorted by number of neighbors, in places of equal number a block."""

    order: Tensor | None  # (N,) int64, atoms as they are sorted here; None: as they are
    source: Tensor  # (places,) int64, in that order of atoms
    slices: tuple[Slice, ...]
    basis: Tensor  # (places, K); 0 where no edge is
    harmonics: Tensor  # (places, J)
    products: Tensor | None  # (places, J K), where they are few
    d_products: Tensor | None  # gathers their gradient
    d_basis: Tensor  # (places, K), gathers the gradient
    d_harmonics: Tensor  # (places, J)
    spaces: Spaces = field(default_factory=Spaces)

    def product(self, name: str, one: Tensor, other: Tensor) -> Tensor:
        """Return the products of two stacks of matrices in the space of that name."""
        into = self.spaces(name, self.basis, one.shape[0], one.shape[1], other.shape[2])
        return torch.bmm(one, other, out=into)

    def part(self, geometry: Tensor, low: int, high: int) -> Tensor:
        """Cut products (n, k, J K) down to some harmonics."""
        num_basis = self.basis.shape[1]
        return geometry[:, :, low * num_basis : high * num_basis]

    def geometry(self, block: Slice) -> Tensor:
        """Products (n, k, J K) of harmonics and basis functions."""
        if self.products is not None:
            rows = self.products[block.places]
        else:
            harmonics, basis = self.harmonics[block.places], self.basis[block.places]
            rows = (harmonics[:, :, None] * basis[:, None, :]).flatten(1)
        return rows.view(block.last - block.first, block.width, rows.shape[1])

    def gather(self, x: Tensor, block: Slice) -> Tensor:
        """Features (n, k, C) of the senders."""
        n, width = block.last - block.first, block.width
        rows = self.spaces("features", x, n * width, x.shape[1])
        torch.index_select(x, 0, self.source[block.places], out=rows)
        return rows.view(n, width, x.shape[1])

    def add_product(self, block: Slice, group: Group, features: Tensor, d_rows: Tensor) -> None:
        """Add features (n, k, C) times gradients (C, n, J K) to the gradient of the geometry."""
        places, other = block.places, d_rows.transpose(0, 1)
        if self.d_products is None:
            gradient = self.product("d", features, other).flatten(0, 1)
            shape = (len(gradient), group.high - group.low, self.basis.shape[1])
            self._reduce(gradient.view(shape), places, slice(group.low, group.high))
            return

        into = self.d_products[places].view(*features.shape[:2], self.d_products.shape[1])
        if into.shape[2] == other.shape[2]:
            into.baddbmm_(features, other)
        else:
            into = self.part(into, group.low, group.high)
            into.add_(self.product("d", features, other))

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Return the gradients (places, K) and (places, J) of basis and harmonics."""
        if self.d_products is not None:
            shape = (*self.harmonics.shape, self.basis.shape[1])
            self._reduce(self.d_products.view(shape), slice(None), slice(None))
        return self.d_basis, self.d_harmonics

    def _reduce(self, gradient: Tensor, places: slice, degrees: slice) -> None:
        harmonics, basis = self.harmonics[places, degrees], self.basis[places]
        self.d_basis[places] += torch.bmm(harmonics[:, None, :], gradient)[:, 0]
        self.d_harmonics[places, degrees] += torch.bmm(gradient, basis[:, :, None])[:, :, 0]


def fill(places: Places, basis: Tensor, harmonics: Tensor) -> SortedEdges:
    """Put basis functions (E, K) and harmonics (E, J) in their places."""
    b = basis.index_select(0, places.edge) * places.mask
    y = harmonics.index_select(0, places.edge)
    few = b.shape[0] * b.shape[1] * y.shape[1] <= HELD
    products = (y[:, :, None] * b[:, None, :]).flatten(1) if few else None

    return SortedEdges(
        places.order,
        places.source,
        places.slices,
        b,
        y,
        products,
        None if products is None else torch.zeros_like(products),
        torch.zeros_like(b),
        torch.zeros_like(y),
    )


@dataclass(frozen=True)
class Group:
    """Features of one degree: their harmonics, and where their products go."""

    l1: int
    channels: int
    low: int
    high: int
    mixer: Tensor  # (U, Q, (i j b))
    by_order: Tensor  # (i, U, Q, (j b))
    ends: tuple[tuple[int, slice, slice], ...]  # degree, rows of Q, channels of that degree


def groups(conv: Convolution) -> list[Group]:
    """Take a convolution apart by the degree of its inputs."""
    filled = dict.fromkeys(conv.outputs.degrees, 0)
    made: list[Group] = []
    for l1, (mixer, by_order) in zip(conv.degrees, conv.fixed_mixers(), strict=True):
        channels, row, ends = conv.inputs.mult(l1), 0, []
        for path in (p for p in conv.paths if p.l1 == l1):
            at, end = filled[path.l3], row + 2 * path.l3 + 1
            ends.append((path.l3, slice(row, end), slice(at, at + channels)))
            filled[path.l3], row = at + channels, end
        low, high = conv.harmonic_range(l1)
        made.append(Group(l1, channels, low, high, mixer, by_order, tuple(ends)))
    return made


def moments_with_pullback(
    conv: Convolution, blocks: Blocks, edges: SortedEdges
) -> tuple[Blocks, Callable[[Blocks, bool], Blocks]]:
    """Return ``conv(blocks)`` and its pullback.

    The pullback adds the gradient of basis and harmonics to ``edges`` and returns that of
    ``blocks``, or nothing when they depend on no position (its second argument).
    """
    parts = groups(conv)
    x = {k: block.transpose(1, 2).flatten(1) for k, block in blocks.items()}
    mixed: dict[int, list[Tensor]] = {group.l1: [] for group in parts}
    for block in edges.slices:
        geometry = edges.geometry(block)
        for group in parts:
            # The sum over neighbors is this product: no message is ever stored. One degree at a
            # time, whose features and moments fit the cache.
            rows = edges.gather(x[group.l1], block).transpose(1, 2)
            moments = edges.product("moments", rows, edges.part(geometry, group.low, group.high))
            moments = moments.view(rows.shape[0], group.channels, group.mixer.shape[2])

            # Q before atoms: a product with a short last axis has a fifth of the speed.
            mixed[group.l1].append(torch.bmm(group.mixer, moments.permute(1, 2, 0)))

    like, mults = blocks[0], conv.outputs.mults
    sums = {k: like.new_empty(len(like), 2 * k + 1, mults[k]) for k in conv.outputs.degrees}
    for group in parts:
        whole = torch.cat(mixed[group.l1], dim=2)  # (U, Q, N)
        for degree, rows_of_q, channels in group.ends:
            sums[degree][:, :, channels] = whole[:, rows_of_q].permute(2, 1, 0)

    def pullback(gradients: Blocks, wanted: bool) -> Blocks:
        return pull_moments(parts, blocks, edges, gradients, wanted)

    return sums, pullback


def pull_moments(
    parts: list[Group], blocks: Blocks, edges: SortedEdges, gradients: Blocks, wanted: bool
) -> Blocks:
    """Gradients of the inputs of a convolution, from those of its sums."""
    d_mixed = {}
    for group in parts:
        whole = gradients[0].new_empty(group.channels, group.mixer.shape[1], len(gradients[0]))
        for degree, rows, channels in group.ends:
            whole[:, rows] = gradients[degree][:, :, channels].permute(2, 1, 0)
        d_mixed[group.l1] = whole

    # Here a row's columns are (m, channel): all products then write and read whole matrices.
    x = {k: block.flatten(1) for k, block in blocks.items()}
    dx = {k: torch.zeros_like(rows) for k, rows in x.items() if wanted}
    for block in edges.slices:
        n, atoms = block.last - block.first, slice(block.first, block.last)
        geometry = edges.geometry(block)
        for group in parts:
            g = edges.part(geometry, group.low, group.high)
            own = d_mixed[group.l1][:, :, atoms].transpose(1, 2)
            shape = (len(group.by_order), group.channels, n, g.shape[2])
            d_moments = edges.spaces("moments", own, *shape)

            # A product over one number is slow as a product of matrices.
            multiply = torch.mul if own.shape[2] == 1 else torch.bmm
            for matrices, into in zip(group.by_order, d_moments, strict=True):
                multiply(own, matrices, out=into)
            d_rows = d_moments.flatten(0, 1)  # (columns, n, J K)
            edges.add_product(block, group, edges.gather(x[group.l1], block), d_rows)
            if wanted:
                sent = edges.product("rows", g, d_rows.permute(1, 2, 0)).flatten(0, 1)
                dx[group.l1].index_add_(0, edges.source[block.places], sent)
    return {k: dx[k].view(block.shape) for k, block in blocks.items() if wanted}
