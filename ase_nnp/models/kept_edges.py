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
from ase_nnp.models.lattice import search_cell
from ase_nnp.models.neighbors import MIN_DISTANCE, sort_and_cap_edges
from ase_nnp.models.origins import SPREAD, folded, folded_around, recentered, turned
from ase_nnp.models.potential import Potential
from ase_nnp.models.segments import Segments

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["SKIN", "KeptEdges", "KeptList", "check_closest", "search_with_skin", "stale"]

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

    Nothing here makes the host wait for a device but the number of edges within the cutoff.

    Parameters
    ----------
    base
        From :func:`search_with_skin`; several are one batch.
    cutoff
        Angstrom, of the model.
    wrap
        Fold atoms into the cell, as the model's own graph does: images are numbered by where atoms
        are, and neighbors at one distance are ranked by them.
    """

    def __init__(self, base: AtomGraph, cutoff: float, wrap: bool) -> None:
        self.base, self.cutoff, self.wrap = base, cutoff, wrap
        self.closest: Tensor | None = None  # (B,) squared distance of the closest pairs
        self.source, self.target = base.edge_index
        self.shift = base.edge_shift.double()
        structures = torch.arange(base.num_structures, device=base.batch.device)
        # Atoms and edges of a structure are consecutive.
        self.first = torch.searchsorted(base.batch, structures)
        self.structure = base.batch[self.target]
        bounds = torch.arange(base.num_structures + 1, device=base.batch.device)
        self.bounds = torch.searchsorted(self.structure, bounds)

        self.moved: Tensor | None = None  # (N, 3) cells that `offsets` counts
        self.offsets = base.edge_shift

        # What is read here is read once a search, so that no step has to ask the device.
        self.folds = bool(base.pbc.any())
        if self.folds and wrap:
            self.whole, self.own = _search_cells(base)
        self._close_gaps()

    def _close_gaps(self) -> None:
        """Note what brings parts of a structure nearer that are far from each other.

        Between two searches atoms move by less than the skin, and gaps are as they were.
        """
        self.nearer = self.cut = None
        base = self.base
        if not base.num_atoms:
            return
        placed, _ = self._folded(base.positions, base.cell)
        if float(placed.abs().amax()) <= SPREAD:
            return
        there, cell, pbc, batch = (t.cpu() for t in (placed, base.cell, base.pbc, base.batch))
        nearer, cells = recentered(there, cell, pbc, batch, self.cutoff, fold=False)
        if cells is not None:
            # Both atoms of an edge lie on one side of every gap: this is the same for both, and
            # stays so when the cell changes.
            closed = nearer - there + turned(cells.double(), cell, batch)
            self.nearer, self.cut = closed.to(placed), cells.to(base.positions.device)

    def graph(self, positions: Tensor, cell: Tensor, max_neighbors: int | None) -> AtomGraph:
        """Return the graph, in float64, of structures at positions and cells on the device."""
        base = self.base

        image = turned(self.shift, cell, self.structure)
        at = positions.index_select(0, self.source) - positions.index_select(0, self.target)
        squared = (at + image).square().sum(1)
        near = torch.nonzero(squared <= self.cutoff * self.cutoff)[:, 0]

        placed, moved = self._folded(positions, cell)
        if self.nearer is not None and self.cut is not None:
            placed = placed + self.nearer - turned(self.cut.double(), cell, base.batch)
            moved = self.cut if moved is None else moved + self.cut
        edges = base.edge_index.index_select(1, near)
        shifts = self._offsets(moved).index_select(0, near)

        self.closest = None
        if max_neighbors is not None:
            edges, shifts = sort_and_cap_edges(
                edges, shifts, squared[near].sqrt(), base.num_atoms, max_neighbors
            )
        else:  # judged with the results, which are read once
            self.closest = torch.segment_reduce(squared, "min", offsets=self.bounds, unsafe=True)
        return base.replace(positions=placed, cell=cell, edge_index=edges, edge_shift=shifts)

    def _offsets(self, moved: Tensor | None) -> Tensor:
        """Return the cells of every edge, counting those that atoms were moved by."""
        last = self.moved
        if moved is None:
            return self.offsets
        # Atoms seldom leave a cell. Where looking makes nobody wait, the work is spared.
        if last is not None and moved.device.type == "cpu" and torch.equal(moved, last):
            return self.offsets
        by_source, by_target = (moved.index_select(0, end) for end in (self.source, self.target))
        self.moved, self.offsets = moved, self.base.edge_shift + by_source - by_target
        return self.offsets

    def _folded(self, positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor | None]:
        """Move structures to the origin as :func:`~ase_nnp.models.origins.recentered` does."""
        pbc, batch = self.base.pbc, self.base.batch
        moved = None
        if self.folds and self.wrap:
            whole = torch.where(self.own, cell, self.whole)
            positions, moved = folded(positions, whole, pbc, batch)
        positions = positions - positions[self.first].index_select(0, batch)
        if self.folds and not self.wrap:
            positions, moved = folded_around(positions, cell, pbc, batch)
        return positions, moved


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
            self._kept = KeptEdges(found, cutoff, bool(self.model.graph_options.get("wrap")))
            self._atoms = atoms.copy()

        positions = torch.from_numpy(np.array(atoms.positions, dtype=np.float64))
        cell = torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64))[None]
        where = self.model.device
        pairs = self._kept.graph(positions.to(where), cell.to(where), self.model.max_neighbors)
        return self.model.finish_graph(pairs)

    def check(self) -> None:
        """Refuse the structure of the last graph if two of its atoms are in the same place."""
        if self._kept is not None and self._kept.closest is not None:
            check_closest(float(self._kept.closest))

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

        moved_cell = not np.array_equal(atoms.cell.array, old.cell.array)
        if moved_cell and min(a.cell.rank for a in (atoms, old)) < 3:
            return True  # nothing says how such a cell has deformed
        then, now = (
            (torch.from_numpy(a.positions), torch.from_numpy(a.cell.array)[None])
            for a in (old, atoms)
        )
        one = Segments([len(atoms)])
        return bool(stale(then, now, one, float(self.model.cutoff), SKIN, moved_cell)[0])


def stale(
    then: tuple[Tensor, Tensor],
    now: tuple[Tensor, Tensor],
    segments: Segments,
    cutoff: float,
    skin: float,
    moving_cell: bool,
) -> Tensor:
    """Whether a pair outside its list may have come within the cutoff, (B,) bool.

    A pair outside was at least cutoff + skin apart. The cell's deformation shortens that, and each
    atom's own movement by its length. No vector shrinks by more than the deformation differs from
    none, in the Frobenius norm: a bound below the smallest singular value that needs no
    decomposition, for which the host would wait.

    Parameters
    ----------
    then, now
        Positions (N, 3) and cells (B, 3, 3) where lists were searched and where atoms are.
    segments
        The atoms of each structure.
    cutoff, skin
        Angstrom.
    moving_cell
        Whether the cells differ; they then have a volume.
    """
    (reference, old), (positions, cell) = then, now
    shrink = torch.ones_like(cell[:, 0, 0])
    if moving_cell:
        # A cell that breathes carries its atoms along, which is no motion within it.
        deformation = torch.linalg.solve_ex(old, cell)[0]
        same = torch.eye(3, dtype=cell.dtype, device=cell.device)
        shrink = 1.0 - (deformation - same).square().sum((1, 2)).sqrt()
        carried = segments.spread(deformation)
        reference = (reference[:, :, None] * carried).sum(1)

    # Two atoms may each have moved by `far` towards each other. What is not a number has moved.
    far = segments.longest(positions - reference)
    return ~(shrink * (cutoff + skin) - 2 * far >= cutoff)


def check_closest(squared: float) -> None:
    """Refuse a squared distance that no two atoms have.

    Raises
    ------
    StructureError
        It is below :data:`~ase_nnp.models.neighbors.MIN_DISTANCE`.
    """
    if squared < MIN_DISTANCE**2:
        raise StructureError("Two atoms are in the same place.")


def _search_cells(base: AtomGraph) -> tuple[Tensor, Tensor]:
    """Return cells of three vectors, (B, 3, 3), and which are the structures' own, (B, 3, 1)."""
    cells, pbc = base.cell.cpu().numpy(), base.pbc.cpu().numpy()
    whole = np.array([search_cell(c, p) for c, p in zip(cells, pbc, strict=True)])
    own = (whole == cells).all(axis=2, keepdims=True)
    device = base.cell.device
    return torch.from_numpy(whole).to(device), torch.from_numpy(own).to(device)
