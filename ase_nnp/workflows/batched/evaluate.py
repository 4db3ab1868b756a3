"""Energies and forces of a moving batch: neighbour lists with a skin, and batches that pay.

A list that reaches one skin beyond the cutoff stays complete until an atom has moved half the
skin; edges beyond the cutoff are dropped at every step, so that the model sees exactly the graph
that a fresh search would give, in the same order. Models that build a graph of their own get it
from :meth:`~ase_nnp.Potential.make_graph` at every step instead.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ase_nnp.errors import ConfigError, PredictionError, StructureError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.workflows.batched.chunks import Choice, Chunk, Slot
from ase_nnp.workflows.batched.state import Array, Batch, Segments

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["SKIN", "Evaluator", "Found"]

#: Angstrom beyond the cutoff that a neighbour list reaches.
SKIN = 0.8
#: Edges that a batch may hold, tried on a CPU beside one structure at a time.
TRIED_BUDGETS = (20_000, 100_000)
#: What one call may hold on a GPU at first (halved when memory runs out), and how many atoms move
#: at a time.
GPU_EDGES = 1_000_000
GPU_ATOMS = 50_000
CPU_ATOMS = 10_000
#: Edges an atom is thought to have where no list tells.
GUESSED_EDGES = 50


@dataclass
class Found:
    """What the model says of a batch: arrays as in :class:`Batch`, and who failed and why."""

    energy: Array  # (B,) eV, NaN where failed
    forces: Array  # (N, 3) eV/Angstrom
    stress: Array | None  # (B, 3, 3) eV/Angstrom^3
    extra: dict[str, Array] = field(default_factory=dict)  # (N, ...) or (B, ...)
    failed: dict[int, str] = field(default_factory=dict)  # place in the batch: reason

    def keep(self, mask: Array, segments: Segments) -> Found:
        """Return the results of the structures where ``mask`` is true, which are sound."""
        rows = mask[segments.owner]
        return Found(
            self.energy[mask],
            self.forces[rows],
            None if self.stress is None else self.stress[mask],
            {k: v[rows if len(v) == segments.rows else mask] for k, v in self.extra.items()},
        )


class Evaluator:
    """A model for batches whose structures move a little from call to call.

    Parameters
    ----------
    model
        In evaluation mode already.
    properties
        Beside energy and forces: ``"stress"``, or what a monitor watches.
    skin
        Angstrom; does not change results.
    batch
        ``"auto"`` measures on a CPU; ``"loop"`` takes one structure at a time; a number is the
        budget of edges.
    max_edges, max_atoms
        What one call of the model may hold; ``max_atoms`` also limits how many move together.
    """

    def __init__(
        self,
        model: Potential,
        properties: Sequence[str] = (),
        *,
        skin: float = SKIN,
        batch: str | int = "auto",
        max_edges: int | None = None,
        max_atoms: int | None = None,
    ) -> None:
        if not skin >= 0:
            raise ConfigError(f"skin = {skin}: a length in Angstrom, zero or more.")
        if batch not in ("auto", "loop") and not (isinstance(batch, int) and batch > 0):
            raise ConfigError(f"batch = {batch!r}: 'auto', 'loop' or a number of edges.")
        self.model, self.skin = model, float(skin)
        self.properties = ("energy", "forces", *properties)
        missing = [p for p in self.properties if p not in model.outputs]
        if missing:
            name = model.family or type(model).__name__
            raise ConfigError(
                f"'{name}' does not give {', '.join(missing)}. It gives: "
                f"{', '.join(model.outputs)}."
            )
        on_cpu = model.device.type == "cpu"
        self.max_edges = max_edges or (max(TRIED_BUDGETS) if on_cpu else GPU_EDGES)
        self.max_atoms = max_atoms or (CPU_ATOMS if on_cpu else GPU_ATOMS)
        if batch == "loop":
            options = [0]
        elif isinstance(batch, int):
            options = [batch]
        elif on_cpu:
            options = [0, *sorted({min(b, self.max_edges) for b in TRIED_BUDGETS})]
        else:
            options = [self.max_edges]
        self.choice = Choice(options)
        self.cutoff = float(model.cutoff)
        builder: Potential = model
        while isinstance(builder, UncertainPotential):
            builder = builder.base
        self.plain = type(builder).make_graph is Potential.make_graph
        self.calls = 0  # of the model
        self.searches = 0  # of neighbours
        self._index = np.zeros(0, dtype=np.int64)
        self._slots: dict[int, Slot] = {}
        self._chunks: dict[int, list[Chunk]] = {}
        self._atoms: dict[int, int] = {}
        self._seen_positions = np.zeros((0, 3))
        self._seen_cell = np.zeros((0, 3, 3))

    def check(self, atoms: Atoms) -> None:
        """Refuse a structure that the model cannot answer for."""
        self.model.check_elements([atoms])
        if "stress" in self.properties and not (atoms.cell.rank == 3 and atoms.pbc.any()):
            raise StructureError("A cell that moves must have a volume and be periodic.")

    def __call__(self, batch: Batch) -> Found:
        """Return what the model says of the batch as it is now."""
        atoms, count = batch.segments.rows, len(batch)
        stress = np.full((count, 3, 3), np.nan) if "stress" in self.properties else None
        found = Found(np.full(count, np.nan), np.full((atoms, 3), np.nan), stress)
        self._search(batch, found.failed)
        chunks = self._divided(batch, found.failed)
        measured = self.choice.measuring and count > 1
        began = time.thread_time()  # this thread's own, so that other processes do not count
        for chunk in chunks:
            self._run(chunk, batch, found)
        if measured:
            self.choice.note(time.thread_time() - began, count)
        self._judge(batch, found)
        return found

    def _search(self, batch: Batch, failed: dict[int, str]) -> None:
        """Find neighbours anew where a list is missing or may have become incomplete."""
        if not np.array_equal(batch.index, self._index):
            self._follow(batch)
        finite = np.isfinite(batch.segments.max(np.abs(batch.positions).max(axis=1)))
        finite &= np.isfinite(batch.cell).all(axis=(1, 2))
        for k in np.flatnonzero(~finite).tolist():
            failed[k] = "positions are not finite"
        if not self.plain:
            return
        stale = finite & self._stale(batch)
        known = np.array([int(i) in self._slots for i in batch.index], dtype=bool)
        for k in np.flatnonzero(stale | (finite & ~known)).tolist():
            self._chunks.clear()
            try:
                self._slots[int(batch.index[k])] = self._slot(batch.snapshot(k))
            except StructureError as error:
                failed[k] = str(error)
                continue
            rows = batch.segments.slice(k)
            self._seen_positions[rows] = batch.positions[rows]
            self._seen_cell[k] = batch.cell[k]

    def _follow(self, batch: Batch) -> None:
        """Adopt the membership of the batch."""
        self._chunks.clear()
        here = set(batch.index.tolist())
        places = {int(i): k for k, i in enumerate(self._index)}
        old = Segments([self._atoms[int(i)] for i in self._index]) if len(self._index) else None
        positions, cell = batch.positions.copy(), batch.cell.copy()
        for k, i in enumerate(batch.index.tolist()):
            if i in self._slots and old is not None and i in places:
                positions[batch.segments.slice(k)] = self._seen_positions[old.slice(places[i])]
                cell[k] = self._seen_cell[places[i]]
        self._slots = {i: slot for i, slot in self._slots.items() if i in here}
        self._seen_positions, self._seen_cell = positions, cell
        self._index = batch.index.copy()
        self._atoms = dict(zip(batch.index.tolist(), batch.segments.sizes.tolist(), strict=True))

    def _stale(self, batch: Batch) -> Array:
        """Whether a pair outside its list may have come within the cutoff, (B,) bool.

        A pair outside was at least cutoff + skin apart. The cell's deformation shortens that by
        its smallest singular value at most, and each atom's own movement by its length.
        """
        reference = self._seen_positions
        shrink: Array = np.ones(len(batch))
        changed = (batch.cell != self._seen_cell).any(axis=(1, 2))
        if changed.any():
            deformation = np.tile(np.eye(3), (len(batch), 1, 1))
            for k in np.flatnonzero(changed).tolist():
                deformation[k] = np.linalg.solve(
                    _completed(self._seen_cell[k]), _completed(batch.cell[k])
                )
            shrink = np.linalg.svd(deformation, compute_uv=False)[:, -1]
            reference = np.einsum("nc,ncd->nd", reference, deformation[batch.segments.owner])
        far = batch.segments.longest(batch.positions - reference)
        return np.asarray(shrink * (self.cutoff + self.skin) - 2 * far < self.cutoff)

    def _slot(self, atoms: Atoms) -> Slot:
        self.searches += 1
        options = dict(self.model.graph_options)
        graph = AtomGraph.from_atoms(
            atoms,
            self.cutoff + self.skin,
            None,
            dtype=torch.float64,
            device=self.model.device,
            **options,
        )
        home = None
        if options.get("wrap"):
            given = torch.from_numpy(np.array(atoms.positions)).to(graph.positions.device)
            cell = torch.from_numpy(_completed(np.array(atoms.cell))).to(given.device)
            folded = torch.linalg.solve(cell.T, (graph.positions - given).T).T.round()
            home = folded if bool(folded.any()) else None
        return Slot(graph, home)

    def _divided(self, batch: Batch, failed: dict[int, str]) -> list[Chunk]:
        """Return consecutive structures in chunks within the budget."""
        budget = self.choice.budget
        if self.model.device.type != "cpu":
            budget = min(budget, self.max_edges)
        if budget in self._chunks and not failed:
            return self._chunks[budget]
        chunks: list[Chunk] = []
        sizes = self._sizes(batch)
        groups: list[list[int]] = []
        edges = atoms = 0
        for k in range(len(batch)):
            if k in failed:
                groups.append([])
                continue
            full = edges + sizes[k] > budget or atoms + batch.segments.sizes[k] > self.max_atoms
            if not groups or not groups[-1] or full:
                groups.append([])
                edges = atoms = 0
            groups[-1].append(k)
            edges, atoms = edges + int(sizes[k]), atoms + int(batch.segments.sizes[k])
        for group in groups:
            if group:
                slots = [self._slots[int(batch.index[k])] for k in group] if self.plain else []
                chunks.append(Chunk(range(group[0], group[-1] + 1), slots))
        if not failed:
            self._chunks[budget] = chunks
        return chunks

    def _sizes(self, batch: Batch) -> Array:
        """Edges of each structure, those of the skin left out by volume."""
        if not self.plain:
            return batch.segments.sizes * GUESSED_EDGES
        share = (self.cutoff / (self.cutoff + self.skin)) ** 3
        return np.array(
            [
                self._slots[int(i)].graph.num_edges * share if int(i) in self._slots else 0
                for i in batch.index
            ]
        )

    def _run(self, chunk: Chunk, batch: Batch, found: Found) -> None:
        """Evaluate one chunk; if it fails, its members one by one, to find whose fault it is."""
        try:
            self._put(chunk, batch, found)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(chunk.members) == 1:
                found.failed[chunk.members.start] = "too large for the memory of the device"
                return
            half = max(1, self._sizes(batch)[list(chunk.members)].sum() / 2)
            self.max_edges = int(min(self.max_edges, half))
            self._chunks.clear()
            middle = chunk.members.start + len(chunk.members) // 2
            for part in (
                range(chunk.members.start, middle),
                range(middle, chunk.members.stop),
            ):
                self._run(self._part(part, batch), batch, found)
        except Exception as error:  # a model is a plugin and may raise anything
            if len(chunk.members) == 1:
                found.failed[chunk.members.start] = f"{type(error).__name__}: {error}"
                return
            for k in chunk.members:
                self._run(self._part(range(k, k + 1), batch), batch, found)

    def _part(self, members: range, batch: Batch) -> Chunk:
        slots = [self._slots[int(batch.index[k])] for k in members] if self.plain else []
        return Chunk(members, slots)

    def _put(self, chunk: Chunk, batch: Batch, found: Found) -> None:
        first, last = chunk.members.start, chunk.members.stop
        start = int(batch.segments.starts[first])
        rows = slice(start, int(batch.segments.starts[last - 1] + batch.segments.sizes[last - 1]))
        model = self.model
        if self.plain:
            device = model.device
            graph = chunk.graph(
                torch.from_numpy(batch.positions[rows]).to(device),
                torch.from_numpy(batch.cell[first:last]).to(device),
                self.cutoff,
                model.max_neighbors,
            ).to(dtype=model.dtype)
        else:
            graph = model.make_graph([batch.snapshot(k) for k in chunk.members])
        self.calls += 1
        with torch.no_grad():
            output = model.compute(graph, self.properties)
        missing = [p for p in self.properties if p not in output]
        if missing:
            raise PredictionError(
                f"{type(model).__name__} declares {', '.join(missing)} and did not return it."
            )
        for name in self.properties:
            value = output[name].detach().double().cpu().numpy()
            per_atom = name in model.per_atom
            if len(value) != (rows.stop - rows.start if per_atom else last - first):
                raise PredictionError(f"'{name}' has shape {value.shape}: not one row each.")
            place: slice = rows if per_atom else slice(first, last)
            if name in ("energy", "forces", "stress"):
                into = getattr(found, name)
            else:
                length = batch.segments.rows if per_atom else len(batch)
                into = found.extra.setdefault(name, np.zeros((length, *value.shape[1:])))
            into[place] = value

    def _judge(self, batch: Batch, found: Found) -> None:
        """Fail every structure whose answer is not finite."""
        sound = np.isfinite(found.energy)
        sound &= np.isfinite(batch.segments.max(np.abs(found.forces).max(axis=1)))
        if found.stress is not None:
            sound &= np.isfinite(found.stress).all(axis=(1, 2))
        for k in np.flatnonzero(~sound).tolist():
            found.failed.setdefault(k, "the model's energy, forces or stress are not finite")


def _completed(cell: Array) -> Array:
    """Return a cell of full rank: missing vectors are made up."""
    if np.linalg.matrix_rank(cell) == 3:
        return cell
    from ase.geometry import complete_cell

    return np.asarray(complete_cell(cell), dtype=np.float64)
