r"""The convolution over neighbors, in two orders of summation with one result.

.. math:: a_t^{p}[u, k] = \sum_{e \to t} R_{p,u}(d_e) \sqrt{2 l_3 + 1}
          \sum_{ij} C^{l_1 l_2 l_3}_{ijk}\, x^{l_1}_{s(e)}[u, i]\, Y^{l_2}_j(e)

``moments``: as R is linear in a few basis functions, :math:`R_{p,u}(d) = \sum_b B_b(d) W_{b,p,u}`,
the sum over neighbors can come first and needs neither W nor C: for each atom it is one matrix
product of its neighbors' features with their numbers :math:`B_b Y_j`. Messages never exist. This
wins on a CPU, where passing messages through memory is what takes the time.
``messages``: each edge's message is made and added up. No size is needed on the host, so this suits
a GPU; and it is the way when hidden layers make R nonlinear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .angular import wigner_3j
from .blocks import Block, gather
from .by_path import sums_by_path
from .irreps import Blocks, Irreps, Path, paths
from .layers import MLP, Names
from .multilinear import Layout, neighbor_sum

__all__ = ["Convolution", "Edges"]


@dataclass(frozen=True)
class Edges:
    """What a batch's edges are to every layer."""

    source: Tensor  # (E,)
    target: Tensor  # (E,)
    basis: Tensor  # (E, K), with the envelope
    harmonics: Tensor  # (E, (L + 1)^2)
    norm: Tensor  # average number of neighbors to the power gamma
    blocks: tuple[Block, ...] = ()  # empty: add up messages, unless there is a layout
    layout: Layout | None = None  # of edges in places, with
    products: Tensor | None = None  # (places, J K), harmonics times basis, 0 where no edge is
    by_path: bool = False  # add up messages path by path, which suits a compiler


