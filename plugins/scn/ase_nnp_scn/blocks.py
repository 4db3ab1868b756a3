"""The layers of SCN (arXiv:2206.14331, Sec. 3), under the parameter names of published weights.

Node states are (N, B, C): B = (lmax + 1)**2 coefficients of C channels. Linear maps are moved
across rotations and grid transforms wherever no activation stands between, because there are fewer
coefficients than rotated rows of all edges, or than grid points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ase_nnp_scn.first_layer import first_layer
from ase_nnp_scn.neighbors import Neighbors
from ase_nnp_scn.radial import DistanceBasis
from ase_nnp_scn.rotation import degrees
from ase_nnp_scn.sphere import grid

#: Bytes of intermediate values held at once, by device, while no gradient is recorded.
PART_BYTES = {"cpu": 2**25, "cuda": 2**30}


def activate(x: Tensor) -> Tensor:
    """SiLU, in place where no gradient is recorded."""
    return functional.silu(x, inplace=not x.requires_grad)


def parts(x: Tensor, numbers_per_atom: int) -> Iterator[slice]:
    """Yield slices of the atoms in x (N, ...) that bound the memory of what is made of them.

    One slice where a gradient is recorded, which holds everything anyway.
    """
    limit = PART_BYTES.get(x.device.type, PART_BYTES["cuda"]) // (
        x.element_size() * numbers_per_atom
    )

    # With a gradient everything is kept anyway, so parts would save nothing.
    step = max(len(x), 1) if x.requires_grad else max(16, limit)
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))


class DistanceBlock(nn.Module):
    """Features of an edge from its length and its two elements."""

    def __init__(self, elements: int, basis: DistanceBasis, width: int) -> None:
        super().__init__()
        self.distance_expansion = basis
        self.fc1_dist = nn.Linear(basis.size, width)
        self.source_embedding = nn.Embedding(elements, width)
        self.target_embedding = nn.Embedding(elements, width)
        self.fc1_edge_attr = nn.Linear(width, width)

    def forward(self, expanded: Tensor, source_z: Tensor, target_z: Tensor) -> Tensor:
        """Return (N, K, width) from (N, K, G) and the elements of neighbors and centers."""
        total = self.fc1_dist(expanded)
        total = total + self.source_embedding(source_z) + self.target_embedding(target_z)[:, None]
        return activate(self.fc1_edge_attr(activate(total)))


class MessageBlock(nn.Module):
    """Messages of one resolution, summed over the neighbors of each atom.

    Both ends of an edge are rotated into the edge's frame, pass a small network there for each tap,
    and the result is rotated back. The first layer acts on atoms before the rotation: an atom has
    2l + 1 coefficients of degree l, but three rows for each edge it belongs to.
    """

    def __init__(self, lmax: int, mmax: int, channels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.channels, self.hidden = channels, hidden
        self.degrees = degrees(lmax, mmax)
        self._kept: tuple[Tensor, tuple[int, int], tuple[list[Tensor], list[Tensor]]] | None = None
        self.rows = self.degrees[-1].rows.stop
        self.fc1_dist = nn.Linear(width, hidden)
        self.fc1_edge_proj = nn.Linear(2 * self.rows * channels, hidden)
        self.fc1_edge = nn.Linear(hidden, hidden)
        self.fc2_edge = nn.Linear(hidden, self.rows * channels)

    def forward(self, x: Tensor, edge: Tensor, near: Neighbors) -> Tensor:
        """Return summed messages (N, (lmax + 1)**2, C) from x (N, B, C) and edges (N, K, W)."""
        atoms, width = near.source.shape
        if width == 0:
            return x.new_zeros(atoms, self.degrees[-1].block.stop, self.channels)
        if self.training and self._simple(x, near):
            h = first_layer(x, self.fc1_edge_proj.weight, self.degrees, near)
            return self._messages(h + self.fc1_edge_proj.bias, edge, near.back)
        hidden, taps = self.hidden, near.rows.shape[1] // width
        source, target = self._weights(x.shape[1])

        # One row more than slots: the padding of the table by source ends there.
        inputs = x.new_zeros(atoms * width + 1, taps * hidden)
        entries = self.degrees[-1].entries
        size = (near.source_rows.shape[1] + entries.stop - entries.start) * hidden
        for part in parts(x, size):
            start = x.new_zeros(part.stop - part.start, near.source_rows.shape[1], hidden)
            projected = self._project(x[part], source, near.source_rows[part], start)
            flat = near.source_slot[part].reshape(-1)
            inputs.index_copy_(0, flat, projected.view(len(flat), -1))

        size = width * taps * (3 * hidden + self.rows * self.channels)
        summed = []
        for part in parts(x, size):
            start = inputs[part.start * width : part.stop * width].view(-1, width * taps, hidden)
            start = start + self.fc1_edge_proj.bias
            h = self._project(x[part], target, near.rows[part], start)
            summed.append(self._messages(h, edge[part], near.back[part]))
        return torch.cat(summed)

    def _simple(self, x: Tensor, near: Neighbors) -> bool:
        """Whether the written derivative of the first layer holds: one precision, fixed frames."""
        weight = self.fc1_edge_proj.weight
        same = x.dtype == weight.dtype == near.rows.dtype
        mixed = torch.is_autocast_enabled(x.device.type)
        return weight.requires_grad and same and not mixed and not near.rows.requires_grad

    def _weights(self, coefficients: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the first layer's weights (C, rows * H) by degree, for sources and for targets.

        One product then serves all rows of a degree. Initial states have degree 0 only. Frozen
        weights are rearranged once; the copy is dropped when they are changed or moved.
        """
        weight = self.fc1_edge_proj.weight
        frozen = isinstance(weight, nn.Parameter) and not weight.requires_grad
        if frozen and self._kept is not None:
            old, version, kept = self._kept
            same = old.data_ptr() == weight.data_ptr() and old.dtype == weight.dtype
            if same and version == (weight._version, coefficients):
                return kept

        used = [d.rows for d in self.degrees if d.block.start < coefficients]
        # The derivative of one split is one array; many slices would fill and add an array each.
        pieces = weight.split(self.channels, dim=1)
        source, target = (
            [torch.cat(end[rows]).T for rows in used]
            for end in (pieces[: self.rows], pieces[self.rows :])
        )

        self._kept = None
        if frozen:
            source, target = ([w.contiguous() for w in end] for end in (source, target))
            # Holding the old weight keeps its address from being given to another.
            self._kept = (weight.detach(), (weight._version, coefficients), (source, target))
        return source, target

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def _project(self, x: Tensor, weights: list[Tensor], rows: Tensor, total: Tensor) -> Tensor:
        """Add the rotated and projected coefficients of atoms to ``total`` (n, slots, H)."""
        used = self.degrees[: len(weights)]
        blocks = _split(x, 1, [d.block for d in used])
        turns = _split(rows, 2, [d.entries for d in used])
        for block, turn, weight in zip(blocks, turns, weights, strict=True):
            projected = block.reshape(-1, self.channels).mm(weight)
            total = _add_product(total, turn, projected.view(len(x), turn.shape[2], self.hidden))
        return total

    def _messages(self, h: Tensor, edge: Tensor, back: Tensor) -> Tensor:
        """Return summed messages (n, B, C) from the first layer's output (n, K * T, H)."""
        atoms, width = edge.shape[:2]
        gate = activate(self.fc1_dist(edge))

        # Taps (rotations about the edge by quarters) share the gate of their edge.
        h = (activate(h).view(atoms, width, -1, self.hidden) * gate[:, :, None]).flatten(1, 2)
        h = activate(self.fc2_edge(activate(self.fc1_edge(h))))
        message = h.view(atoms, -1, self.channels)
        return torch.bmm(back.transpose(1, 2), message)


