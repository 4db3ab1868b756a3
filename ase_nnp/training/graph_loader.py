"""Datasets to batches of graphs: budgets instead of counts, the same order on every machine.

A batch is filled up to a budget of atoms or edges, so its memory is about the same whatever the
sizes of the structures. The order follows from seed and epoch alone, processes share each batch,
and an interrupted epoch continues where it stopped::

    data = AtomGraphDataset(open_dataset("train/"), model=model)
    loader = GraphLoader(data, budget=2000, workers=4, seed=1)
    for batch in loader:
        prediction = model(batch.graph)
        error = prediction["energy"] - batch.targets["energy"]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from ase_nnp.training.batch_sampler import BudgetSampler
from ase_nnp.training.graph_dataset import AtomGraphDataset, GraphBatch, collate

__all__ = ["AtomGraphDataset", "GraphBatch", "GraphLoader"]


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
        Atoms or edges of a batch, over all processes; None for ``max_structures`` alone.
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
        For :class:`BudgetSampler`: ``max_structures, shuffle, seed, rank, world_size``. With
        torch.distributed running, rank and world size are taken from it.
    """

    def __init__(
        self,
        data: AtomGraphDataset,
        budget: int | None = None,
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

        # A batch sampler and no rank sampler: shares of one global batch, not batches of one's own.
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
            generator=torch.Generator(),  # or every epoch would draw from the global one
        )
        self.epoch, self.done = 0, 0

    def __len__(self) -> int:
        """Batches in the epoch, whether already seen or not."""
        return len(self.sampler.plan())

    def set_epoch(self, epoch: int) -> None:
        """Start ``epoch`` from its first batch."""
        self.epoch, self.done = int(epoch), 0

    def __iter__(self) -> Iterator[GraphBatch]:
        # Workers run ahead, so the position is counted here, where batches are used.
        self.sampler.epoch, self.sampler.start = self.epoch, self.done
        for batch in self._loader:
            self.done += 1
            yield batch
        self.epoch, self.done = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch handed out."""
        return {**self.sampler.state_dict(), "epoch": self.epoch, "start": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; see :meth:`BudgetSampler.load_state_dict`."""
        self.sampler.load_state_dict(state)
        self.epoch, self.done = int(state["epoch"]), int(state["start"])
