"""What an optimizer or integrator offers to the loop of a batched run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ase_nnp.workflows.batched.evaluate import BatchResults
from ase_nnp.workflows.batched.state import Array, Batch

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Method"]


class Method:
    """A way to move structures; the state of each is its own, and lies on the model's device.

    ``on_forces`` is called with the forces at the present positions, ``watched`` is the number by
    which the host follows a structure, ``take_step`` moves all. ``done`` says of the numbers
    watched who needs no further step; one already taken is taken back.
    """

    name = ""
    stress = False
    #: Steps from one look at the model's own flag to the next; 0: at last states alone.
    looks = 0

    def settings(self) -> dict[str, Any]:
        """Return what must be the same to go on with a run, as JSON-able values."""
        raise NotImplementedError

    def check(self, atoms: Atoms) -> None:
        """Refuse a structure this method cannot move."""

    def add(self, new: Batch) -> None:
        """Append structures at the end of the batch; may change their momenta."""

    def keep(self, mask: Array) -> None:
        """Forget the structures where ``mask`` (B,) is false."""

    def on_forces(self, batch: Batch, results: BatchResults) -> None:
        """Use the forces at the present positions."""

    def watched(self, batch: Batch) -> Tensor:
        """Return the number by which the host follows each structure, (B,)."""
        raise NotImplementedError

    def done(self, watched: Array) -> Array:
        """Return which structures have converged, (B,) bool."""
        return np.zeros(len(watched), dtype=bool)

    def fmax(self, watched: Array) -> Array | None:
        """Return the largest force of each structure, (B,) eV/Angstrom, if forces count."""
        return None

    def take_step(self, batch: Batch, results: BatchResults) -> None:
        """Move every structure one step; never in place."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return the tensors, and arrays of the host, that :meth:`restore` needs."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], batch: Batch) -> None:
        """Take a state back."""

    def describe(self, step: Array, watched: Array) -> str:
        """Return a line for people on how things are."""
        return ""