def _split(x: Tensor, dim: int, pieces: list[slice]) -> tuple[Tensor, ...]:
    """Cut adjoining pieces from the start of an axis; what follows them is left out."""
    sizes = [piece.stop - piece.start for piece in pieces]
    pieces_and_rest: tuple[Tensor, ...] = x.split([*sizes, x.shape[dim] - sum(sizes)], dim)
    return pieces_and_rest[:-1]


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return ``total + a @ b``, in place where types allow (autocast mixes them)."""
    if total.dtype == a.dtype == b.dtype:
        return total.baddbmm_(a, b)
    return total + torch.bmm(a, b)


class GridBlock(nn.Module):
    """A pointwise network on the sphere, between node states and their summed messages.

    Band k of the input is the state without its k highest degrees. The first and last linear layers
    act on coefficients, of which there are fewer than grid points.
    """

    to_grid: Tensor
    from_grid: Tensor

    def __init__(self, lmax: int, bands: int, channels: int) -> None:
        super().__init__()
        self.lmax, self.bands, self.channels = lmax, bands, channels
        to_grid, from_grid = grid(lmax)
        self.register_buffer("to_grid", to_grid, persistent=False)
        self.register_buffer("from_grid", from_grid, persistent=False)

    def forward(
        self, x: Tensor, message: Tensor, fc1: nn.Linear, fc2: nn.Linear, fc3: nn.Linear
    ) -> Tensor:
        """Return new coefficients (N, B, C) from states and messages of that shape."""
        # The layer acts on values at points, which is linear: on coefficients it is the same and
        # far smaller.
        weight = fc1.weight.view(-1, 2, self.bands, self.channels)
        x = functional.pad(x, (0, 0, 0, message.shape[1] - x.shape[1]))
        both = torch.cat([x, message], dim=2)
        size = self.to_grid.shape[0] * (fc1.out_features + fc2.out_features)
        results = []
        for part in parts(both, size):
            values = self.to_grid @ self._first(both[part], weight, fc1.bias)
            values = activate(fc2(activate(values)))
            result = functional.linear(self.from_grid @ values, fc3.weight)
            results.append(_add_constant(result, fc3.bias))
        return torch.cat(results)

    def _first(self, both: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply the first layer to coefficients: degree l is part of the bands 0 .. lmax - l."""
        results, start = [], 0
        for bands in range(self.bands, 0, -1):
            stop = max((self.lmax - bands + 2) ** 2, start)

            # Bands share coefficients, so their weights add up before the product.
            total = weight[:, :, :bands].sum(2).flatten(1)
            results.append(functional.linear(both[:, start:stop], total))
            start = stop
        return _add_constant(torch.cat(results, dim=1), bias)


