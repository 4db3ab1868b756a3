"""What is around a run: its processes, the lock of its folder, progress while data is read."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ase_nnp.errors import ConfigError
from ase_nnp.files.atomic import take_lock
from ase_nnp.training.settings import Settings

__all__ = ["alone_in", "quiet", "reading", "start_processes"]

#: Where Lightning, torchrun and Slurm say which process of a run this is.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder of a run against another call.

    Raises
    ------
    ConfigError
        Another process trains in it.
    """
    # The processes of one run share its folder; the first of them holds it.
    if any(os.environ.get(name, "0") != "0" for name in RANKS):
        yield
        return
    lock = take_lock(folder / "lock", wait=False)
    if lock is None:
        raise ConfigError(
            f"Another process trains in {folder}. Wait for it, or name another folder."
        )
    with lock:
        yield


def start_processes(settings: Settings) -> Any:
    """Start the processes of the run; Lightning knows how, on one machine and under Slurm."""
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    accelerator = settings.accelerator
    if accelerator == "auto":  # Lightning would take others that have no float64
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    # Each would be a process of its own, of some hundred MB.
    cores = os.cpu_count() or 1
    if accelerator == "cpu" and settings.devices != "auto" and settings.devices > max(cores, 2):
        raise ConfigError(
            f"devices: {settings.devices} processes on a machine of {cores} cores; give at most "
            "one a core."
        )
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            precision="bf16-mixed" if settings.precision == "bf16" else None,
        )
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"accelerator, devices or nodes: {error}") from error
    fabric.launch()
    return fabric


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out Lightning's notes on devices and processes."""
    log = logging.getLogger("lightning.fabric")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def reading(
    settings: Settings, what: str = "reading the training set"
) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar over the pass through the training set, on a terminal."""
    if not settings.progress or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)
