"""The states a model is called in, each put back after the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch

from ase_nnp.models.potential import Potential

__all__ = ["compiled", "evaluating", "lowered", "progress_bar", "usual_default_dtype"]

_pins = 0  # callers inside `usual_default_dtype` that found another default
_lock = Lock()
_before = torch.float32


@contextmanager
def usual_default_dtype() -> Iterator[None]:
    """Build, load and compute under torch's own default precision, float32.

    Other packages call :func:`torch.set_default_dtype` for the whole process, and tensors that a
    library makes without a dtype would take theirs. The default is of the process, not of the
    thread: the first who comes changes it and the last who leaves puts it back.
    """
    global _pins, _before

    # Other packages (matgl, MACE scripts) set float64 for the whole process; models that make
    # constants in forward would then mix precisions.
    if _pins == 0 and torch.get_default_dtype() == torch.float32:
        yield
        return

    with _lock:
        if _pins == 0:
            _before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _pins += 1
    try:
        yield
    finally:
        with _lock:
            _pins -= 1
            if _pins == 0:
                torch.set_default_dtype(_before)


@contextmanager
def evaluating(model: Potential) -> Iterator[None]:
    """Evaluation mode for the duration of one call, so that predicting may interrupt training."""
    if not model.training:
        yield
        return

    # Past the model's own train(), which may undo a freezing or refuse.
    torch.nn.Module.train(model, False)
    try:
        yield
    finally:
        torch.nn.Module.train(model, True)


@contextmanager
def lowered(precision: str | None, device: torch.device) -> Iterator[None]:
    """Lower precision for the duration of one call; torch's own switches are put back."""
    if precision is None:
        yield
        return
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
        return

    # torch's switch is global: it must not stay set for the user's own code.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def compiled(model: Potential, function: Callable[..., Any] | None) -> Iterator[None]:
    """Let the model use a compiled form of its energies (or of forward) for one call."""
    if function is None:
        yield
        return
    name = "energies" if hasattr(model, "energies") else "forward"

    # On the instance and for one call only: a compiled function left there could not be pickled.
    setattr(model, name, function)
    try:
        yield
    finally:
        delattr(model, name)


@contextmanager
def progress_bar(total: int, show: bool | None) -> Iterator[Any]:
    """A progress bar for long work; by default only for 50 structures or more on a terminal."""
    bar: AbstractContextManager[Any] = nullcontext()
    if show or (show is None and total >= 50):
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        if show or console.is_terminal:
            bar = Progress(console=console)
    with bar as progress:
        if progress is None:
            yield lambda n: None
            return
        task = progress.add_task("predict", total=total)
        yield lambda n: progress.advance(task, n)
