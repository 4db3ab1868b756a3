"""Neighbor lists of a moving batch, with a skin, searched again only when they must be."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ase_nnp.errors import StructureError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.kept_edges import search_with_skin, stale
from ase_nnp.models.potential import Potential
from ase_nnp.workflows.batched.state import Batch

__all__ = ["NeighborLists"]


class NeighborLists:
    """The candidate edges of every structure of a batch.

    Parameters
    ----------
    model
        Gives cutoff, device and how graphs are made.
    skin
        Angstrom beyond the cutoff.
    moving_cell
        Whether cells change; they then have a volume.
    """

    def __init__(self, model: Potential, skin: float, moving_cell: bool) -> None:
        self.model, self.skin, self.cutoff = model, skin, float(model.cutoff)
        self.moving_cell = moving_cell
        self.searches = 0
        self.caches: dict[int, AtomGraph] = {}  # by index in the input
        self._index = np.zeros(0, dtype=np.int64)

    def stale(self, batch: Batch) -> Tensor:
        """Whether a list may have become incomplete, (B,) bool on the device.

        Each structure for itself: one that moves fast must not make the others search.
        """
        then, now = (batch.searched, batch.searched_cell), (batch.positions, batch.cell)
        return stale(then, now, batch.segments, self.cutoff, self.skin, self.moving_cell)

    def update(self, batch: Batch, failed: dict[int, str]) -> bool:
        """Search for those without a complete list; notes in ``failed`` who has none.

        Returns
        -------
        bool
            Whether any list is another than at the last call.
        """
        changed = not np.array_equal(batch.index, self._index)
        if changed:
            here = set(batch.index.tolist())
            self.caches = {i: cache for i, cache in self.caches.items() if i in here}
            self._index = batch.index.copy()
        if not batch.unlisted.any():
            return changed

        host = batch.on_host()
        for k in np.flatnonzero(batch.unlisted).tolist():
            try:
                found = search_with_skin(self.model, host.snapshot(k), self.skin)
            except StructureError as error:
                failed[k] = str(error)
                continue
            finally:
                self.searches += 1
            self.caches[int(batch.index[k])] = found

        rows = batch.segments.rows_of(batch.unlisted)
        places = batch.segments.places(batch.unlisted)
        batch.searched = batch.searched.index_copy(0, rows, batch.positions[rows])
        batch.searched_cell = batch.searched_cell.index_copy(0, places, batch.cell[places])
        batch.unlisted = np.zeros_like(batch.unlisted)
        return True
