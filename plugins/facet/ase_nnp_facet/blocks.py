"""Atoms in blocks of similar numbers of neighbors, and sums over neighbors block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ATOMS", "Block", "blocks", "gather"]

#: Atoms whose moments are formed at once.
ATOMS = 32


@dataclass(frozen=True)
class Block:
    """Some target atoms with a rectangular table of their incoming edges."""

    atoms: Tensor | None  # (n,) int64; None: all atoms, in order
    table: Tensor  # (n, k) int64, edge numbers; any number where mask is 0
    mask: Tensor  # (n, k, 1) 1 or 0, floating


def blocks(target: Tensor, num_atoms: int, dtype: torch.dtype) -> tuple[Block, ...]:
    """Cut the atoms into blocks of similar numbers of incoming edges (on the CPU)."""
    counts = torch.bincount(target, minlength=num_atoms)
    starts = torch.cumsum(counts, 0) - counts

    # Stable, so that sums run in the order of the edges and are repeatable.
    order = torch.argsort(target, stable=True)
    longest = int(counts.max()) if num_atoms else 0
    last = max(target.shape[0] - 1, 0)

    # In a crystal all atoms have about as many neighbors: one table wastes little.
    if num_atoms <= ATOMS and longest * num_atoms <= 1.3 * target.shape[0]:
        groups: list[Tensor | None] = [None]
    else:
        groups = list(torch.argsort(counts, stable=True).split(ATOMS))
    made = []
    for atoms in groups:
        number, start = (counts, starts) if atoms is None else (counts[atoms], starts[atoms])
        width = int(number.max())
        rank = torch.arange(width, device=target.device)
        table = order[(start[:, None] + rank).clamp(max=last)]
        mask = (rank < number[:, None]).to(dtype)[..., None]
        made.append(Block(atoms, table, mask))
    return tuple(made)


def gather(
    source: Tensor, some: Sequence[Block], inputs: tuple[Tensor, Tensor, Tensor]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return (n, k, .) features of senders, masked basis functions and harmonics of each block.

    All blocks are read at once and then cut, so that the backward pass adds into whole arrays
    once and not once a block.
    """
    x, basis, harmonics = inputs

    # One gather for all blocks: its derivative is then one scatter and not one a block.
    flat = torch.cat([block.table.flatten() for block in some])
    sizes = [block.table.numel() for block in some]
    mask = torch.cat([block.mask.flatten() for block in some])[:, None]
    rows = x.index_select(0, source.index_select(0, flat)).split(sizes)
    b = (basis.index_select(0, flat) * mask).split(sizes)
    y = harmonics.index_select(0, flat).split(sizes)
    shapes = [block.table.shape for block in some]
    return [
        (r.unflatten(0, shape), f.unflatten(0, shape), h.unflatten(0, shape))
        for r, f, h, shape in zip(rows, b, y, shapes, strict=True)
    ]
