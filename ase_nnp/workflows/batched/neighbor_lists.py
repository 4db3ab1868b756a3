"""Neighbor lists of moving structures, with a skin, searched again only when they must be.

A list that reaches one skin beyond the cutoff stays complete until an atom has moved half the
skin; :class:`~ase_nnp.workflows.batched.micro_batch.MicroBatch` drops the edges beyond the cutoff
at every step, so that the model sees exactly the graph that a fresh search would give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ase_nnp.errors import StructureError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.workflows.batched.micro_batch import NeighborCache
from ase_nnp.workflows.batched.state import Array, Batch, Segments

if TYPE_CHECKING:
    from ase import Atoms

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
        self.caches: dict[int, NeighborCache] = {}  # by index in the input
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
                self.caches[int(batch.index[k])] = self._search(batch.snapshot(k))
            except StructureError as error:
                failed[k] = str(error)
                continue
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
        """Whether a pair outside its list may have come within the cutoff, (B,) bool.

        A pair outside was at least cutoff + skin apart. The cell's deformation shortens that by
        its smallest singular value at most, and each atom's own movement by its length.
        """
        reference = self._positions
        shrink: Array = np.ones(len(batch))
        finite = np.isfinite(batch.cell).all(axis=(1, 2))

        # A cell that breathes carries its atoms along, which is no motion within it.
        changed = finite & (batch.cell != self._cell).any(axis=(1, 2))
        if changed.any():
            deformation = np.tile(np.eye(3), (len(batch), 1, 1))
            for k in np.flatnonzero(changed).tolist():
                deformation[k] = np.linalg.solve(completed(self._cell[k]), completed(batch.cell[k]))

            # The smallest singular value: no vector shrinks by more.
            shrink = np.linalg.svd(deformation, compute_uv=False)[:, -1]
            reference = np.einsum("nc,ncd->nd", reference, deformation[batch.segments.owner])

        far = batch.segments.longest(batch.positions - reference)

        # Two atoms may each have moved by `far` towards each other.
        return np.asarray(shrink * (self.cutoff + self.skin) - 2 * far < self.cutoff)

    def _search(self, atoms: Atoms) -> NeighborCache:
        self.searches += 1
        # For the positions as they stand: each step moves them to the origin (`recentered`).
        options = {k: v for k, v in self.model.graph_options.items() if k != "wrap"}
        graph = AtomGraph.from_atoms(
            atoms,
            self.cutoff + self.skin,
            None,
            dtype=torch.float64,
            device=self.model.device,
            inputs=self.model.required_inputs,
            **options,
        )
        return NeighborCache(graph)


def completed(cell: Array) -> Array:
    """Return a cell of full rank: missing vectors are made up."""
    if np.linalg.matrix_rank(cell) == 3:
        return cell
    from ase.geometry import complete_cell

    return np.asarray(complete_cell(cell), dtype=np.float64)
