"""Energies and forces of a moving batch, in micro-batches of a size that is measured.

Neighbor lists are kept from step to step (:class:`~ase_nnp.workflows.batched.neighbor_lists`), and
results stay on the device. Only models that search in a way of their own are asked for their graph
at every step, for which positions go to the host.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, PredictionError, StructureError
from ase_nnp.models.batch_size import BatchSizeTuner
from ase_nnp.models.kept_edges import check_closest
from ase_nnp.models.modes import usual_default_dtype
from ase_nnp.models.potential import Potential, model_name
from ase_nnp.models.segments import Segments
from ase_nnp.models.structures import warn_of_charge
from ase_nnp.workflows.batched.micro_batch import MicroBatch
from ase_nnp.workflows.batched.neighbor_lists import NeighborLists
from ase_nnp.workflows.batched.settings import RunSettings
from ase_nnp.workflows.batched.state import Array, Batch, read_once

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["BatchResults", "Evaluator"]

#: Edges that a batch may hold, tried on a CPU besides one structure at a time.
TRIED_BUDGETS = (20_000, 100_000)
#: What one call may hold on a GPU at first (halved when memory runs out), and how many atoms move
#: at a time.
GPU_EDGES = 1_000_000
GPU_ATOMS = 50_000
CPU_ATOMS = 10_000
#: Edges an atom is thought to have where no list tells.
GUESSED_EDGES = 50


@dataclass
class BatchResults:
    """What the model says of a batch, in float64 as in :class:`Batch`, and who failed and why."""

    energy: Tensor  # (B,) eV, NaN where failed
    forces: Tensor  # (N, 3) eV/Angstrom
    stress: Tensor | None  # (B, 3, 3) eV/Angstrom^3
    closest: Tensor  # (B,) Angstrom^2 between the closest two atoms, infinite where not known
    extra: dict[str, Tensor] = field(default_factory=dict)  # (N, ...) or (B, ...)
    failed: dict[int, str] = field(default_factory=dict)  # place in the batch: reason

    def keep(self, mask: Array, segments: Segments) -> BatchResults:
        """Return the results of the structures where ``mask`` is true."""
        rows, places = segments.rows_of(mask), segments.places(mask)
        return BatchResults(
            self.energy[places],
            self.forces[rows],
            None if self.stress is None else self.stress[places],
            self.closest[places],
            {k: v[rows if len(v) == segments.rows else places] for k, v in self.extra.items()},
        )

    def on_host(self) -> BatchResults:
        """Return the results where they can be looked at."""
        names = list(self.extra)
        stress = [] if self.stress is None else [self.stress]
        first = [self.energy, self.forces, *stress]
        values = read_once([*first, *self.extra.values()])
        extra = dict(zip(names, values[len(first) :], strict=True))
        return replace(
            self,
            energy=values[0],
            forces=values[1],
            stress=values[2] if stress else None,
            extra=extra,
        )

    def sound(self, segments: Segments) -> Tensor:
        """Whether every number of a structure is finite, (B,) bool."""
        sound = self.energy.isfinite() & segments.max(self.forces.abs()).isfinite()
        if self.stress is not None:
            sound &= self.stress.isfinite().flatten(1).all(1)
        return sound


class Evaluator:
    """A model for batches whose structures move a little from call to call.

    Parameters
    ----------
    model
        In evaluation mode already.
    properties
        Beside energy and forces: ``"stress"``, or what a monitor watches.
    settings
        Of the run: skin, micro-batches and their limits.
    """

    def __init__(
        self,
        model: Potential,
        properties: Sequence[str] = (),
        settings: RunSettings | None = None,
    ) -> None:
        settings = settings or RunSettings()
        self.model = model
        self.properties = ("energy", "forces", *properties)
        missing = [p for p in self.properties if p not in model.outputs]
        if missing:
            raise ConfigError(
                f"'{model_name(model)}' does not give {', '.join(missing)}. It gives: "
                f"{', '.join(model.outputs)}."
            )

        on_cpu = model.device.type == "cpu"
        self.max_edges = settings.max_edges or (max(TRIED_BUDGETS) if on_cpu else GPU_EDGES)
        self.max_atoms = settings.max_atoms or (CPU_ATOMS if on_cpu else GPU_ATOMS)
        if settings.batch == "loop":
            options = [0]
        elif isinstance(settings.batch, int):
            options = [settings.batch]
        elif on_cpu:
            options = [0, *sorted({min(b, self.max_edges) for b in TRIED_BUDGETS})]
        else:
            options = [self.max_edges]
        self.tuner = BatchSizeTuner(options)

        self.neighbors: NeighborLists | None = None
        if model.plain_search:
            moving_cell = "stress" in self.properties
            self.neighbors = NeighborLists(model, settings.skin, moving_cell)
        self.calls = 0  # of the model
        self._divisions: dict[int, list[MicroBatch]] = {}  # by budget

    def check(self, atoms: Atoms) -> None:
        """Refuse a structure that the model cannot answer for."""
        self.model.check_elements([atoms])
        warn_of_charge(atoms, self.model.required_inputs)
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
            raise StructureError("positions are not finite")
        if "stress" in self.properties and not (atoms.cell.rank == 3 and atoms.pbc.any()):
            raise StructureError("A cell that moves must have a volume and be periodic.")

    @usual_default_dtype()
    def __call__(self, batch: Batch) -> BatchResults:
        """Return what the model says of the batch as it is now."""
        energy = torch.full_like(batch.volume, torch.nan)
        stress = torch.full_like(batch.cell, torch.nan) if "stress" in self.properties else None
        results = BatchResults(
            energy,
            torch.full_like(batch.positions, torch.nan),
            stress,
            torch.full_like(energy, torch.inf),
        )
        if self.neighbors is None or self.neighbors.update(batch, results.failed):
            self._divisions.clear()

        measured = self.tuner.measuring and len(batch) > 1
        parts = self._divided(batch, results.failed)
        began = time.thread_time()  # this thread's own, so that other processes do not count
        host = batch.on_host() if self.neighbors is None else None
        for part in parts:
            self._run(part, batch, host, results)
        if measured:
            self.tuner.note(time.thread_time() - began, len(batch))
        return results

    def stale(self, batch: Batch) -> Tensor:
        """Return who has moved so far that neighbors must be searched, (B,) bool on the device."""
        if self.neighbors is None:
            return torch.zeros_like(batch.volume, dtype=torch.bool)
        return self.neighbors.stale(batch)

    def _divided(self, batch: Batch, failed: dict[int, str]) -> list[MicroBatch]:
        """Return consecutive structures in micro-batches within the budget."""
        budget = self.tuner.budget
        if self.model.device.type != "cpu":
            budget = min(budget, self.max_edges)
        if budget in self._divisions and not failed:
            return self._divisions[budget]

        sizes = self._sizes(batch)
        groups: list[list[int]] = []
        edges = atoms = 0
        for k in range(len(batch)):
            if k in failed:  # members are consecutive: a new group begins after it
                groups.append([])
                continue
            full = edges + sizes[k] > budget or atoms + batch.segments.sizes[k] > self.max_atoms
            if not groups or not groups[-1] or full:
                groups.append([])
                edges = atoms = 0
            groups[-1].append(k)
            edges, atoms = edges + int(sizes[k]), atoms + int(batch.segments.sizes[k])

        parts = [self._part(range(group[0], group[-1] + 1), batch) for group in groups if group]
        if not failed:
            self._divisions[budget] = parts
        return parts

    def _sizes(self, batch: Batch) -> Array:
        """Edges of each structure, those of the skin left out by volume."""
        lists = self.neighbors
        if lists is None:
            return batch.segments.sizes * GUESSED_EDGES
        share = (lists.cutoff / (lists.cutoff + lists.skin)) ** 3
        return np.array(
            [
                lists.caches[int(i)].num_edges * share if int(i) in lists.caches else 0
                for i in batch.index
            ]
        )

    def _part(self, members: range, batch: Batch) -> MicroBatch:
        cutoff = float(self.model.cutoff)
        if self.neighbors is None:
            return MicroBatch(members, [], cutoff)
        searched = [self.neighbors.caches[int(batch.index[k])] for k in members]
        return MicroBatch(members, searched, cutoff, bool(self.model.graph_options.get("wrap")))

    def _run(
        self, part: MicroBatch, batch: Batch, host: Batch | None, results: BatchResults
    ) -> None:
        """Evaluate a micro-batch; if it fails, its members one by one, to learn whose fault it is.

        One that does not fit into the memory is halved.
        """
        members = part.members
        try:
            self._put(part, batch, host, results)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(members) == 1:
                results.failed[members.start] = "too large for the memory of the device"
                return
            half = max(1, self._sizes(batch)[list(members)].sum() / 2)
            self.max_edges = int(min(self.max_edges, half))
            self._divisions.clear()
            middle = members.start + len(members) // 2
            for piece in (range(members.start, middle), range(middle, members.stop)):
                self._run(self._part(piece, batch), batch, host, results)
        except Exception as error:  # a model is a plugin and may raise anything
            if len(members) == 1:
                results.failed[members.start] = f"{type(error).__name__}: {error}"
                return
            for k in members:
                self._run(self._part(range(k, k + 1), batch), batch, host, results)

    def _put(
        self, part: MicroBatch, batch: Batch, host: Batch | None, results: BatchResults
    ) -> None:
        """Evaluate a micro-batch and write its answers to their places."""
        first, last = part.members.start, part.members.stop
        start = int(batch.segments.starts[first])
        rows = slice(start, int(batch.segments.starts[last - 1] + batch.segments.sizes[last - 1]))
        model, edges = self.model, part.edges
        if edges is not None:
            where = batch.positions[rows], batch.cell[first:last]
            graph = model.finish_graph(edges.graph(*where, model.max_neighbors))
        else:
            assert host is not None
            graph = model.make_graph([host.snapshot(k) for k in part.members])

        self.calls += 1
        try:
            with torch.no_grad():
                output = model.compute(graph, self.properties)
        except Exception:
            # A model may stumble over atoms in the same place: that is then the reason.
            if edges is not None and edges.closest is not None:
                check_closest(float(edges.closest.min()))
            raise
        missing = [p for p in self.properties if p not in output]
        if missing:
            raise PredictionError(
                f"'{model_name(model)}' declares {', '.join(missing)} and did not return it."
            )

        for name in self.properties:
            value, per_atom = output[name].detach(), name in model.per_atom
            if len(value) != (rows.stop - rows.start if per_atom else last - first):
                shape = tuple(value.shape)
                raise PredictionError(f"'{name}' has shape {shape}: not one row each.")
            if name in ("energy", "forces", "stress"):
                into = getattr(results, name)
            else:
                length = batch.segments.rows if per_atom else len(batch)
                blank = batch.positions.new_zeros(length, *value.shape[1:])
                into = results.extra.setdefault(name, blank)
            into[rows if per_atom else slice(first, last)] = value
        if edges is not None and edges.closest is not None:
            results.closest[first:last] = edges.closest
