"""A batched run from its arguments: model, structures, folder, and the loop over them."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from ase_nnp.errors import ConfigError
from ase_nnp.files.identity import STRUCTURES
from ase_nnp.models.files import load_model, model_hash
from ase_nnp.models.potential import Potential
from ase_nnp.workflows.batched.engine import Loop
from ase_nnp.workflows.batched.evaluate import Evaluator
from ase_nnp.workflows.batched.inputs import Structures
from ase_nnp.workflows.batched.method import Method
from ase_nnp.workflows.batched.monitor_pool import MonitorPool
from ase_nnp.workflows.batched.outcome import Outcome
from ase_nnp.workflows.batched.settings import RunSettings
from ase_nnp.workflows.batched.store import Store

__all__ = ["run"]


def run(
    model: Any, structures: Any, method: Method, steps: int, settings: RunSettings
) -> Iterator[Outcome]:
    """Move structures and yield each as it is done.

    Parameters
    ----------
    model
        What :func:`~ase_nnp.load_model` takes.
    structures
        What :class:`~ase_nnp.workflows.batched.inputs.Structures` takes.
    method
        Moves the structures.
    steps
        At most so many for each.
    settings
        How the run is carried out.

    Raises
    ------
    ConfigError
        For arguments that cannot be meant, or a folder that holds another run.
    """
    if not (isinstance(steps, Integral) and steps >= 0):
        raise ConfigError(f"steps = {steps!r}: a number of steps, at least 0.")
    potential = load_model(model)
    given = Structures(structures)
    wanted = ["stress"] if method.stress else []
    wanted += MonitorPool.properties(settings.monitor, potential)
    evaluator = Evaluator(potential, wanted, settings)
    return _carried_out(potential, Loop(given, method, evaluator, int(steps), settings))


def _carried_out(model: Potential, loop: Loop) -> Iterator[Outcome]:
    """Run a loop with its folder open and its model in evaluation mode."""
    settings, training = loop.settings, model.training
    if settings.folder is not None:
        identity = {
            "method": loop.method.name,
            "steps": loop.steps,
            "interval": int(settings.interval),
            "trajectory": settings.trajectory,
            "model": model_hash(model),
            "monitor": loop.monitors.settings(),
            **loop.method.settings(),
            STRUCTURES: loop.structures.digests(),
        }
        loop.store = Store(Path(settings.folder), identity, settings.trajectory)

    model.eval()
    try:
        yield from loop.outcomes()
    finally:
        loop.monitors.close()
        if loop.store is not None:
            loop.store.close()
        if training:
            torch.nn.Module.train(model, True)
