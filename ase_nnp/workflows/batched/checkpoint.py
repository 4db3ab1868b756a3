"""The state of a batched run as arrays and notes, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.workflows.batched.method import Method
from ase_nnp.workflows.batched.monitor_pool import MonitorPool
from ase_nnp.workflows.batched.state import Array, Batch, read_once

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["restore_state", "run_state"]

#: What a batch does not get from the structures as they were given.
MOVING = ("step", "first_energy", "unknown", "positions", "momenta", "cell")


def run_state(
    batch: Batch, method: Method, monitors: MonitorPool, waiting: int
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return arrays, and JSON-able notes, of a run between two steps.

    Parameters
    ----------
    batch, method, monitors
        The run's own.
    waiting
        Index of the first structure that has not entered yet.
    """
    state: dict[str, Any] = {f"batch_{name}": getattr(batch, name) for name in ("index", *MOVING)}
    state["batch_sizes"] = batch.segments.sizes
    state |= {f"method_{name}": value for name, value in method.state().items()}

    there = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    read = zip(there, read_once(list(there.values())), strict=True)
    arrays = {**state, **{name: value.numpy() for name, value in read}}
    return arrays, {"next": waiting, "monitors": monitors.state()}


def restore_state(
    arrays: Mapping[str, Array],
    notes: Mapping[str, Any],
    atoms: Sequence[Atoms],
    method: Method,
    monitors: MonitorPool,
    device: torch.device,
) -> Batch:
    """Put a state back into ``method`` and ``monitors``, and return the batch.

    Parameters
    ----------
    arrays, notes
        From :func:`run_state`.
    atoms
        The structures on the move, as they were given.
    method, monitors
        Fresh ones, changed here.
    device
        Where the state is to live, whichever it was written on.

    Raises
    ------
    LookupError, TypeError, ValueError
        The arrays do not belong together.
    """
    # Masses, constraints and species come from the input, which is the same by its digest.
    batch = Batch.of(atoms, [int(k) for k in arrays["batch_index"]], device)
    if not np.array_equal(batch.segments.sizes, arrays["batch_sizes"]):
        raise ValueError("the structures have other sizes")
    for name in MOVING:
        value, blank = arrays[f"batch_{name}"], getattr(batch, name)
        there = torch.from_numpy(value)
        if tuple(there.shape) != tuple(blank.shape) or there.dtype != torch.as_tensor(blank).dtype:
            raise ValueError(f"{name} of shape {value.shape}, {tuple(blank.shape)} expected")
        setattr(batch, name, there.to(device) if isinstance(blank, Tensor) else value)

    prefix = "method_"
    own = {
        k.removeprefix(prefix): torch.from_numpy(np.array(v)).to(device)
        for k, v in arrays.items()
        if k.startswith(prefix)
    }
    method.restore(own, batch)
    monitors.restore(notes["monitors"])
    return batch
