"""Graphs of a fixed dataset, built once, and batches that any number of processes share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ase_nnp.datasets.sample import Sample, from_atoms, to_atoms
from ase_nnp.errors import ConfigError
from ase_nnp.training.budget import BudgetSampler
from ase_nnp.training.loading import AtomGraphDataset, GraphBatch, collate
from ase_nnp.training.settings import Batch

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["EpochBatches", "LabelledGraphs", "SharedBatches", "make_loader"]


class LabelledGraphs(Dataset[GraphBatch]):
    """Structures with labels as the model wants its graphs, kept after the first use.

    Energies and scalars are float64 whatever the model: a total energy of thousands of eV has no
    meV in float32.

    Parameters
    ----------
    dataset
        An AtomsDataset, or a sequence of Atoms with results.
    model
        Makes the graphs, on the CPU.
    labels
        Names of the targets; beside energy, forces and stress those in ``atoms.info``.
    cache_mb
        Memory for graphs that are kept.
    """

    def __init__(
        self,
        dataset: Sequence[Atoms],
        model: Potential,
        labels: Sequence[str],
        cache_mb: float = 2000.0,
    ) -> None:
        rule = [name for name in labels if name in ("energy", "forces", "stress")]
        AtomGraphDataset(dataset, model=model, labels=rule, stored_edges=False)  # checks the kinds
        self.dataset, self.model, self.labels = dataset, model, tuple(labels)
        self.room = cache_mb * 2**20
        self._kept: dict[int, GraphBatch] = {}
        self._dtype = model.dtype

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def sample(self, index: int) -> Sample:
        """Return one structure as arrays."""
        arrays = getattr(self.dataset, "arrays", None)
        return from_atoms(self.dataset[index]) if arrays is None else arrays(index)

    def __getitem__(self, index: int) -> GraphBatch:
        """Return one structure; ``-1 - k`` is structure k without labels."""
        if index < 0:
            batch = self[-1 - index]
            blank = {k: torch.full_like(v, math.nan) for k, v in batch.targets.items()}
            return GraphBatch(batch.graph, blank, batch.index)
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        sample = self.sample(index)
        graph = self.model.make_graph([to_atoms(sample)], device="cpu")
        targets = {name: self._target(name, sample) for name in self.labels}
        batch = GraphBatch(graph, targets, torch.tensor([index]))
        size = _bytes(batch)
        if size <= self.room:
            self.room -= size
            self._kept[index] = batch
        return batch

    def __getitems__(self, indices: Sequence[int]) -> GraphBatch:
        """Return many structures as one batch."""
        return collate([self[int(index)] for index in indices])

    def _target(self, name: str, sample: Sample) -> Tensor:
        n = len(sample["atomic_numbers"])
        shape = {"forces": (n, 3), "stress": (1, 3, 3)}.get(name, (1,))
        dtype = self._dtype if name in ("forces", "stress") else torch.float64
        value = sample.get(name)
        if value is None:
            value = sample["info"].get(name, sample.get("results", {}).get(name))
        if value is None:
            return torch.full(shape, math.nan, dtype=dtype)
        try:
            return torch.as_tensor(np.array(value, dtype=np.float64).reshape(shape)).to(dtype)
        except (TypeError, ValueError):
            raise ConfigError(f"the label {name!r} is {value!r}; a number was expected") from None

    def sizes(self, unit: str) -> Any:
        """Return (n,) atoms or edges of each structure; edges build every graph once."""
        if unit == "edges":
            return np.array([self[k].graph.num_edges for k in range(len(self))])
        natoms = getattr(self.dataset, "natoms", None)
        return np.array([len(a) for a in self.dataset] if natoms is None else natoms)


def _bytes(batch: GraphBatch) -> int:
    tensors = [v for v in vars(batch.graph).values() if isinstance(v, Tensor)]
    tensors += [*batch.graph.extra.values(), *batch.targets.values()]
    return sum(t.numel() * t.element_size() for t in tensors)


class SharedBatches(Sampler[list[int]]):
    """Global batches, a function of seed and epoch alone, dealt among processes by size.

    However many processes there are, together they see the same structures at each step. A process
    that gets none of a small batch computes one structure without labels (index ``-1 - k``).

    Parameters
    ----------
    sizes
        (n,) what each structure takes.
    batch
        Structures, or a budget.
    seed
        Of the order; None follows the dataset.
    """

    def __init__(
        self, sizes: Any, batch: Batch, seed: int | None, rank: int = 0, world: int = 1
    ) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.seed, self.rank, self.world = seed, rank, world
        self.structures = batch.structures
        budget = batch.edges or batch.atoms
        self._budget = (
            None
            if batch.structures
            else BudgetSampler(sizes, budget or 1, shuffle=seed is not None, seed=seed or 0)
        )
        self.epoch = 0
        self.start = 0

    def plan(self) -> list[list[int]]:
        """Return the global batches of the epoch."""
        if self._budget is not None:
            self._budget.set_epoch(self.epoch)
            return self._budget.batches()
        n = len(self.sizes)
        random = np.random.default_rng([self.seed or 0, self.epoch])
        order = np.arange(n) if self.seed is None else random.permutation(n)
        parts = np.array_split(order, math.ceil(n / (self.structures or n)))
        return [part.tolist() for part in parts]

    def __len__(self) -> int:
        return len(self.plan())

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.plan()[self.start :]:
            yield self._share(batch)

    def _share(self, batch: list[int]) -> list[int]:
        if self.world == 1:
            return batch
        shares: list[list[int]] = [[] for _ in range(self.world)]
        loads = [0] * self.world
        for index in sorted(batch, key=lambda k: (-self.sizes[k], k)):
            lightest = loads.index(min(loads))
            shares[lightest].append(index)
            loads[lightest] += int(self.sizes[index]) + 1
        return shares[self.rank] or [-1 - batch[0]]


class EpochBatches:
    """Iterates over the batches of :attr:`epoch` from :attr:`start` on; each ``for`` is one epoch.

    Has no length: budgets make another number of batches each epoch.
    """

    def __init__(self, loader: DataLoader[GraphBatch], sampler: SharedBatches) -> None:
        self.loader, self.sampler = loader, sampler

    def at(self, epoch: int, start: int = 0) -> None:
        """Choose what the next ``for`` goes through."""
        self.sampler.epoch, self.sampler.start = epoch, start

    def __iter__(self) -> Iterator[GraphBatch]:
        return iter(self.loader)


def make_loader(
    data: LabelledGraphs,
    batch: Batch,
    *,
    seed: int | None,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> EpochBatches:
    """Return batches that all processes share; without a measure in ``batch``, of 5 structures."""
    given = [name for name in ("structures", "atoms", "edges") if getattr(batch, name)]
    if len(given) > 1:
        raise ConfigError(f"batch has {' and '.join(given)}; give one of them.")
    if not given:
        batch = batch.model_copy(update={"structures": 5})
    sizes = data.sizes("edges" if given == ["edges"] else "atoms")
    sampler = SharedBatches(sizes, batch, seed, rank, world)
    loader: DataLoader[GraphBatch] = DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # or every epoch would draw from the global one
    )
    return EpochBatches(loader, sampler)
