"""Structures that have flown apart or whose cell has collapsed."""

from __future__ import annotations

import numpy as np

from ase_nnp.workflows.batched.state import Batch

__all__ = ["exploded"]

#: Atoms that move farther than this (Angstrom) have left any structure that was meant.
FARTHEST = 1e5
#: A cell whose volume changes by more than this factor has collapsed or burst.
VOLUME_FACTOR = 100.0


def exploded(batch: Batch, *, moving_cell: bool) -> dict[int, str]:
    """Return the places in the batch of structures that are no structures any more, with reasons.

    Parameters
    ----------
    batch
        After a step.
    moving_cell
        Whether the cells move too.
    """
    # How far from where they were given: whole structures may lie anywhere.
    start = np.concatenate([one.positions for one in batch.atoms])
    far = batch.segments.max(np.abs(batch.positions - start).max(axis=1))
    ratio = np.ones(len(batch))
    if moving_cell:
        # Against the cell as given: creeping changes add up.
        given = np.array([abs(np.linalg.det(one.cell.array)) for one in batch.atoms])
        ratio = np.abs(np.linalg.det(batch.cell)) / given

    # Not a number compares false: what is not finite has exploded too.
    with np.errstate(invalid="ignore"):
        flown = ~(far < FARTHEST)
        burst = ~((ratio < VOLUME_FACTOR) & (ratio > 1 / VOLUME_FACTOR))
    reasons = {}
    for k in np.flatnonzero(flown | burst).tolist():
        if flown[k]:
            reasons[k] = f"an atom has moved {far[k]:.3g} Angstrom: the structure has exploded"
        else:
            reasons[k] = f"the volume is {ratio[k]:.3g} times what it was"
    return reasons
