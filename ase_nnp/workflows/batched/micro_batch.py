"""Micro-batches: structures that go through the model in one call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.kept_edges import KeptEdges

__all__ = ["MicroBatch"]


class MicroBatch:
    """Neighboring structures of the batch that go through the model together.

    Parameters
    ----------
    members
        Their places in the batch.
    searched
        Their candidate edges, or nothing for models that search in a way of their own.
    wrap
        As :class:`~ase_nnp.models.kept_edges.KeptEdges` has it.
    """

    def __init__(self, members: range, searched: Sequence[AtomGraph], wrap: bool = False) -> None:
        self.members = members
        self.edges = KeptEdges(AtomGraph.collate(list(searched)), wrap) if searched else None

    @property
    def closest(self) -> Tensor | None:
        """Squared distance of the closest pair of the last graph, on the device."""
        return None if self.edges is None else self.edges.closest
