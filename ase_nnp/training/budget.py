"""Which structures go into which batch: budgets instead of counts, for every rank alike."""

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
    """Batches of indices that stay within a budget, the same for everyone with the same seed.

    Each epoch shuffles all structures, packs windows of them into batches by decreasing size, and
    puts batches of similar size next to each other, one a rank. A structure larger than the
    budget is a batch of its own.

    Parameters
    ----------
    sizes
        (n,) atoms or edges of each structure.
    budget
        What one batch may hold.
    max_structures
        Cap on the structures of a batch.
    shuffle, seed
        Order; without shuffling, batches follow the dataset.
    rank, world_size
        Which share of the batches is ours; all ranks get equally many. Where they do not divide,
        the largest batches are cut in two, or some batches are repeated if there are too few
        structures to cut.
    drop_last
        Leave batches out instead of cutting or repeating.
    """

    _WINDOW = 100  # batches packed together

    def __init__(
        self,
        sizes: Any,
        budget: int,
        *,
        max_structures: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        if self.sizes.ndim != 1 or (self.sizes < 0).any():
            raise ConfigError("sizes must be a list of counts, none negative")
        if budget < 1 or (max_structures is not None and max_structures < 1):
            raise ConfigError(f"budget {budget}, max_structures {max_structures}: at least 1")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size}; ranks count from 0")
        self.budget, self.max_structures = int(budget), max_structures
        self.shuffle, self.seed = shuffle, int(seed)
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        self.epoch = 0
        self.start = 0
        self._plan: tuple[int, list[list[int]]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: the order is a function of seed and epoch."""
        self.epoch, self.start = int(epoch), 0

    def batches(self) -> list[list[int]]:
        """Return all batches of this rank in this epoch."""
        if self._plan is None or self._plan[0] != self.epoch:
            self._plan = (self.epoch, self._dealt())
        return self._plan[1]

    def __len__(self) -> int:
        return len(self.batches()) - self.start

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches()[self.start :]

    def _dealt(self) -> list[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        n = len(self.sizes)
        order = random.permutation(n) if self.shuffle else np.arange(n)
        batches = self._packed(order) if self.shuffle else self._in_order(order)
        batches = self._divisible(batches)
        world = self.world_size
        if self.shuffle:
            totals = np.array([self.sizes[b].sum() for b in batches], dtype=np.int64)
            # Similar sizes side by side, so that ranks wait little for each other.
            batches = [batches[k] for k in np.argsort(-totals, kind="stable")]
            steps = random.permutation(len(batches) // world)
        else:
            steps = np.arange(len(batches) // world)
        # The rank that gets the largest of a step changes from step to step.
        return [batches[s * world + (self.rank + int(s)) % world] for s in steps.tolist()]

    def _fits(self, total: int, count: int, size: int) -> bool:
        within = self.max_structures is None or count < self.max_structures
        return count == 0 or (within and total + size <= self.budget)

    def _in_order(self, order: Array) -> list[list[int]]:
        batches: list[list[int]] = []
        total = 0
        for index in order.tolist():
            size = int(self.sizes[index])
            if not batches or not self._fits(total, len(batches[-1]), size):
                batches.append([])
                total = 0
            batches[-1].append(index)
            total += size
        return batches

    def _packed(self, order: Array) -> list[list[int]]:
        """Pack windows of the shuffled order, largest first into the fullest batch that fits."""
        mean = max(1.0, float(self.sizes.mean())) if len(self.sizes) else 1.0
        window = max(1, math.ceil(self._WINDOW * max(1.0, self.budget / mean)))
        batches: list[list[int]] = []
        for first in range(0, len(order), window):
            part = order[first : first + window]
            batches += self._best_fit(part[np.argsort(-self.sizes[part], kind="stable")])
        return batches

    def _best_fit(self, order: Array) -> list[list[int]]:
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

    def _divisible(self, batches: list[list[int]]) -> list[list[int]]:
        extra = -len(batches) % self.world_size
        if extra and self.drop_last:
            return batches[: len(batches) // self.world_size * self.world_size]
        for _ in range(extra):
            largest = max(range(len(batches)), key=lambda k: (len(batches[k]) > 1, len(batches[k])))
            whole = batches[largest]
            half = len(whole) // 2
            if half:
                batches[largest] = whole[::2]
                batches.append(whole[1::2])
            else:
                batches.append(list(whole))
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to continue."""
        return {"epoch": self.epoch, "start": self.start, "seed": self.seed, "plan": self._digest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after ``state["start"]`` batches of ``state["epoch"]``.

        Raises
        ------
        ConfigError
            If seed, sizes, budget or ranks are not those of the state.
        """
        if state["plan"] != self._digest():
            raise ConfigError(
                "the saved position belongs to another dataset, seed, budget or number of ranks"
            )
        self.epoch, self.start = int(state["epoch"]), int(state["start"])

    def _digest(self) -> str:
        settings = [self.budget, self.max_structures, self.shuffle, self.seed]
        settings += [self.world_size, self.drop_last]
        return hashlib.sha256(repr(settings).encode() + self.sizes.tobytes()).hexdigest()[:32]
