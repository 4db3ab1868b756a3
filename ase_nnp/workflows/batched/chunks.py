"""Structures that go through the model together: their graph, and how many of them pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import StructureError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.neighbors import MIN_DISTANCE, canonical

__all__ = ["Choice", "Chunk", "Slot"]

#: Seconds a structure above which the cost of a call itself no longer matters.
LONG = 0.1


class Choice:
    """Which of several batch sizes is quickest, found by timing each twice.

    On a GPU, or where a caller has chosen, there is nothing to find. Batches save what a call costs
    beside its arithmetic, milliseconds; where one structure takes :data:`LONG`, the loop (option
    0) stands and batches are not tried.
    """

    def __init__(self, options: Sequence[int]) -> None:
        self.options = list(options)
        self.seconds: dict[int, float] = {}
        twice = [option for option in self.options for _ in range(2)]
        self._left = twice if len(self.options) > 1 else []

    @property
    def budget(self) -> int:
        """Edges of a batch; 0 is one structure at a time."""
        if self._left:
            return self._left[0]
        return min(self.options, key=lambda o: self.seconds.get(o, np.inf))

    @property
    def measuring(self) -> bool:
        """Whether the choice is still open."""
        return bool(self._left)

    def note(self, seconds: float, structures: int) -> None:
        """Take what the present option has cost for all structures."""
        option = self._left.pop(0)
        self.seconds[option] = min(seconds, self.seconds.get(option, np.inf))
        if option == 0 and 0 not in self._left and self.seconds[0] > LONG * structures:
            self._left = []


@dataclass
class Slot:
    """A structure's candidate edges and where it was when they were found."""

    graph: AtomGraph
    home: Tensor | None  # (n, 3) cells an atom was folded by


class Chunk:
    """Neighbouring structures of the batch that go through the model together."""

    def __init__(self, members: range, slots: Sequence[Slot]) -> None:
        self.members = members
        self.base = AtomGraph.collate([s.graph for s in slots]) if slots else None
        if self.base is not None:
            source, target = self.base.edge_index
            self.source, self.target = source, target
            self.shift = self.base.edge_shift.double()
            self.structure = self.base.batch[target]
            homes = [s.home for s in slots]
            self.home = None
            if any(h is not None for h in homes):
                counts = [s.graph.num_atoms for s in slots]
                self.home = torch.cat(
                    [
                        torch.zeros((n, 3), dtype=torch.float64, device=source.device)
                        if h is None
                        else h
                        for h, n in zip(homes, counts, strict=True)
                    ]
                )

    def graph(
        self, positions: Tensor, cell: Tensor, cutoff: float, max_neighbors: int | None
    ) -> AtomGraph:
        """Return the graph of the structures where they are now, in float64."""
        base = self.base
        assert base is not None
        one = len(self.members) == 1
        if self.home is not None:
            positions = positions + torch.einsum("nc,ncd->nd", self.home, cell[base.batch])
        image = (
            self.shift @ cell[0]
            if one
            else torch.einsum("ec,ecd->ed", self.shift, cell[self.structure])
        )
        vectors = positions[self.source] + image - positions[self.target]
        squared = vectors.square().sum(1)
        near = torch.nonzero(squared <= cutoff * cutoff)[:, 0]
        edges, shifts = base.edge_index[:, near], base.edge_shift[near]
        if max_neighbors is not None:
            edges, shifts = canonical(
                edges, shifts, squared[near].sqrt(), base.num_atoms, max_neighbors
            )
        elif len(near) and float(squared.amin()) < MIN_DISTANCE**2:
            raise StructureError("Two atoms are in the same place.")
        return base.replace(positions=positions, cell=cell, edge_index=edges, edge_shift=shifts)