def _add_constant(x: Tensor, constant: Tensor) -> Tensor:
    """Add a constant function on the sphere to coefficients (N, B, C); Y_00 is 1 / sqrt(4 pi)."""
    x[:, 0] += math.sqrt(4 * math.pi) * constant
    return x


class EdgeBlock(nn.Module):
    """One layer: messages of all resolutions, then the update of the node states."""

    def __init__(
        self,
        *,
        degrees: list[int],
        mmax: int,
        channels: int,
        reduced: int,
        hidden: int,
        elements: int,
        basis: DistanceBasis,
        width: int,
        bands: int,
        use_grid: bool,
    ) -> None:
        super().__init__()
        self.distance_expansion = basis
        self.dist_block = DistanceBlock(elements, basis, width)
        self.message_blocks = nn.ModuleList(
            MessageBlock(lmax, mmax, reduced, hidden if r == 0 else hidden // 4, width)
            for r, lmax in enumerate(degrees)
        )

        self.use_grid, self.resize = use_grid, channels != reduced
        if self.resize:
            self.downsample = nn.Linear(channels, reduced, bias=False)
            self.upsample = nn.Linear(reduced, channels, bias=False)

        if use_grid:
            self.fc1_sphere = nn.Linear(2 * bands * reduced, 2 * bands * reduced)
            self.fc2_sphere = nn.Linear(2 * bands * reduced, 2 * reduced)
            self.fc3_sphere = nn.Linear(2 * reduced, reduced)

    def forward(
        self,
        x: Tensor,
        atomic_numbers: Tensor,
        expanded: list[Tensor],
        near: list[Neighbors],
        update: GridBlock,
    ) -> Tensor:
        """Return the change (N, B, C) of the states x, which may lack the higher degrees.

        ``expanded`` and ``near`` are lists over the resolutions.
        """
        if self.resize:
            x = self.downsample(x)
        total = x.new_zeros(len(x), update.to_grid.shape[1], x.shape[2])
        for block, lengths, neighbors in zip(self.message_blocks, expanded, near, strict=True):
            edge = self.dist_block(lengths, atomic_numbers[neighbors.source], atomic_numbers)
            message = block(x, edge, neighbors)
            missing = total.shape[1] - message.shape[1]
            total = total + functional.pad(message, (0, 0, 0, missing))
        if self.use_grid:
            total = update(x, total, self.fc1_sphere, self.fc2_sphere, self.fc3_sphere)
        return self.upsample(total) if self.resize else total
