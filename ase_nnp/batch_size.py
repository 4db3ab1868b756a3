"""How much goes into one model call: what a device's memory holds, what pays on a CPU. Learnt."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Protocol

import torch

from ase_nnp.errors import AseNnpError

__all__ = ["CudaMemory", "LoopOrBatch", "Memory", "MemoryLimit"]


class Memory(Protocol):
    """What a device says of its memory, in bytes."""

    def free(self) -> int:
        """Return what a call could still take."""

    def start(self) -> None:
        """Begin to watch."""

    def used(self) -> int:
        """Return the most that was held since :meth:`start`, beyond what was held then."""

    def release(self) -> None:
        """Give cached memory back after a failure."""


class CudaMemory:
    """:class:`Memory` of a CUDA device, by torch's own counters; nothing here waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._before = device, 0

    def free(self) -> int:
        """Return the driver's free memory and what torch has cached."""
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(torch.cuda.mem_get_info(self.device)[0]) + cached

    def start(self) -> None:
        """Reset torch's peak."""
        torch.cuda.reset_peak_memory_stats(self.device)
        self._before = torch.cuda.memory_allocated(self.device)

    def used(self) -> int:
        """Return the peak since then."""
        return int(torch.cuda.max_memory_allocated(self.device)) - self._before

    def release(self) -> None:
        """Empty torch's cache."""
        torch.cuda.empty_cache()


class MemoryLimit:
    """How large a batch may be on a device, in *load*: edges + atoms.

    Bytes are taken to be proportional to the load, with the ratio of the largest batches so far (in
    small ones, what a call takes once would count too much). The limit begins small, grows by a
    factor with each batch that went well, and never passes ``SHARE`` of what is free. A batch that
    did not fit halves it, for good.

    Parameters
    ----------
    memory
        The device's; None where it tells nothing, and then only failures teach.
    most
        The limit never passes this.
    """

    FIRST, GROWTH, SHARE = 20_000, 4, 0.85

    def __init__(self, memory: Memory | None, most: float = math.inf) -> None:
        self.memory, self.most = memory, most
        self.bytes_per_load = 0.0
        self._seen = 0  # load of the batch that the ratio is from
        self._proven = self.FIRST / self.GROWTH
        self._ceiling = math.inf

    @property
    def load(self) -> int:
        """Edges + atoms that the next batch may have."""
        limit = min(self.most, self._ceiling, self.GROWTH * self._proven)
        if self.memory is not None and self.bytes_per_load:
            limit = min(limit, self.SHARE * self.memory.free() / self.bytes_per_load)
        return max(1, int(limit))

    def went_well(self, load: int, used: int) -> None:
        """Learn from a batch."""
        self._proven = max(self._proven, load)
        if used > 0 and load > 0:
            larger = load > 2 * self._seen
            if larger or (2 * load > self._seen and used / load > self.bytes_per_load):
                self.bytes_per_load, self._seen = used / load, max(load, self._seen)

    def did_not_fit(self, load: int) -> None:
        """Learn from a failure."""
        self._ceiling = min(self._ceiling, max(1, load // 2))
        self._proven = min(self._proven, self._ceiling)

    def is_shortage(self, error: BaseException, load: int) -> bool:
        """Whether an error says that a batch of this load did not fit.

        torch's own error does. Libraries below it raise a bare RuntimeError, whose text alone
        proves nothing: then the batch must also have been expected to need half of what is free.
        """
        if isinstance(error, torch.OutOfMemoryError):
            return True
        if not isinstance(error, RuntimeError) or isinstance(error, AseNnpError):
            return False
        text = str(error).lower()
        if self.memory is None or not ("memory" in text or "alloc" in text):
            return False
        return load * self.bytes_per_load > 0.5 * self.memory.free()


class LoopOrBatch:
    """On a CPU: whether structures of a size are faster one at a time or in small batches.

    One structure of 60 atoms keeps a CPU busy, and batches only spoil its caches; of four atoms
    it is the calls that cost. The border depends on the model and the machine, so both ways are
    timed, on a small part of the structures, for each size (edges + atoms, in factors of two).
    Before there are figures, and for sets too small to measure on, the size decides.
    """

    #: edges + atoms below which a batch is tried first.
    SMALL = 1_000
    #: Each way is timed twice, on two structures in a loop and on this share of a set in a batch.
    SHARE, TRIALS = 1 / 50, 2
    #: A set smaller than this is not measured on.
    LEAST = 100

    def __init__(self) -> None:
        self._best: dict[tuple[int, bool], float] = {}
        self._count: dict[tuple[int, bool], int] = defaultdict(int)

    def plan(self, load: int, left: int, cold: bool = False) -> tuple[bool, int]:
        """Say how to treat the next structures.

        Parameters
        ----------
        load
            edges + atoms of the next structure.
        left
            Structures still to come, this one included.
        cold
            The model has not been called yet: its first call takes longer and tells nothing.

        Returns
        -------
        batched, most : bool and int
            One call for all of them or one for each; and how many structures at most.
        """
        size, likely = load.bit_length(), load < self.SMALL
        known = {way: self._count[size, way] >= self.TRIALS for way in (True, False)}
        if known[True] and known[False]:
            return self._best[size, True] <= self._best[size, False], left
        if left < self.LEAST:
            return likely, left
        if cold:
            return False, 1
        way = likely if not known[likely] else not likely
        return way, max(4, int(left * self.SHARE)) if way else 2

    def took(self, load: float, batched: bool, seconds: float, total: float) -> None:
        """Note a time: ``load`` of a typical structure, ``total`` of all in the time."""
        key = (int(load).bit_length(), batched)
        self._count[key] += 1
        self._best[key] = min(self._best.get(key, math.inf), seconds / max(1.0, total))
