"""Forked children compute with one thread: OpenMP's threads do not survive a fork.

A process that has run a model holds a team of OpenMP threads. In a child that ``fork`` made
(``ProcessPoolExecutor`` and ``multiprocessing`` on Linux by default) the first parallel loop of
torch would wait for threads that exist in the parent only. torch's own data loader takes one
thread in its workers too.
"""

from __future__ import annotations

import os
import sys

__all__ = ["use_one_thread"]


def use_one_thread() -> None:
    """Make torch, where it is loaded, compute without a team of threads."""
    # Not imported for this: most processes that fork never load torch.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=use_one_thread)
