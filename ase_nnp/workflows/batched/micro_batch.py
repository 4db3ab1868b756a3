"""Micro-batches: structures that go through the model in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_nnp.errors import StructureError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.lattice import recentered
from ase_nnp.models.neighbors import MIN_DISTANCE, sort_and_cap_edges

__all__ = ["MicroBatch", "NeighborCache"]


@dataclass
class NeighborCache:
    """A structure's candidate edges where it was when they were searched."""

    graph: AtomGraph


class MicroBatch:
    """Neighboring structures of the batch that go through the model together."""

    def __init__(self, members: range, caches: Sequence[NeighborCache]) -> None:
        self.members = members
        self.base = AtomGraph.collate([cache.graph for cache in caches]) if caches else None
        self.closest: Tensor | None = None  # squared distance of the closest pair, on the device
        if self.base is None:
            return
        source, target = self.base.edge_index
        self.source, self.target = source, target
        self.shift = self.base.edge_shift.double()
        self.structure = self.base.batch[target]
        self.moved: Tensor | None = None  # (N, 3) cells that `shift` already counts

        # Positions come from the host, so what is judged there makes no device wait.
        self.pbc, self.batch = self.base.pbc.cpu(), self.base.batch.cpu()

    def graph(
        self, positions: Tensor, cell: Tensor, cutoff: float, max_neighbors: int | None
    ) -> AtomGraph:
        """Return the graph, in float64, of structures at positions and cells given on the host."""
        base = self.base
        assert base is not None
        device = base.positions.device
        positions, moved = recentered(positions, cell, self.pbc, self.batch, cutoff)
        if moved is not None and (self.moved is None or not torch.equal(moved, self.moved)):
            change = (moved if self.moved is None else moved - self.moved).to(device)
            shifts = base.edge_shift + change[self.source] - change[self.target]
            base = self.base = base.replace(edge_shift=shifts)
            self.shift, self.moved = shifts.double(), moved

        # One matrix product where there is one cell: the batched form copies it to every edge.
        positions, cell = positions.to(device), cell.to(device)
        if len(self.members) == 1:
            image = self.shift @ cell[0]
        else:
            image = torch.einsum("ec,ecd->ed", self.shift, cell[self.structure])
        at = positions.index_select(0, self.source) - positions.index_select(0, self.target)
        squared = (at + image).square().sum(1)
        near = torch.nonzero(squared <= cutoff * cutoff)[:, 0]

        edges, shifts = base.edge_index.index_select(1, near), base.edge_shift.index_select(0, near)
        self.closest = None
        if max_neighbors is not None:
            edges, shifts = sort_and_cap_edges(
                edges, shifts, squared[near].sqrt(), base.num_atoms, max_neighbors
            )
        elif len(near):
            self.closest = squared.amin()  # judged with the results, which are read once
        return base.replace(positions=positions, cell=cell, edge_index=edges, edge_shift=shifts)

    def check(self, closest: float) -> None:
        """Refuse a squared distance that no two atoms have."""
        if closest < MIN_DISTANCE**2:
            raise StructureError("Two atoms are in the same place.")
