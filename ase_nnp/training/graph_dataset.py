"""Structures with labels as graphs: stored edges where they fit, a cache, energies in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ase_nnp.datasets.own_labels import labeled_sample
from ase_nnp.datasets.sample import Sample, to_atoms
from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.training.data_identity import scalar_label
from ase_nnp.training.stored_edges import NUMPY_TYPES, bare_graph, stored_edges_follow

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["AtomGraphDataset", "GraphBatch", "collate"]

Array = np.ndarray[Any, Any]
LABELS = ("energy", "forces")
#: Information under these names is no label: MPtrj's ``stress`` is in kB with VASP's sign.
_PHYSICAL = ("energy", "forces", "stress")


@dataclass(frozen=True)
class GraphBatch:
    """B structures with N atoms: the graph, the labels and where they came from.

    ``targets`` holds ``energy`` (B,) eV, ``forces`` (N, 3) eV/Angstrom, ``stress`` (B, 3, 3)
    eV/Angstrom^3 and named scalars (B,), as far as asked for; NaN where a structure has no such
    label. ``index`` (B,) are positions in the dataset.
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
        pinned = {
            f.name: value.pin_memory()
            for f in fields(self.graph)
            if isinstance(value := getattr(self.graph, f.name), Tensor)
        }
        extra = {k: v.pin_memory() for k, v in self.graph.extra.items()}
        targets = {k: v.pin_memory() for k, v in self.targets.items()}
        return GraphBatch(self.graph.replace(**pinned, extra=extra), targets, self.index)

    def without_labels(self) -> GraphBatch:
        """Return the batch with NaN for every label."""
        blank = {k: torch.full_like(v, math.nan) for k, v in self.targets.items()}
        return GraphBatch(self.graph, blank, self.index)

    def num_bytes(self) -> int:
        """Return the memory that the tensors take."""
        tensors = [v for v in vars(self.graph).values() if isinstance(v, Tensor)]
        tensors += [*self.graph.extra.values(), *self.targets.values()]
        return sum(t.numel() * t.element_size() for t in tensors)


