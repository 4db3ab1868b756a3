"""Datasets to batches of graphs: budgets instead of counts, the same order on every machine.

A batch is filled up to a budget of atoms or edges, so its memory is about the same whatever the
sizes of the structures. The order follows from seed and epoch alone, every rank gets the same
number of batches of similar size, and an interrupted epoch continues where it stopped::

    data = AtomGraphDataset(open_dataset("train/"), model=model)
    loader = GraphLoader(data, budget=2000, workers=4, seed=1)
    for batch in loader:
        prediction = model(batch.graph)
        error = prediction["energy"] - batch.targets["energy"]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ase_nnp.datasets.sample import Sample, from_atoms, to_atoms
from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.training.budget import BudgetSampler

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = [
    "AtomGraphDataset",
    "BudgetSampler",
    "GraphBatch",
    "GraphLoader",
    "bare_graph",
    "collate",
]

Array = np.ndarray[Any, Any]
LABELS = ("energy", "forces")


@dataclass(frozen=True)
class GraphBatch:
    """B structures with N atoms: the graph, the labels and where they came from.

    ``targets`` holds ``energy`` (B,) eV, ``forces`` (N, 3) eV/Angstrom, ``stress`` (B, 3, 3)
    eV/Angstrom^3, as far as asked for; NaN where a structure has no such label. ``index`` (B,) are
    positions in the dataset.
    """

    graph: AtomGraph
    targets: dict[str, Tensor]
    index: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> GraphBatch:
        """Return the batch on ``device``; ``dtype`` applies to floating tensors."""
        targets = {k: v.to(device, dtype, non_blocking=True) for k, v in self.targets.items()}
        return GraphBatch(self.graph.to(device, dtype), targets, self.index.to(device))

    def pin_memory(self) -> GraphBatch:
        """Return the batch in page-locked memory, for copies to a GPU beside its work."""
        from dataclasses import fields

        pinned = {
            f.name: value.pin_memory()
            for f in fields(self.graph)
            if isinstance(value := getattr(self.graph, f.name), Tensor)
        }
        extra = {k: v.pin_memory() for k, v in self.graph.extra.items()}
        targets = {k: v.pin_memory() for k, v in self.targets.items()}
        return GraphBatch(self.graph.replace(**pinned, extra=extra), targets, self.index)


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.float16: np.float16}
_NO_EDGES = (torch.zeros((2, 0), dtype=torch.int64), torch.zeros((0, 3), dtype=torch.int64))


def bare_graph(
    sample: Sample, dtype: torch.dtype = torch.float32, *, edges: bool = False
) -> AtomGraph:
    """Turn a sample's arrays into a graph of one structure, without ``ase.Atoms``.

    Parameters
    ----------
    sample
        As from :meth:`AtomsDataset.arrays`.
    dtype
        Of positions and cell.
    edges
        Take the edges stored with the sample; otherwise there are none.
    """
    real = _NUMPY[dtype]
    numbers = sample["atomic_numbers"].astype(np.int64)
    n = len(numbers)
    info = sample["info"]
    tags, fixed = sample.get("tags"), sample.get("fixed")
    index, shift = _NO_EDGES
    if edges:
        index = torch.from_numpy(sample["edge_index"].astype(np.int64))
        shift = torch.from_numpy(sample["edge_shift"].astype(np.int64))
    # astype copies, so nothing in the graph shares memory with the sample.
    return AtomGraph(
        atomic_numbers=torch.from_numpy(numbers),
        positions=torch.from_numpy(sample["positions"].astype(real)),
        cell=torch.from_numpy(sample["cell"].astype(real).reshape(1, 3, 3)),
        pbc=torch.from_numpy(sample["pbc"].astype(bool).reshape(1, 3)),
        batch=torch.from_numpy(np.zeros(n, np.int64)),
        edge_index=index,
        edge_shift=shift,
        tags=torch.from_numpy(np.zeros(n, np.int64) if tags is None else tags.astype(np.int64)),
        fixed=torch.from_numpy(np.zeros(n, bool) if fixed is None else fixed.astype(bool)),
        charge=torch.from_numpy(np.array([info.get("charge", 0)], real)),
        spin=torch.from_numpy(np.array([info.get("spin", 0)], real)),
    )


class AtomGraphDataset(Dataset[GraphBatch]):
    """Structures with labels as graphs, one at a time or many.

    Nothing open is held, so it goes into fork, spawn and forkserver workers.

    Parameters
    ----------
    dataset
        An AtomsDataset, or a sequence of Atoms.
    model
        The potential that will be fed: its cutoff, cap on neighbours, precision and further graph
        options are taken, and its kind of energy must be that of the labels.
    cutoff, max_neighbors
        The graph rule, where there is no model. Without either, graphs have no edges.
    dtype
        Of positions, cells and labels; default that of the model, else float32.
    labels
        Which of ``energy``, ``forces``, ``stress`` go into ``targets``.
    stored_edges
        ``"auto"`` uses edges stored in the files if they follow the same rule, which is tested on
        a few structures; True uses them untested, False never.

    Raises
    ------
    DatasetError
        Energies of another kind than the model's; False edges asked for and none stored.
    """

    def __init__(
        self,
        dataset: Sequence[Atoms],
        *,
        model: Potential | None = None,
        cutoff: float | None = None,
        max_neighbors: int | None = None,
        dtype: torch.dtype | None = None,
        labels: Sequence[str] = LABELS,
        stored_edges: bool | str = "auto",
    ) -> None:
        unknown = set(labels) - {"energy", "forces", "stress"}
        if unknown:
            raise ConfigError(f"labels {sorted(unknown)}; they are energy, forces, stress")
        if stored_edges not in (True, False, "auto"):
            raise ConfigError(f"stored_edges is {stored_edges!r}; it is True, False or 'auto'")
        self.dataset, self.labels = dataset, tuple(labels)
        self.graph_options: dict[str, Any] = {}
        if model is not None:
            cutoff = model.cutoff if cutoff is None else cutoff
            max_neighbors = model.max_neighbors if max_neighbors is None else max_neighbors
            dtype = model.dtype if dtype is None else dtype
            self.graph_options = dict(model.graph_options)
            if "energy" in labels:
                _same_energy(dataset, model)
        self.cutoff, self.max_neighbors = cutoff, max_neighbors
        self.dtype = torch.float32 if dtype is None else dtype
        if self.dtype not in _NUMPY:
            raise ConfigError(f"dtype {dtype}; graphs come in float32, float64 or float16")
        self.uses_stored_edges = (
            cutoff is not None and _stored_edges_fit(self)
            if stored_edges == "auto"
            else bool(stored_edges)
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int) -> Sample:
        """Return one structure as arrays."""
        arrays = getattr(self.dataset, "arrays", None)
        return from_atoms(self.dataset[index]) if arrays is None else arrays(index)

    def graph(self, sample: Sample) -> AtomGraph:
        """Return the graph of a sample under this dataset's rule."""
        if self.uses_stored_edges and "edge_index" in sample:
            return bare_graph(sample, self.dtype, edges=True)
        if self.cutoff is None:
            return bare_graph(sample, self.dtype)
        return AtomGraph.from_atoms(
            to_atoms(sample),
            self.cutoff,
            self.max_neighbors,
            dtype=self.dtype,
            **self.graph_options,
        )

    def __getitem__(self, index: int) -> GraphBatch:
        sample = self.sample(index)
        graph = self.graph(sample)
        n = len(sample["atomic_numbers"])
        targets = {name: self._target(name, sample, n) for name in self.labels}
        return GraphBatch(graph, targets, torch.from_numpy(np.array([index])))

    def __getitems__(self, indices: Sequence[int]) -> GraphBatch:
        """Return many structures as one batch."""
        return collate([self[int(index)] for index in indices])

    def _target(self, name: str, sample: Sample, n: int) -> Tensor:
        shape = {"energy": (1,), "forces": (n, 3), "stress": (1, 3, 3)}[name]
        real = _NUMPY[self.dtype]
        value = sample.get(name)
        if value is None:
            return torch.from_numpy(np.full(shape, math.nan, real))
        return torch.from_numpy(np.array(value, real).reshape(shape))

    def sizes(self, unit: str = "atoms") -> Array:
        """Return (n,) what each structure takes of a budget.

        Parameters
        ----------
        unit
            ``"atoms"``, or ``"edges"``: stored edges are counted; else the cap on neighbours
            times the atoms bounds them; without a cap all graphs are built once to count.
        """
        if unit == "atoms":
            natoms = getattr(self.dataset, "natoms", None)
            if natoms is None:
                natoms = [len(atoms) for atoms in self.dataset]
            return np.asarray(natoms, dtype=np.int64)
        if unit != "edges":
            raise ConfigError(f"a budget is of 'atoms' or 'edges', not {unit!r}")
        if self.cutoff is None and not self.uses_stored_edges:
            raise ConfigError("a budget of edges needs a model or a cutoff")
        if self.uses_stored_edges and hasattr(self.dataset, "metadata"):
            stored = np.asarray(self.dataset.metadata.num_edges, dtype=np.int64)
            if (stored >= 0).all():
                return stored
        if self.max_neighbors is not None:
            return self.sizes("atoms") * self.max_neighbors
        return np.array([self.graph(self.sample(k)).num_edges for k in range(len(self))])


