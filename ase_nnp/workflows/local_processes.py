"""Processes of this machine as an executor, for work that keeps checkpoints.

They are spawned, not forked: threads of a numerical library do not survive a fork. A process that
is told to end (SIGTERM: by a scheduler, or because a process beside it died) has its work
interrupted first, so that a checkpoint is made.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from ase_nnp.errors import TaskError

__all__ = ["available_cores", "interruptible", "local_processes"]

_state = {"working": False, "ended": False}


def available_cores() -> int:
    """Return the CPU cores that this process may use; a scheduler may have granted few."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_processes(workers: int) -> ProcessPoolExecutor:
    """Return an executor of spawned processes that share the cores of this machine.

    Parameters
    ----------
    workers
        Number of processes; each computes with its share of the cores.

    Raises
    ------
    TaskError
        A process cannot begin.
    """
    threads = max(1, available_cores() // workers)
    executor = ProcessPoolExecutor(
        # Spawned: OpenMP's and CUDA's state do not survive a fork.
        workers,
        get_context("spawn"),
        initializer=_begin,
        initargs=(threads,),
    )

    # A process that cannot even begin is the fault of no structure.
    try:
        executor.submit(os.getpid).result()
    except BrokenExecutor as error:
        executor.shutdown()
        raise TaskError(
            "A process of this machine ended before it had begun. In a script, call this below "
            '`if __name__ == "__main__":`, because the processes import it; else look above for '
            "what it printed."
        ) from error

    return executor


def _begin(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, _on_end)


def _on_end(*_: Any) -> None:
    if not _state["working"]:
        os._exit(128 + signal.SIGTERM)
    _state["ended"] = True
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a notice to end interrupt the block, and end the process after it."""
    _state["working"] = True
    try:
        yield
    finally:
        _state["working"] = False
        # The executor would take the interrupt for a result and wait for the next call.
        if _state["ended"]:
            os._exit(128 + signal.SIGTERM)
