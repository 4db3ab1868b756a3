"""Which structures go into which batch: a budget of atoms or edges, shared by all processes."""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from ase_nnp.errors import ConfigError

__all__ = ["BudgetSampler"]

Array = np.ndarray[Any, Any]


class BudgetSampler(Sampler[list[int]]):
    """Batches of indices within a budget, a function of seed and epoch, dealt among processes.

    Each epoch shuffles all structures and packs windows of them into the fullest batch that fits.
    However many processes there are, together they see the same structures at each step, each of
    them once an epoch. A process that gets none of a small batch gets the index ``-1 - k``:
    structure k without labels. A structure larger than the budget is a batch of its own.

    Parameters
    ----------
    sizes
        (n,) atoms or edges of each structure.
    budget
        What one batch may hold, over all processes. None for no bound but ``max_structures``; the
        structures are then split evenly.
    max_structures
        Cap on the structures of a batch.
    shuffle, seed
        Order; without shuffling, batches follow the dataset.
    rank, world_size
        Which share of every batch is ours.

    Raises
    ------
    ConfigError
        A setting that cannot be meant.
    """

    _WINDOW = 100  # batches packed together

    def __init__(
        self,
        sizes: Any,
        budget: int | None = None,
        *,
        max_structures: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        if self.sizes.ndim != 1 or (self.sizes < 0).any():
            raise ConfigError("sizes must be a list of counts, none negative")
        if budget is None and max_structures is None:
            raise ConfigError("a batch needs a budget, or max_structures")
        if (budget is not None and budget < 1) or (
            max_structures is not None and max_structures < 1
        ):
            raise ConfigError(f"budget {budget}, max_structures {max_structures}: at least 1")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size}; ranks count from 0")

        self.budget = None if budget is None else int(budget)
        self.max_structures = max_structures
        self.shuffle, self.seed = shuffle, int(seed)
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0
        self._plan: tuple[int, list[list[int]]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: the order is a function of seed and epoch."""
        self.epoch, self.start = int(epoch), 0

    def plan(self) -> list[list[int]]:
        """Return the batches of the epoch, over all processes."""
        if self._plan is None or self._plan[0] != self.epoch:
            self._plan = (self.epoch, self._batches())
        return self._plan[1]

    def __len__(self) -> int:
        return len(self.plan()) - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.plan()[self.start :]:
            yield self._share(batch)

    def _batches(self) -> list[list[int]]:
        # Of seed and epoch alone: every process plans the same batches without a message.
        random = np.random.default_rng([self.seed, self.epoch])
        n = len(self.sizes)
        order = random.permutation(n) if self.shuffle else np.arange(n)
        if self.budget is None:
            assert self.max_structures is not None

            # Even parts: a last batch of one structure would have a noisy gradient.
            parts = np.array_split(order, math.ceil(n / self.max_structures)) if n else []
            return [part.tolist() for part in parts]
        if not self.shuffle:
            return self._in_order(order)

        batches = self._packed(order)

        # Best fit closes large structures early, so the batches are shuffled once more.
        return [batches[int(k)] for k in random.permutation(len(batches))]

    def _share(self, batch: list[int]) -> list[int]:
        """Deal a batch, largest structures first, to whoever has least; then even out by swaps."""
        if self.world_size == 1:
            return batch
        shares: list[list[int]] = [[] for _ in range(self.world_size)]
        loads = [0] * self.world_size
        for index in sorted(batch, key=lambda k: (-self.sizes[k], k)):
            lightest = loads.index(min(loads))
            shares[lightest].append(index)
            loads[lightest] += int(self.sizes[index])

        # The step takes as long as the slowest process: swaps bring the loads nearer.
        for _ in range(4 * self.world_size):
            heavy, light = int(np.argmax(loads)), int(np.argmin(loads))
            gap = loads[heavy] - loads[light]
            less = self.sizes[shares[heavy]][:, None] - self.sizes[shares[light]][None, :]
            if gap < 2 or not less.size or np.abs(gap - 2 * less).min() >= gap:
                break
            i, j = np.unravel_index(np.abs(gap - 2 * less).argmin(), less.shape)
            shares[heavy][i], shares[light][j] = shares[light][j], shares[heavy][i]
            loads[heavy] -= int(less[i, j])
            loads[light] += int(less[i, j])

        # A process without a structure takes one without labels, because it must answer in each
        # sum.
        return shares[self.rank] or [-1 - batch[0]]

    def _in_order(self, order: Array) -> list[list[int]]:
        assert self.budget is not None
        batches: list[list[int]] = []
        total = 0
        for index in order.tolist():
            size = int(self.sizes[index])
            full = bool(batches) and len(batches[-1]) == self.max_structures
            if not batches or full or total + size > self.budget:
                batches.append([])
                total = 0
            batches[-1].append(index)
            total += size
        return batches

    def _packed(self, order: Array) -> list[list[int]]:
        """Pack windows of the shuffled order, each structure into the fullest batch that fits.

        Not the largest first: batches of structures of like size would teach less, and could not be
        dealt evenly.
        """
        assert self.budget is not None
        mean = max(1.0, float(self.sizes.mean())) if len(self.sizes) else 1.0

        # Windows keep the packing linear and leave structures near their shuffled place.
        window = max(1, math.ceil(self._WINDOW * max(1.0, self.budget / mean)))
        batches: list[list[int]] = []
        for first in range(0, len(order), window):
            batches += self._best_fit(order[first : first + window])
        return batches

    def _best_fit(self, order: Array) -> list[list[int]]:
        assert self.budget is not None
        batches: list[list[int]] = []
        room: list[tuple[int, int]] = []  # (room left, batch), sorted
        for index in order.tolist():
            size = int(self.sizes[index])
            place = bisect.bisect_left(room, (size, -1))
            if place == len(room):
                batches.append([])
                entry = (self.budget, len(batches) - 1)
            else:
                entry = room.pop(place)

            left, number = entry
            batches[number].append(index)
            if self.max_structures is None or len(batches[number]) < self.max_structures:
                bisect.insort(room, (max(0, left - size), number))
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to continue."""
        return {"epoch": self.epoch, "start": self.start, "seed": self.seed, "plan": self._digest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after ``state["start"]`` batches of ``state["epoch"]``.

        Raises
        ------
        ConfigError
            If seed, sizes or budget are not those of the state.
        """
        if state["plan"] != self._digest():
            raise ConfigError("the saved position belongs to another dataset, seed or budget")
        self.epoch, self.start = int(state["epoch"]), int(state["start"])

    def _digest(self) -> str:
        # Not of the number of processes: they share the batches, whatever their number.
        settings = [self.budget, self.max_structures, self.shuffle, self.seed]
        return hashlib.sha256(repr(settings).encode() + self.sizes.tobytes()).hexdigest()[:32]