def collate(items: Any) -> GraphBatch:
    """Join batches into one; for ``DataLoader(data, batch_size=8, collate_fn=collate)`` too.

    Parameters
    ----------
    items
        A sequence of :class:`GraphBatch`, or one that is joined already.
    """
    if isinstance(items, GraphBatch):
        return items
    targets = {name: torch.cat([item.targets[name] for item in items]) for name in items[0].targets}
    graph = AtomGraph.collate([item.graph for item in items])
    return GraphBatch(graph, targets, torch.cat([item.index for item in items]))


def _same_energy(dataset: Any, model: Potential) -> None:
    kinds = ("total", "adsorption")
    ours, theirs = getattr(dataset, "energy_kind", None), model.energy_kind
    if ours == "mixed" or (ours in kinds and theirs in kinds and ours != theirs):
        raise DatasetError(
            f"the dataset holds {ours} energies and the model's are {theirs}; "
            f"use dataset.with_energy({theirs!r})"
        )


def _stored_edges_fit(data: AtomGraphDataset) -> bool:
    """Whether stored edges are what the graph rule would find, by a few structures."""
    n = len(data)
    if n == 0 or not hasattr(data.dataset, "arrays") or data.graph_options.get("pbc") is not None:
        return False
    for index in np.unique(np.linspace(0, n - 1, 6).astype(int)).tolist():
        sample = data.sample(index)
        if "edge_index" not in sample or "edge_shift" not in sample:
            return False
        if not _same_neighbours(data, sample):
            return False
    return True


