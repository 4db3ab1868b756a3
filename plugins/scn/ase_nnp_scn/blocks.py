"""The layers of SCN (arXiv:2206.14331, Sec. 3), under the parameter names of published weights.

Node states are (N, B, C): B = (lmax + 1)**2 coefficients of C channels. Linear maps are moved
across rotations and grid transforms wherever no activation stands between, because there are fewer
coefficients than rotated rows of all edges, or than grid points.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from ase_nnp_scn.neighbors import Neighbors
from ase_nnp_scn.radial import DistanceBasis
from ase_nnp_scn.rotation import WignerRows
from ase_nnp_scn.sphere import grid

#: Bytes of intermediate values held at once while no gradient is recorded.
PART_BYTES = 64 * 2**20


def activate(x: Tensor) -> Tensor:
    """SiLU, in place where no gradient is recorded."""
    return functional.silu(x, inplace=not x.requires_grad)


def parts(atoms: int, numbers_per_atom: int, whole: bool) -> Iterator[slice]:
    """Yield slices of atoms that bound memory; one slice where gradients hold all of it anyway."""
    step = max(atoms, 1) if whole else max(16, PART_BYTES // (4 * numbers_per_atom))
    for start in range(0, atoms, step):
        yield slice(start, min(start + step, atoms))


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
        """Return (N, K, width) from (N, K, G), the elements (N, K) of neighbours and (N,) of centres."""
        total = self.fc1_dist(expanded)
        total = total + self.source_embedding(source_z) + self.target_embedding(target_z)[:, None]
        return activate(self.fc1_edge_attr(activate(total)))


class MessageBlock(nn.Module):
    """Messages of one resolution, summed over the neighbours of each atom.

    Both ends of an edge are rotated into the edge's frame, pass a small network there for each tap,
    and the result is rotated back. The first layer acts on atoms before the rotation: an atom has
    2l + 1 coefficients of degree l, but three rows for each edge it belongs to.
    """

    def __init__(self, lmax: int, mmax: int, channels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.channels, self.lmax = channels, lmax
        self.rows = WignerRows.slices(lmax, mmax)
        self.fc1_dist = nn.Linear(width, hidden)
        self.fc1_edge_proj = nn.Linear(2 * len(self.rows) * channels, hidden)
        self.fc1_edge = nn.Linear(hidden, hidden)
        self.fc2_edge = nn.Linear(hidden, len(self.rows) * channels)

    def forward(self, x: Tensor, edge: Tensor, near: Neighbors) -> Tensor:
        """Return summed messages (N, (lmax + 1)**2, C) from x (N, B, C) and edge features (N, K, W)."""
        atoms, width = near.source.shape
        hidden, taps = self.fc1_edge.in_features, near.rows.shape[1] // max(width, 1)
        count = (self.lmax + 1) ** 2
        if width == 0:
            return x.new_zeros(atoms, count, self.channels)
        whole = x.requires_grad
        weight = self.fc1_edge_proj.weight.view(hidden, 2, len(self.rows), self.channels)

        # One row more than slots: the padding of the table by source ends there.
        inputs = x.new_zeros(atoms * width + 1, taps * hidden)
        size = near.source_slot.shape[1] * taps * hidden
        for part in parts(atoms, size, whole):
            start = inputs.new_zeros(part.stop - part.start, size // hidden, hidden)
            from_source = self._project(x[part], weight[:, 0], near.source_rows[part], start)
            flat = near.source_slot[part].reshape(-1)
            inputs.index_copy_(0, flat, from_source.view(len(flat), -1))

        size = width * taps * (3 * hidden + len(self.rows) * self.channels)
        summed = [
            self._messages(x[part], weight[:, 1], inputs, part, edge[part], near.rows[part])
            for part in parts(atoms, size, whole)
        ]
        return torch.cat(summed)

    def _project(self, x: Tensor, weight: Tensor, rows: Tensor, total: Tensor) -> Tensor:
        """Add the rotated and projected coefficients of atoms to ``total`` (n, slots, H)."""
        for number, (_, entries, block) in enumerate(self.rows):
            projected = functional.linear(x[:, block], weight[:, number])
            total = _add_product(total, rows[:, :, entries], projected)
        return total

    def _messages(
        self, x: Tensor, weight: Tensor, inputs: Tensor, part: slice, edge: Tensor, rows: Tensor
    ) -> Tensor:
        atoms, width = edge.shape[:2]
        hidden = self.fc1_edge.in_features
        taps = inputs.shape[1] // hidden
        start = inputs[part.start * width : part.stop * width].view(atoms, width * taps, hidden)
        h = self._project(x, weight, rows, start + self.fc1_edge_proj.bias)
        gate = activate(self.fc1_dist(edge))
        h = (activate(h).view(atoms, width, taps, hidden) * gate[:, :, None]).flatten(1, 2)
        h = activate(self.fc2_edge(activate(self.fc1_edge(h))))
        message = h.view(atoms, width * taps, len(self.rows), self.channels)

        # Back with the transposed rows of the tap's own frame: the published combination of taps.
        degrees: dict[int, Tensor] = {}
        for number, (degree, entries, _) in enumerate(self.rows):
            back = rows[:, :, entries].transpose(1, 2)
            if degree in degrees:
                degrees[degree] = _add_product(degrees[degree], back, message[:, :, number])
            else:
                degrees[degree] = torch.bmm(back, message[:, :, number])
        result = torch.cat(list(degrees.values()), dim=1)
        return result / taps if taps > 1 else result


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
        weight = fc1.weight.view(-1, 2, self.bands, self.channels)
        both = torch.cat([x, message], dim=2)
        size = self.to_grid.shape[0] * (fc1.out_features + fc2.out_features)
        results = []
        for part in parts(len(x), size, both.requires_grad):
            values = self.to_grid @ self._first(both[part], weight) + fc1.bias
            values = activate(fc2(activate(values)))
            result = functional.linear(self.from_grid @ values, fc3.weight)
            results.append(result + self.from_grid.sum(1)[:, None] * fc3.bias)
        return torch.cat(results)

    def _first(self, both: Tensor, weight: Tensor) -> Tensor:
        """Apply the first layer to coefficients: degree l is part of the bands 0 .. lmax - l."""
        results, start = [], 0
        for bands in range(self.bands, 0, -1):
            stop = max((self.lmax - bands + 2) ** 2, start)
            total = weight[:, :, :bands].sum(2).flatten(1)
            results.append(functional.linear(both[:, start:stop], total))
            start = stop
        return torch.cat(results, dim=1)


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
        """Return the change of the states x (N, B, C); ``expanded`` and ``near`` by resolution."""
        if self.resize:
            x = self.downsample(x)
        total = torch.zeros_like(x)
        for block, lengths, neighbors in zip(self.message_blocks, expanded, near, strict=True):
            edge = self.dist_block(lengths, atomic_numbers[neighbors.source], atomic_numbers)
            message = block(x, edge, neighbors)
            missing = x.shape[1] - message.shape[1]
            total = total + functional.pad(message, (0, 0, 0, missing))
        if self.use_grid:
            total = update(x, total, self.fc1_sphere, self.fc2_sphere, self.fc3_sphere)
        return self.upsample(total) if self.resize else total
