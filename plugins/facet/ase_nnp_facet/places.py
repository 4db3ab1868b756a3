"""Places of edges: in the order of their targets, equally many for each atom of a block."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Places", "Slice", "Spaces", "sort_edges"]

#: Atoms of a block: a degree's moments and its senders' features fit the processor's cache.
ATOMS = 16


@dataclass(frozen=True)
class Slice:
    """Atoms ``first`` to ``last`` with ``width`` places for edges each, from ``start``."""

    first: int
    last: int
    width: int
    start: int

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return self.last - self.first

    @property
    def places(self) -> slice:
        """Places of the edges."""
        return slice(self.start, self.start + (self.last - self.first) * self.width)


class Spaces(dict[str, Tensor]):
    """Memory for a block's results, the same for all blocks and layers.

    Memory that is new each time comes from the system page by page, and is not in the cache.
    """

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Return memory of this name and shape, of the kind of ``like``; its values are any."""
        size = math.prod(shape)
        held = self.get(name)
        if held is None or held.numel() < size:
            held = self[name] = like.new_empty(size)
        return held[:size].view(shape)


@dataclass(frozen=True)
class Places:
    """Where edges go, which depends on the graph alone."""

    order: Tensor | None
    source: Tensor
    slices: tuple[Slice, ...]
    edge: Tensor  # (places,) int64, the edge of a place; any where there is none
    mask: Tensor  # (places, 1) 1 or 0
    place: Tensor  # (E,) int64, the place of an edge


def sort_edges(source: Tensor, target: Tensor, num_atoms: int, dtype: torch.dtype) -> Places:
    """Sort atoms by number of neighbors and give each edge a place (on the CPU)."""
    counts = torch.bincount(target, minlength=num_atoms)
    order: Tensor | None = None
    rank = torch.arange(num_atoms, device=target.device)

    # In a crystal all atoms have about as many neighbors, and nothing needs sorting.
    longest = int(counts.max()) if num_atoms else 0
    if longest * num_atoms > 1.05 * target.shape[0]:
        order = torch.argsort(counts, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, rank)
        counts, source, target = counts[order], rank[source], rank[target]

    # Stable, so that sums run in the order of the edges and are repeatable.
    by_target = torch.argsort(target, stable=True)
    slices, first_place, start = [], [], 0
    for first in range(0, num_atoms, ATOMS):
        last = min(first + ATOMS, num_atoms)
        width = int(counts[first:last].max())
        slices.append(Slice(first, last, width, start))
        first_place.append(start + width * torch.arange(last - first, device=target.device))
        start += width * (last - first)

    starts = torch.cat(first_place) - (torch.cumsum(counts, 0) - counts)
    places = starts[target[by_target]] + torch.arange(target.shape[0], device=target.device)
    place = torch.empty_like(by_target).scatter_(0, by_target, places)
    edge = place.new_zeros(start).scatter_(0, places, by_target)
    mask = torch.zeros(start, 1, dtype=dtype, device=target.device)
    return Places(order, source[edge], tuple(slices), edge, mask.index_fill_(0, places, 1.0), place)