class AtomGraphDataset(Dataset[GraphBatch]):
    """Structures with labels as graphs, one at a time or many.

    Nothing open is held, so it goes into fork, spawn and forkserver workers.

    Parameters
    ----------
    dataset
        An AtomsDataset, or a sequence of Atoms.
    model
        The potential that will be fed: it makes the graphs, on the CPU, and its kind of energy
        must be that of the labels.
    cutoff, max_neighbors
        The graph rule, where there is no model. Without either, graphs have no edges.
    dtype
        Of positions, cells, forces and stress; default that of the model, else float32. Energies
        and scalars are float64: a total energy of thousands of eV has no meV in float32.
    labels
        What goes into ``targets``: ``energy``, ``forces``, ``stress`` of the calculator, and other
        scalars by their name in its results or in ``atoms.info``.
    stored_edges
        ``"auto"`` uses edges stored in the files if they follow the same rule, which is tested on
        a few structures; True uses them untested, False never.
    cache_mb
        Memory for graphs that are kept after the first use.

    Raises
    ------
    DatasetError
        Energies of another kind than the model's.
    ConfigError
        A setting that cannot be meant.
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
        cache_mb: float = 0.0,
    ) -> None:
        if stored_edges not in (True, False, "auto"):
            raise ConfigError(f"stored_edges is {stored_edges!r}; it is True, False or 'auto'")
        self.dataset, self.labels = dataset, tuple(labels)
        self.graph_options: dict[str, Any] = {}
        self._energy_kind: str | None = None
        if model is not None:
            # Asked for something else than its own rule, the model does not make the graphs.
            if cutoff is not None or max_neighbors is not None:
                own_rule = False
            else:
                own_rule = dtype in (None, model.dtype)
            cutoff = model.cutoff if cutoff is None else cutoff
            max_neighbors = model.max_neighbors if max_neighbors is None else max_neighbors
            dtype = model.dtype if dtype is None else dtype
            self.graph_options = {"inputs": model.required_inputs, **model.graph_options}
            if "energy" in labels:
                _check_energy_kind(getattr(dataset, "energy_kind", None), model.energy_kind)
                self._energy_kind = model.energy_kind

        self.model = model if model is not None and own_rule else None
        self.cutoff, self.max_neighbors = cutoff, max_neighbors
        self.dtype = torch.float32 if dtype is None else dtype
        if self.dtype not in NUMPY_TYPES:
            raise ConfigError(f"dtype {dtype}; graphs come in float32, float64 or float16")
        self.uses_stored_edges = (
            self._stored_edges_fit(model) if stored_edges == "auto" else bool(stored_edges)
        )
        self._room = cache_mb * 2**20
        self._kept: dict[int, GraphBatch] = {}

    def _stored_edges_fit(self, model: Potential | None) -> bool:
        # A model with a graph of its own making (angles, cells folded) takes no plain edge list.
        plain = model is None or type(model).make_graph is Potential.make_graph
        if not plain or self.cutoff is None or self.graph_options.get("pbc") is not None:
            return False
        return stored_edges_follow(self.dataset, self.cutoff, self.max_neighbors)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def sample(self, index: int) -> Sample:
        """Return one structure as arrays."""
        arrays = getattr(self.dataset, "arrays", None)
        return labeled_sample(self.dataset[index], index) if arrays is None else arrays(index)

    def graph(self, sample: Sample) -> AtomGraph:
        """Return the graph of a sample under this dataset's rule."""
        if self.uses_stored_edges and "edge_index" in sample:
            return bare_graph(sample, self.dtype, edges=True)
        if self.model is not None:
            return self.model.make_graph([to_atoms(sample)], device="cpu")
        if self.cutoff is None:
            return bare_graph(sample, self.dtype)
        return AtomGraph.from_atoms(
            to_atoms(sample),
            self.cutoff,
            self.max_neighbors,
            dtype=self.dtype,
            **{"recenter": True, **self.graph_options},
        )

    def __getitem__(self, index: int) -> GraphBatch:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        sample = self.sample(index)
        # A file of extended XYZ may hold several kinds, and a list of structures says none.
        if "energy" in sample:
            _check_energy_kind(sample["info"].get("energy_kind"), self._energy_kind)
        graph = self.graph(sample)
        targets = {name: self._target(name, sample) for name in self.labels}
        batch = GraphBatch(graph, targets, torch.from_numpy(np.array([index])))

        # Kept until the room is used up and never exchanged: a shuffled epoch visits all alike, so
        # any choice is as good.
        size = batch.num_bytes() if self._room else math.inf
        if size <= self._room:
            self._room -= size
            self._kept[index] = batch
        return batch

    def __getitems__(self, indices: Sequence[int]) -> GraphBatch:
        """Return many structures as one batch; ``-1 - k`` is structure k without labels."""
        return collate(
            [self[int(k)] if k >= 0 else self[-1 - int(k)].without_labels() for k in indices]
        )

    def _target(self, name: str, sample: Sample) -> Tensor:
        n = len(sample["atomic_numbers"])
        shape = {"forces": (n, 3), "stress": (1, 3, 3)}.get(name, (1,))

        # Total energies of thousands of eV have no meV in float32.
        real = NUMPY_TYPES[self.dtype] if name in ("forces", "stress") else np.float64
        value = sample.get(name) if name in _PHYSICAL else scalar_label(sample, name)
        if value is None:
            return torch.from_numpy(np.full(shape, math.nan, real))
        return torch.from_numpy(np.array(value, real).reshape(shape))

    def sizes(self, unit: str = "atoms") -> Array:
        """Return (n,) what each structure takes of a budget.

        Parameters
        ----------
        unit
            ``"atoms"``, or ``"edges"``: stored edges are counted; else the cap on neighbors
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

        # An upper bound that needs no search; most atoms of a dense crystal reach it.
        if self.max_neighbors is not None:
            return self.sizes("atoms") * self.max_neighbors
        return np.array([self[k].graph.num_edges for k in range(len(self))])


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


def _check_energy_kind(ours: Any, theirs: str | None) -> None:
    kinds = ("total", "adsorption")
    if theirs is not None and (
        ours == "mixed" or (ours in kinds and theirs in kinds and ours != theirs)
    ):
        raise DatasetError(
            f"the dataset holds {ours} energies and the model's are {theirs}; "
            f"use dataset.with_energy({theirs!r})"
        )
