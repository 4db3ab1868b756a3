"""Neighbor lists with a skin: searched where atoms were, filtered where they are.

A list that reaches one skin beyond the cutoff stays complete until an atom has moved half the skin.
The edges beyond the cutoff are dropped at every step, so that the model sees exactly the graph that
a fresh search would give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import StructureError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.lattice import recentered, wrapped
from ase_nnp.models.neighbors import MIN_DISTANCE, sort_and_cap_edges
from ase_nnp.models.potential import Potential

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["SKIN", "KeptEdges", "KeptList", "search_with_skin", "stale"]

Array = np.ndarray[Any, Any]
SKIN = 0.8  # Angstrom


def search_with_skin(model: Potential, atoms: Atoms, skin: float) -> AtomGraph:
    """Return a structure with all pairs up to one skin beyond the cutoff, in float64."""
    # For the positions as they stand: each step moves them to the origin (`recentered`).
    options = {k: v for k, v in model.graph_options.items() if k != "wrap"}
    return AtomGraph.from_atoms(
        atoms,
        float(model.cutoff) + skin,
        None,
        dtype=torch.float64,
        device=model.device,
        inputs=model.required_inputs,
        **options,
    )


class KeptEdges:
    """Candidate edges of structures where they were when they were searched.

    Parameters
    ----------
    base
        From :func:`search_with_skin`; several are one batch.
    wrap
        Fold atoms into the cell, as the model's own graph does: images are numbered by where atoms
        are, and neighbors at one distance are ranked by them.
    """

    def __init__(self, base: AtomGraph, wrap: bool) -> None:
        self.base, self.wrap = base, wrap
        self.closest: Tensor | None = None  # squared distance of the closest pair, on the device
        self.source, self.target = base.edge_index
        self.shift = base.edge_shift.double()
        self.structure = base.batch[self.target]
        self.moved: Tensor | None = None  # (N, 3) cells that `shift` already counts

        # Positions come from the host, so what is judged there makes no device wait.
        self.pbc, self.batch = base.pbc.cpu(), base.batch.cpu()

    def graph(
        self, positions: Tensor, cell: Tensor, cutoff: float, max_neighbors: int | None
    ) -> AtomGraph:
        """Return the graph, in float64, of structures at positions and cells given on the host."""
        base = self.base
        device = base.positions.device
        positions, moved = self._placed(positions, cell, cutoff)
        if moved is not None and (self.moved is None or not torch.equal(moved, self.moved)):
            change = (moved if self.moved is None else moved - self.moved).to(device)
            shifts = base.edge_shift + change[self.source] - change[self.target]
            base = self.base = base.replace(edge_shift=shifts)
            self.shift, self.moved = shifts.double(), moved

        # One matrix product where there is one cell: the batched form copies it to every edge.
        positions, cell = positions.to(device), cell.to(device)
        if len(cell) == 1:
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

    def _placed(
        self, positions: Tensor, cell: Tensor, cutoff: float
    ) -> tuple[Tensor, Tensor | None]:
        if not self.wrap:
            return recentered(positions, cell, self.pbc, self.batch, cutoff)
        positions, folded = wrapped(positions, cell, self.pbc, self.batch)
        where = positions, cell, self.pbc, self.batch
        positions, moved = recentered(*where, cutoff, fold=False)
        return positions, folded if moved is None else folded + moved

    def check(self, closest: float) -> None:
        """Refuse a squared distance that no two atoms have."""
        if closest < MIN_DISTANCE**2:
            raise StructureError("Two atoms are in the same place.")


class KeptList:
    """The list of one structure that moves a little from call to call.

    Parameters
    ----------
    model
        Whose :attr:`~ase_nnp.Potential.plain_search` is true.
    """

    def __init__(self, model: Potential) -> None:
        self.model, self.searches = model, 0
        self._kept: KeptEdges | None = None
        self._atoms: Atoms | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the list, which is on a device."""
        return {"model": self.model, "searches": self.searches, "_kept": None, "_atoms": None}

    def graph(self, atoms: Atoms) -> AtomGraph:
        """Return the model's graph of a structure."""
        cutoff = float(self.model.cutoff)
        if self._kept is None or self._is_another(atoms):
            self.model.check_elements([atoms])
            self.searches += 1
            found = search_with_skin(self.model, atoms, SKIN)
            self._kept = KeptEdges(found, bool(self.model.graph_options.get("wrap")))
            self._atoms = atoms.copy()

        positions = torch.from_numpy(np.array(atoms.positions, dtype=np.float64))
        cell = torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64))[None]
        pairs = self._kept.graph(positions, cell, cutoff, self.model.max_neighbors)
        return self.model.finish_graph(pairs)

    def check(self) -> None:
        """Refuse the structure of the last graph if two of its atoms are in the same place."""
        if self._kept is not None and self._kept.closest is not None:
            self._kept.check(float(self._kept.closest))

    def _is_another(self, atoms: Atoms) -> bool:
        old = self._atoms
        assert old is not None
        assert self._kept is not None
        if self._kept.base.positions.device != self.model.device:
            return True
        # What is read beside geometry lies in the graph that was searched.
        if self.model.required_inputs or not np.array_equal(atoms.numbers, old.numbers):
            return True
        if not np.array_equal(atoms.pbc, old.pbc) or not np.isfinite(atoms.positions).all():
            return True
        one = np.zeros(len(atoms), dtype=np.int64), np.zeros(1, dtype=np.int64)
        then, now = ((a.positions, a.cell.array[None]) for a in (old, atoms))
        return bool(stale(then, now, one, float(self.model.cutoff), SKIN)[0])


def stale(
    then: tuple[Array, Array],
    now: tuple[Array, Array],
    rows: tuple[Array, Array],
    cutoff: float,
    skin: float,
) -> Array:
    """Whether a pair outside its list may have come within the cutoff, (B,) bool.

    A pair outside was at least cutoff + skin apart. The cell's deformation shortens that by its
    smallest singular value at most, and each atom's own movement by its length.

    Parameters
    ----------
    then, now
        Positions (N, 3) and cells (B, 3, 3) where lists were searched and where atoms are.
    rows
        The structure of each atom (N,), and the first atom of each structure (B,).
    cutoff, skin
        Angstrom.
    """
    (reference, old), (positions, cell), (owner, starts) = then, now, rows
    shrink: Array = np.ones(len(cell))
    finite = np.isfinite(cell).all(axis=(1, 2))

    # A cell that breathes carries its atoms along, which is no motion within it.
    changed = finite & (cell != old).any(axis=(1, 2))
    if changed.any():
        deformation = np.tile(np.eye(3), (len(cell), 1, 1))
        for k in np.flatnonzero(changed).tolist():
            deformation[k] = np.linalg.solve(completed(old[k]), completed(cell[k]))

        # The smallest singular value: no vector shrinks by more.
        shrink = np.linalg.svd(deformation, compute_uv=False)[:, -1]
        reference = np.einsum("nc,ncd->nd", reference, deformation[owner])

    away = positions - reference
    squares = np.einsum("nc,nc->n", away, away)
    far = np.sqrt(np.maximum.reduceat(squares, starts)) if len(cell) else np.zeros(0)

    # Two atoms may each have moved by `far` towards each other.
    return np.asarray(shrink * (cutoff + skin) - 2 * far < cutoff)


def completed(cell: Array) -> Array:
    """Return a cell of full rank: missing vectors are made up."""
    if np.linalg.matrix_rank(cell) == 3:
        return cell
    from ase.geometry import complete_cell

    return np.asarray(complete_cell(cell), dtype=np.float64)