class Convolution(nn.Module):
    """Products of the neighbors' features with edge harmonics, weighted by distance, summed.

    Parameters
    ----------
    inputs
        Irreps of the node features.
    lmax
        Highest degree of the edge harmonics.
    wanted
        Irreps of the layer; only degrees in it are made.
    num_basis
        K.
    radial
        Options of the map from the basis to the weights of the paths.
    symmetry
        Which products of degrees are allowed.
    """

    def __init__(
        self,
        inputs: Irreps,
        lmax: int,
        wanted: Irreps,
        symmetry: str,
        num_basis: int,
        radial: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.inputs, self.num_basis = inputs, num_basis
        self.paths = paths(inputs, lmax, wanted, symmetry)
        channels = [inputs.mult(p.l1) for p in self.paths]
        mults = [0] * (max(p.l3 for p in self.paths) + 1)
        for path, mult in zip(self.paths, channels, strict=True):
            mults[path.l3] += mult
        self.outputs = Irreps(tuple(mults))

        self.radial = MLP([num_basis, *radial["inner_dims"], sum(channels)], radial)
        self.linear = not radial["inner_dims"] and radial["final_activation"].lower() == "identity"
        self._fixed: tuple[Tensor, list[tuple[Tensor, Tensor]]] | None = None

        self.degrees: list[int] = []  # l1 that take part
        self.columns: list[int] = []  # numbers of their radial weights
        for l1 in inputs.degrees:
            own = [p for p in self.paths if p.l1 == l1]
            if own:
                self.degrees.append(l1)
                self.columns.append(len(own) * inputs.mult(l1))
                tensor, path_of = _couplings(own)
                self.register_buffer(f"coupling_{l1}", tensor, persistent=False)
                self.register_buffer(f"path_of_{l1}", path_of, persistent=False)

    def names(self) -> Names:
        """Published names."""
        for name, parameter in self.radial.names():
            yield f"LazyInMLP_0/{name}", parameter

    def forward(self, blocks: Blocks, edges: Edges) -> Blocks:
        """Return blocks (N, 2 l3 + 1, channels) by degree."""
        if edges.layout is not None:
            return self._sums(blocks, edges, edges.layout)
        if edges.by_path and self.linear:
            return sums_by_path(self, blocks, edges)

        if edges.blocks and self.linear:
            # A neighbor's features are gathered as one row; its order suits products by channel.
            sums = self._moments(self.inputs.flat(blocks), edges)
            parts = {l1: sums[l1].transpose(1, 2) for l1 in self.degrees}
        else:
            parts = self._messages(blocks, edges)
        return self._assemble(parts, edges.norm)

    def _assemble(self, parts: dict[int, Tensor], norm: Tensor) -> Blocks:
        """Sort (N, Q, U) of each l1 into degrees, channels in the order of (l1, l2)."""
        by_degree: dict[int, list[Tensor]] = {k: [] for k in self.outputs.degrees}
        for l1 in self.degrees:
            ends = [p.l3 for p in self.paths if p.l1 == l1]
            pieces = parts[l1].split([2 * l3 + 1 for l3 in ends], dim=1)
            for l3, piece in zip(ends, pieces, strict=True):
                by_degree[l3].append(piece)
        return {k: torch.cat(v, dim=2) / norm for k, v in by_degree.items()}

    # The sum over neighbors first

    def _moments(self, x: Tensor, edges: Edges) -> dict[int, Tensor]:
        mixers = self.mixers()
        inputs = (x, edges.basis, edges.harmonics)
        gathered = gather(edges.source, edges.blocks, inputs)
        made = [self._local(*some, mixers) for some in gathered]
        if edges.blocks[0].atoms is None:
            return dict(zip(self.degrees, made[0], strict=True))

        # Blocks come by number of neighbors; rows go back to the order of the atoms.
        position = torch.argsort(torch.cat([b.atoms for b in edges.blocks if b.atoms is not None]))
        joined = [torch.cat(group).index_select(0, position) for group in zip(*made, strict=True)]
        return dict(zip(self.degrees, joined, strict=True))

    def _sums(self, blocks: Blocks, edges: Edges, layout: Layout) -> Blocks:
        assert edges.products is not None
        made = {}
        for l1, mixer in zip(self.degrees, self.mixers(), strict=True):
            low, high = self.harmonic_range(l1)
            products = edges.products
            if (high - low) * self.num_basis < products.shape[1]:
                products = products[:, low * self.num_basis : high * self.num_basis].contiguous()
            weights = mixer.unflatten(1, (2 * l1 + 1, -1)).permute(1, 0, 3, 2).contiguous()
            sums = neighbor_sum(blocks[l1].flatten(1), products, weights, layout)  # (U, Q, N)
            made[l1] = sums.permute(2, 1, 0)
        return self._assemble(made, edges.norm)

    def mixers(self) -> list[Tensor]:
        """Radial weights and couplings as one matrix a channel: (U, (i j b), Q) of each l1."""
        kernels = self.radial.kernels[0].split(self.columns, dim=1)
        made = []
        for l1, kernel in zip(self.degrees, kernels, strict=True):
            own = kernel.unflatten(1, (-1, self.inputs.mult(l1)))  # (b, path, u)
            weight = own.index_select(1, getattr(self, f"path_of_{l1}")).permute(2, 0, 1)
            coupling = getattr(self, f"coupling_{l1}")  # (i, j, Q)

            # Where the radial network is linear, weights and couplings are one matrix for all
            # edges.
            made.append((coupling[None, :, :, None] * weight[:, None, None]).flatten(1, 3))
        return made

    def fixed_mixers(self) -> list[tuple[Tensor, Tensor]]:
        """:meth:`mixers` as (U, Q, (i j b)) and (i, U, Q, (j b)), kept for the same weights."""
        kernel = self.radial.kernels[0].detach()
        held = self._fixed

        # Compared by value: weights change by many ways that leave no mark on the tensor.
        if (
            held is None
            or held[0].dtype != kernel.dtype
            or held[0].device != kernel.device
            or (not torch.equal(held[0], kernel))
        ):
            made = []
            for l1, mixer in zip(self.degrees, self.mixers(), strict=True):
                rows = mixer.detach().transpose(1, 2)  # (U, Q, (i j b))
                by_order = rows.unflatten(2, (2 * l1 + 1, -1)).permute(2, 0, 1, 3)
                made.append((rows.contiguous(), by_order.contiguous()))
            held = self._fixed = (kernel.clone(), made)
        return held[1]

    def __getstate__(self) -> dict[str, Any]:
        """As of any module, without what is made of the weights."""
        return {**self.__dict__, "_fixed": None}

    def _local(self, rows: Tensor, b: Tensor, y: Tensor, mixers: Sequence[Tensor]) -> list[Tensor]:
        """Sums over k neighbors of n atoms from (n, k, .) features, basis and harmonics."""
        n = rows.shape[0]
        features = dict(zip(self.inputs.degrees, rows.split(self.inputs.widths(), 2), strict=True))
        made = []
        geometry: dict[tuple[int, int], Tensor] = {}
        for l1, mixer in zip(self.degrees, mixers, strict=True):
            low, high = self.harmonic_range(l1)
            if (low, high) not in geometry:
                # A slice is a copy later on: taken only where degrees are missing.
                part = y if high - low == y.shape[2] else y[..., low:high]
                geometry[low, high] = (part[..., None] * b[:, :, None, :]).flatten(2)

            # The sum over neighbors is this product: no message is ever stored.
            moments = torch.bmm(features[l1].transpose(1, 2), geometry[low, high])
            moments = moments.view(n, self.inputs.mult(l1), -1)  # (atom, u, (i j b))
            made.append(torch.bmm(moments.transpose(0, 1), mixer).transpose(0, 1))
        return made

    def harmonic_range(self, l1: int) -> tuple[int, int]:
        """First and last (exclusive) harmonic that features of one degree meet."""
        used = [p.l2 for p in self.paths if p.l1 == l1]
        return min(used) ** 2, (max(used) + 1) ** 2

    # A message for each edge

    def _messages(self, blocks: Blocks, edges: Edges) -> dict[int, Tensor]:
        weights = self.radial(edges.basis).split(self.columns, dim=1)
        made = {}
        for l1, weight in zip(self.degrees, weights, strict=True):
            low, high = self.harmonic_range(l1)
            coupling = getattr(self, f"coupling_{l1}")
            local = torch.einsum("ej,ijq->eqi", edges.harmonics[:, low:high], coupling)
            radial = weight.unflatten(1, (-1, self.inputs.mult(l1)))
            radial = radial.index_select(1, getattr(self, f"path_of_{l1}"))

            # Channels come last everywhere: a compiler makes loops over them of all that follows.
            messages = torch.bmm(local, blocks[l1].index_select(0, edges.source)) * radial
            total = messages.new_zeros(blocks[l1].shape[0], *messages.shape[1:])
            made[l1] = total.index_add(0, edges.target, messages)
        return made


def _couplings(own: list[Path]) -> tuple[Tensor, Tensor]:
    """Clebsch-Gordan tensors of one l1 side by side, (2 l1 + 1, J, Q), and the path of each q."""
    l1 = own[0].l1
    low, high = min(p.l2 for p in own) ** 2, (max(p.l2 for p in own) + 1) ** 2
    parts, path_of = [], []
    for number, path in enumerate(own):
        part = torch.zeros(2 * l1 + 1, high - low, 2 * path.l3 + 1, dtype=torch.float64)
        at = path.l2**2 - low
        part[:, at : at + 2 * path.l2 + 1] = wigner_3j(l1, path.l2, path.l3) * math.sqrt(
            2 * path.l3 + 1
        )
        parts.append(part)
        path_of += [number] * (2 * path.l3 + 1)
    return torch.cat(parts, dim=2), torch.tensor(path_of)
