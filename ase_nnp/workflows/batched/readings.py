"""What the host learns of a step: a few numbers a structure, read from the device at once."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ase_nnp.models.neighbors import MIN_DISTANCE
from ase_nnp.workflows.batched.evaluate import BatchResults
from ase_nnp.workflows.batched.explosion import explosions
from ase_nnp.workflows.batched.state import Array, Batch, read_once

__all__ = ["HostCopy", "Readings"]


@dataclass
class Readings:
    """Numbers of each structure, (B,) float64 on the host.

    Attributes
    ----------
    energy
        eV, before the step.
    sound
        1 where every answer of the model is finite.
    closest
        Angstrom^2 between the closest two atoms, before the step.
    watched
        As :meth:`~ase_nnp.workflows.batched.method.Method.watched` has it, before the step.
    far, ratio
        As :func:`~ase_nnp.workflows.batched.explosion.traveled` has them, after the step.
    stale
        1 where neighbors must be searched after the step.
    """

    energy: Array
    sound: Array
    closest: Array
    watched: Array
    far: Array
    ratio: Array
    stale: Array

    @classmethod
    def of(cls, *columns: Tensor) -> Readings:
        """Read all columns by one copy."""
        together = torch.stack([column.double() for column in columns])
        return cls(*read_once([together])[0].numpy())

    def failures(self) -> dict[int, str]:
        """Return whose answers cannot be used, and why."""
        reasons = dict.fromkeys(
            np.flatnonzero(self.sound == 0).tolist(),
            "the model's energy, forces or stress are not finite",
        )
        for k in np.flatnonzero(self.closest < MIN_DISTANCE**2).tolist():
            reasons[k] = "StructureError: Two atoms are in the same place."
        return reasons

    def explosions(self) -> dict[int, str]:
        """Return who is no structure any more after the step, and why."""
        return explosions(self.far, self.ratio)


class HostCopy:
    """Batch and results at one moment, copied to the host when they are first looked at."""

    def __init__(self, batch: Batch, results: BatchResults) -> None:
        # A copy of the names: steps replace tensors and change none.
        self._there, self._results_there = copy.copy(batch), results
        self._batch: Batch | None = None
        self._results: BatchResults | None = None

    @property
    def batch(self) -> Batch:
        """The structures."""
        if self._batch is None:
            self._batch = self._there.on_host()
        return self._batch

    @property
    def results(self) -> BatchResults:
        """What the model says of them."""
        if self._results is None:
            self._results = self._results_there.on_host()
        return self._results
