"""How much goes into one model call: what a device's memory holds, what pays on a CPU. Learnt."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Protocol

import torch

from ase_nnp.errors import AseNnpError

__all__ = ["BatchSizeTuner", "CudaMemory", "LoopOrBatch", "Memory", "MemoryLimit"]

#: Seconds a structure above which the cost of a call itself no longer matters.
LONG = 0.1


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
        # torch keeps freed blocks for itself: to the driver they are taken, to the next batch they
        # are free.
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(torch.cuda.mem_get_info(self.device)[0]) + cached

    def start(self) -> None:
        """Reset torch's peak."""
        # The peak also counts what was held before the batch, so that has to be known.
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
        # Bytes per load of a small batch promise too little for a large one (fixed costs,
        # fragmentation), so the step up is bounded whatever the ratio says.
        limit = min(self.most, self._ceiling, self.GROWTH * self._proven)
        if self.memory is not None and self.bytes_per_load:
            limit = min(limit, self.SHARE * self.memory.free() / self.bytes_per_load)
        return max(1, int(limit))

    def went_well(self, load: int, used: int) -> None:
        """Learn from a batch."""
        self._proven = max(self._proven, load)
        if used > 0 and load > 0:
            # A batch of half the size or more may correct the ratio upwards; only a much larger one
            # replaces it, because it says more about the next.
            larger = load > 2 * self._seen
            if larger or (2 * load > self._seen and used / load > self.bytes_per_load):
                self.bytes_per_load, self._seen = used / load, max(load, self._seen)

    def did_not_fit(self, load: int) -> None:
        """Learn from a failure."""
        # For good: memory that another process holds comes and goes, and each failure costs a whole
        # batch.
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
    """On a CPU: whether structures of a size are faster one at a time, in small batches or large.

    One structure of 60 atoms keeps a CPU busy, and batches only spoil its caches; of four atoms
    it is the calls that cost. The borders depend on the model and the machine. So for each size
    (edges + atoms, in factors of two) two structures are timed alone and two small batches that
    begin with that size are timed against what their members would have taken alone. Where small
    batches pay, two of as many structures as the budget holds are timed too: what a small one
    saves, a large one may lose beyond the cache. Sets too small to measure on go by size, in small
    batches.
    """

    #: edges + atoms below which structures of a small set go in batches.
    SMALL = 1_000
    #: edges + atoms of a small batch. Beyond it tensors leave the cache, and the C library gives
    #: their memory back and fetches it again, page by page, with each call: batches of a small
    #: network took 1.4 times a loop's time with 3800, 0.7 times with 2700.
    FITS = 3_000
    #: Timings wanted of each kind; batches with at least four structures or this share of a set.
    TRIALS, SHARE = 2, 1 / 50
    #: A set smaller than this is not measured on.
    LEAST = 100

    def __init__(self) -> None:
        self._alone: dict[int, deque[float]] = {}  # seconds per load, of the last structures
        # Batch over loop, of the last batches: by size, and whether the batch was a small one.
        self._ratio: dict[tuple[int, bool], deque[float]] = {}

    def plan(self, load: int, total: int, left: int, cold: bool = False) -> tuple[bool, int]:
        """Say how to treat the next structures.

        Parameters
        ----------
        load
            edges + atoms of the next structure.
        total, left
            Structures of the set, and those still to come.
        cold
            The model has not been called yet: its first call takes longer and tells nothing.

        Returns
        -------
        batched, most : bool and int
            One call for all of them or one for each; and how many structures at most.
        """
        size = load.bit_length()
        few = min(left, max(2, self.FITS // max(1, load)))

        # The medians: one batch that another process disturbed must not decide for the rest.
        small, large = self._known(size, True), self._known(size, False)
        if large is None and small is not None and small <= 1.0:
            return True, left
        if small is not None or large is not None:
            best = min(ratio for ratio in (small, large) if ratio is not None)
            if best > 1.0:
                return False, 1  # the one after it may be of another size
            return True, left if best == large else few
        if total < self.LEAST:
            return load < self.SMALL, few if load < self.SMALL else 1

        # Alone first: what a batch is compared with must be known before it.
        if cold or len(self._alone.get(size, ())) < self.TRIALS:
            return False, 1
        return True, max(4, min(few, int(total * self.SHARE)))

    def _known(self, size: int, small: bool) -> float | None:
        """Return batch over loop of a kind of batch, None before it has been timed enough."""
        ratios = self._ratio.get((size, small), ())
        return median(ratios) if len(ratios) >= self.TRIALS else None

    def took(self, loads: Sequence[int], seconds: float) -> None:
        """Note the time of one call with structures of these loads."""
        size = loads[0].bit_length()
        if len(loads) == 1:
            self._alone.setdefault(size, deque(maxlen=5)).append(seconds / max(1, loads[0]))
        elif self._alone:
            # Members differ in size, so each is charged what one of its own size takes alone.
            ratio = seconds / sum(load * self._cost(load) for load in loads)
            kind = size, sum(loads) <= self.FITS
            self._ratio.setdefault(kind, deque(maxlen=5)).append(ratio)

    def _cost(self, load: int) -> float:
        """Seconds per load of a structure alone, of the nearest size that is known."""
        size = load.bit_length()
        return median(self._alone[min(self._alone, key=lambda known: abs(known - size))])


class BatchSizeTuner:
    """Choose the micro-batch size from measured time: each of several is timed twice.

    On a GPU, or where a caller has chosen, there is nothing to measure. Batches save what a call
    costs beside its arithmetic, milliseconds; where one structure takes :data:`LONG`, the loop
    (option 0) stands and batches are not tried.
    """

    def __init__(self, options: Sequence[int]) -> None:
        self.options = list(options)
        self.seconds: dict[int, float] = {}

        # Twice, and the smaller time counts: the first call with a new shape also allocates.
        twice = [option for option in self.options for _ in range(2)]
        self._left = twice if len(self.options) > 1 else []

    @property
    def budget(self) -> int:
        """Edges of a batch; 0 is one structure at a time."""
        if self._left:
            return self._left[0]
        return min(self.options, key=lambda o: self.seconds.get(o, math.inf))

    @property
    def measuring(self) -> bool:
        """Whether the choice is still open."""
        return bool(self._left)

    def note(self, seconds: float, structures: int) -> None:
        """Take what the present option has cost for all structures."""
        option = self._left.pop(0)
        self.seconds[option] = min(seconds, self.seconds.get(option, math.inf))
        if option == 0 and 0 not in self._left and self.seconds[0] > LONG * structures:
            self._left = []
