"""Atoms in blocks of similar numbers of neighbours, and sums over neighbours block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["ATOMS", "Block", "blocks", "gather", "recomputed"]

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


def recomputed(
    local: Callable[..., list[Tensor]],
    source: Tensor,
    some: Sequence[Block],
    inputs: tuple[Tensor, Tensor, Tensor],
    mixers: Sequence[Tensor],
) -> list[list[Tensor]]:
    """Apply ``local`` to each block, keeping nothing of it for the backward pass.

    That pass gathers and computes each block again and adds into one array. First derivatives only.
    """
    flat = list(_Recomputed.apply(local, source, some, *inputs, *mixers))
    width = len(mixers)
    return [flat[i : i + width] for i in range(0, len(flat), width)]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, local: Any, source: Tensor, some: Sequence[Block], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.local, ctx.source, ctx.some = local, source, some
        ctx.save_for_backward(*tensors)
        x, basis, harmonics, *mixers = tensors
        made: list[Tensor] = []
        for block in some:
            (gathered,) = gather(source, [block], (x, basis, harmonics))
            made += local(*gathered, mixers)
        return tuple(made)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        totals = [torch.zeros_like(t) if w else None for t, w in zip(tensors, wanted, strict=True)]
        width = len(tensors) - 3
        for number, block in enumerate(ctx.some):
            own = grads[number * width : (number + 1) * width]

            # A block at a time, so that memory holds one block's intermediate results.
            (gathered,) = gather(ctx.source, [block], tensors[:3])
            leaves = [
                t.detach().requires_grad_(w)
                for t, w in zip((*gathered, *tensors[3:]), wanted, strict=True)
            ]
            with torch.enable_grad():
                out = ctx.local(*leaves[:3], leaves[3:])
            asked = [leaf for leaf in leaves if leaf.requires_grad]
            gradients = iter(torch.autograd.grad(out, asked, own))
            flat = block.table.flatten()
            mask = block.mask.flatten()[:, None]
            for place, total in enumerate(totals):
                if total is None:
                    continue
                grad = next(gradients)
                if place == 0:
                    total.index_add_(0, ctx.source.index_select(0, flat), grad.flatten(0, 1))
                elif place < 3:
                    total.index_add_(0, flat, grad.flatten(0, 1) * mask)
                else:
                    total.add_(grad)
        return (None, None, None, *totals)
