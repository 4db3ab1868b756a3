"""The convolution over neighbors path by path, for a compiler: loops that need no memory.

The same messages as :meth:`Convolution._messages`. Each path is a sum of products of few numbers an
edge, with the channels last; a compiler makes one loop over edges and channels of it, in which
radial weights and messages are never stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .irreps import Blocks

if TYPE_CHECKING:
    from .convolution import Convolution, Edges

__all__ = ["sums_by_path"]


def sums_by_path(conv: Convolution, blocks: Blocks, edges: Edges) -> Blocks:
    """Return blocks (N, 2 l3 + 1, channels) by degree; the radial network has to be linear."""
    made: dict[int, list[Tensor]] = {degree: [] for degree in conv.outputs.degrees}
    kernels = conv.radial.kernels[0].split(conv.columns, dim=1)
    for l1, kernel in zip(conv.degrees, kernels, strict=True):
        own = [path for path in conv.paths if path.l1 == l1]
        low, _ = conv.harmonic_range(l1)
        coupling = getattr(conv, f"coupling_{l1}").split([2 * p.l3 + 1 for p in own], dim=2)
        rows = blocks[l1].index_select(0, edges.source)
        weights = kernel.split(conv.inputs.mult(l1), dim=1)

        for path, tensor, weight in zip(own, coupling, weights, strict=True):
            part = slice(path.l2**2, (path.l2 + 1) ** 2)
            own_tensor = tensor[:, part.start - low : part.stop - low]
            local = torch.einsum("ej,ijq->eqi", edges.harmonics[:, part], own_tensor)
            messages = torch.bmm(local, rows) * (edges.basis @ weight)[:, None]

            # A sum for each path: one for all of them would need their messages side by side.
            total = messages.new_zeros(blocks[l1].shape[0], *messages.shape[1:])
            made[path.l3].append(total.index_add(0, edges.target, messages))
    return {degree: torch.cat(parts, dim=2) / edges.norm for degree, parts in made.items()}
