"""Micro-batches: structures that go through the model in one call."""

from __future__ import annotations

from collections.abc import Sequence

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
    cutoff, wrap
        As :class:`~ase_nnp.models.kept_edges.KeptEdges` has them.
    """

    def __init__(
        self, members: range, searched: Sequence[AtomGraph], cutoff: float, wrap: bool = False
    ) -> None:
        self.members = members
        together = AtomGraph.collate(list(searched)) if searched else None
        self.edges = None if together is None else KeptEdges(together, cutoff, wrap)
