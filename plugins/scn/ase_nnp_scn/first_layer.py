"""The first layer of a message block for training, with its derivative written out.

The weight of that layer holds most of a model: 5 million numbers a block in the published ones. The
automatic derivative rearranges it for every step and its gradient once more, which moves more
memory than a small batch needs for everything else. Here products read the weight and write its
gradient where they lie.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ase_nnp_scn.neighbors import Neighbors
from ase_nnp_scn.rotation import Degree

__all__ = ["first_layer"]


def first_layer(x: Tensor, weight: Tensor, degrees: list[Degree], near: Neighbors) -> Tensor:
    """Return the rotated and projected states of both ends of each slot, without bias.

    Parameters
    ----------
    x : (N, B, C)
        States of the atoms; they may lack the higher degrees.
    weight : (H, 2 * R * C)
        Columns of the source by row, then those of the target.
    degrees, near
        The layout of B and R, and the neighbors; their rotations are taken as constants.

    Returns
    -------
    Tensor
        (N, K * T, H). It can be differentiated once.
    """
    used = [d for d in degrees if d.block.start < x.shape[1]]
    result: Tensor = _FirstLayer.apply(x, weight, used, degrees[-1].rows.stop, near)
    return result


def _columns(degree: Degree, first: int, channels: int) -> list[slice]:
    """Columns of the weight for each kept row of a degree."""
    rows = range(first + degree.rows.start, first + degree.rows.stop)
    return [slice(r * channels, (r + 1) * channels) for r in rows]


def _add_projected(
    total: Tensor, x: Tensor, weight: Tensor, used: list[Degree], first: int, turns: Tensor
) -> Tensor:
    """Add one end, whose columns start at row ``first``, to ``total`` (N, slots, H)."""
    hidden, channels = len(weight), x.shape[2]
    for degree in used:
        block = x[:, degree.block].reshape(-1, channels)
        columns = _columns(degree, first, channels)
        projected = block.new_empty(len(block), len(columns), hidden)
        for row, part in enumerate(columns):
            torch.mm(block, weight[:, part].T, out=projected[:, row])
        total.baddbmm_(turns[:, :, degree.entries], projected.view(len(x), -1, hidden))
    return total


def _add_gradients(
    gradient: Tensor,
    saved: tuple[Tensor, Tensor],
    used: list[Degree],
    first: int,
    turns: Tensor,
    sums: tuple[Tensor, Tensor],
) -> None:
    """Take ``gradient`` (N, slots, H) back to the states (added) and the weight (written)."""
    (x, weight), (of_x, of_weight) = saved, sums
    hidden, channels = len(weight), x.shape[2]
    for degree in used:
        block = x[:, degree.block].reshape(-1, channels)
        columns = _columns(degree, first, channels)
        back = torch.bmm(turns[:, :, degree.entries].transpose(1, 2), gradient)
        back = back.view(len(block), len(columns), hidden)
        change = torch.zeros_like(block)
        for row, part in enumerate(columns):
            torch.mm(back[:, row].T, block, out=of_weight[:, part])
            change.addmm_(back[:, row], weight[:, part])
        of_x[:, degree.block] += change.view(len(x), -1, channels)


class _FirstLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, used: list[Degree], rows: int, near: Neighbors
    ) -> Tensor:
        atoms, width = near.source.shape
        hidden, slots = len(weight), near.rows.shape[1]
        # One row more than slots: the padding of the table by source ends there.
        total = x.new_zeros(atoms * width + 1, slots // width * hidden)
        by_source = x.new_zeros(atoms, near.source_rows.shape[1], hidden)
        by_source = _add_projected(by_source, x, weight, used, 0, near.source_rows)
        flat = near.source_slot.reshape(-1)
        total.index_copy_(0, flat, by_source.view(len(flat), -1))
        ctx.save_for_backward(x, weight)
        ctx.layout = used, rows, near
        start = total[:-1].view(atoms, slots, hidden)
        return _add_projected(start, x, weight, used, rows, near.rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        used, rows, near = ctx.layout
        x, weight = ctx.saved_tensors
        whole = used[-1].rows.stop == rows  # then every column is written
        of_weight = torch.empty_like(weight) if whole else torch.zeros_like(weight)
        gradients = torch.zeros_like(x), of_weight
        gradient = gradient.contiguous()
        _add_gradients(gradient, (x, weight), used, rows, near.rows, gradients)
        flat = near.source_slot.reshape(-1)
        by_slot = gradient.view(near.source.numel(), -1)
        by_slot = torch.cat([by_slot, torch.zeros_like(by_slot[:1])])
        by_source = by_slot.index_select(0, flat).view(len(x), -1, gradient.shape[2])
        _add_gradients(by_source, (x, weight), used, 0, near.source_rows, gradients)
        return *gradients, None, None, None
