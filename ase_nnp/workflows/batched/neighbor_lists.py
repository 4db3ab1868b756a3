"""Neighbor lists of a moving batch, with a skin, searched again only when they must be."""

from __future__ import annotations

import numpy as np

from ase_nnp.errors import StructureError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.kept_edges import search_with_skin, stale
from ase_nnp.models.potential import Potential
from ase_nnp.workflows.batched.state import Array, Batch, Segments

__all__ = ["NeighborLists"]


class NeighborLists:
    """The candidate edges of every structure of a batch.

    Parameters
    ----------
    model
        Gives cutoff, device and how graphs are made.
    skin
        Angstrom beyond the cutoff.
    """

    def __init__(self, model: Potential, skin: float) -> None:
        self.model, self.skin, self.cutoff = model, skin, float(model.cutoff)
        self.searches = 0
        self.caches: dict[int, AtomGraph] = {}  # by index in the input
        self._index = np.zeros(0, dtype=np.int64)
        self._sizes: dict[int, int] = {}
        # Where the structures were when they were searched.
        self._positions = np.zeros((0, 3))
        self._cell = np.zeros((0, 3, 3))

    def update(self, batch: Batch, failed: dict[int, str]) -> bool:
        """Search where a list is missing or may have become incomplete; notes in ``failed`` who.

        Returns
        -------
        bool
            Whether any list is another than at the last call.
        """
        joined = not np.array_equal(batch.index, self._index)
        if joined:
            self._follow(batch)

        known = np.array([int(i) in self.caches for i in batch.index], dtype=bool)

        # Each structure for itself: one that moves fast must not make the others search.
        searched = self._stale(batch) | ~known
        searched[list(failed)] = False
        for k in np.flatnonzero(searched).tolist():
            try:
                found = search_with_skin(self.model, batch.snapshot(k), self.skin)
            except StructureError as error:
                failed[k] = str(error)
                continue
            finally:
                self.searches += 1
            self.caches[int(batch.index[k])] = found
            rows = batch.segments.slice(k)
            self._positions[rows] = batch.positions[rows]
            self._cell[k] = batch.cell[k]
        return joined or bool(searched.any())

    def _follow(self, batch: Batch) -> None:
        """Adopt the membership of the batch."""
        here = set(batch.index.tolist())
        places = {int(i): k for k, i in enumerate(self._index)}
        old = Segments([self._sizes[int(i)] for i in self._index]) if len(self._index) else None

        positions, cell = batch.positions.copy(), batch.cell.copy()
        for k, i in enumerate(batch.index.tolist()):
            if i in self.caches and old is not None and i in places:
                positions[batch.segments.slice(k)] = self._positions[old.slice(places[i])]
                cell[k] = self._cell[places[i]]

        self.caches = {i: cache for i, cache in self.caches.items() if i in here}
        self._positions, self._cell = positions, cell
        self._index = batch.index.copy()
        self._sizes = dict(zip(batch.index.tolist(), batch.segments.sizes.tolist(), strict=True))

    def _stale(self, batch: Batch) -> Array:
        then, now = (self._positions, self._cell), (batch.positions, batch.cell)
        rows = batch.segments.owner, batch.segments.starts
        return stale(then, now, rows, self.cutoff, self.skin)