def _same_neighbours(data: AtomGraphDataset, sample: Sample) -> bool:
    """Compare the sorted neighbour distances of every atom; which of equals does not matter.

    The first OC20 converter counted an atom as its own neighbour when it applied the cap and then
    left it out, so one neighbour less than the cap is the same rule.
    """
    assert data.cutoff is not None
    stored = bare_graph(sample, torch.float64, edges=True)
    found = AtomGraph.from_atoms(
        to_atoms(sample), data.cutoff, data.max_neighbors, dtype=torch.float64
    )
    cap = data.max_neighbors
    for ours, theirs in zip(_profiles(stored), _profiles(found), strict=True):
        short = len(theirs) - len(ours)
        if short and not (short == 1 and len(theirs) == cap):
            return False
        if not np.allclose(ours, theirs[: len(ours)], rtol=0, atol=1e-3):
            return False
    return True


def _profiles(graph: AtomGraph) -> list[Array]:
    """Return the ascending neighbour distances of each atom."""
    centre = graph.edge_index[1].numpy()
    distance = graph.edge_vectors().norm(dim=1).numpy()
    order = np.lexsort((distance, centre))
    ends = np.cumsum(np.bincount(centre, minlength=graph.num_atoms))
    return np.split(distance[order], ends[:-1])


class GraphLoader:
    """Iterate over batches of graphs, prefetched by worker processes.

    A ``for`` over the loader is one epoch; the next has another order. :meth:`state_dict` between
    two batches and :meth:`load_state_dict` in a new process continue with the batch that would
    have come next, as does a new ``for`` after one that was left early (:meth:`set_epoch` starts
    an epoch anew).

    Parameters
    ----------
    data
        The graphs.
    budget
        Atoms or edges of a batch.
    unit
        ``"atoms"`` or ``"edges"``.
    workers
        Processes that read and build graphs; 0 does it in this one.
    context
        ``"fork"``, ``"spawn"`` or ``"forkserver"``; default the platform's.
    prefetch
        Batches that each worker prepares ahead.
    pin_memory
        Put batches into page-locked memory.
    **options
        For :class:`BudgetSampler`: ``max_structures, shuffle, seed, rank, world_size, drop_last``.
        With torch.distributed running, rank and world size are taken from it.
    """

    def __init__(
        self,
        data: AtomGraphDataset,
        budget: int,
        *,
        unit: str = "atoms",
        workers: int = 0,
        context: str | None = None,
        prefetch: int = 4,
        pin_memory: bool = False,
        **options: Any,
    ) -> None:
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            options.setdefault("rank", distributed.get_rank())
            options.setdefault("world_size", distributed.get_world_size())
        self.data = data
        self.sampler = BudgetSampler(data.sizes(unit), budget, **options)
        self._loader: DataLoader[GraphBatch] = DataLoader(
            data,
            batch_sampler=self.sampler,
            collate_fn=collate,
            num_workers=workers,
            multiprocessing_context=context if workers else None,
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )
        self._epoch, self._done = 0, 0

    def __len__(self) -> int:
        """Batches in the epoch, whether already seen or not."""
        return len(self.sampler.batches())

    def set_epoch(self, epoch: int) -> None:
        """Start ``epoch`` from its first batch."""
        self._epoch, self._done = int(epoch), 0

    def __iter__(self) -> Iterator[GraphBatch]:
        # Workers run ahead, so the position is counted here, where batches are used.
        self.sampler.epoch, self.sampler.start = self._epoch, self._done
        for batch in self._loader:
            self._done += 1
            yield batch
        self._epoch, self._done = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch handed out."""
        return {**self.sampler.state_dict(), "epoch": self._epoch, "start": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; see :meth:`BudgetSampler.load_state_dict`."""
        self.sampler.load_state_dict(state)
        self._epoch, self._done = int(state["epoch"]), int(state["start"])
