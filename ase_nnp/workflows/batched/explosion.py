"""Structures that have flown apart or whose cell has collapsed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ase_nnp.workflows.batched.state import Array, Batch

__all__ = ["explosions", "traveled"]

#: Atoms that move farther than this (Angstrom) have left any structure that was meant.
FARTHEST = 1e5
#: A cell whose volume changes by more than this factor has collapsed or burst.
VOLUME_FACTOR = 100.0


def traveled(batch: Batch, *, moving_cell: bool) -> tuple[Tensor, Tensor]:
    """Return how far each structure is from how it was given, for :func:`explosions`.

    Parameters
    ----------
    batch
        After a step.
    moving_cell
        Whether the cells move too.

    Returns
    -------
    (B,) Angstrom that a coordinate has changed at most, and (B,) ratio of volumes.
    """
    # From where they were given: whole structures may lie anywhere, and creeping changes add up.
    far = batch.segments.max((batch.positions - batch.given).abs())
    if not moving_cell:
        return far, torch.ones_like(far)
    return far, torch.linalg.det(batch.cell).abs() / batch.volume


def explosions(far: Array, ratio: Array) -> dict[int, str]:
    """Return the places of structures that are none any more, and why."""
    # Not a number compares false: what is not finite has exploded too.
    flown = ~(far < FARTHEST)
    burst = ~((ratio < VOLUME_FACTOR) & (ratio > 1 / VOLUME_FACTOR))
    reasons = {}
    for k in np.flatnonzero(flown | burst).tolist():
        if flown[k]:
            reasons[k] = f"an atom has moved {far[k]:.3g} Angstrom: the structure has exploded"
        else:
            reasons[k] = f"the volume is {ratio[k]:.3g} times what it was"
    return reasons
