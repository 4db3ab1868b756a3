"""What an optimizer or integrator offers to the loop of a batched run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.workflows.batched.evaluate import BatchResults
from ase_nnp.workflows.batched.state import Array, Batch

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Method"]


class Method:
    """A way to move structures; the state of each is its own.

    ``on_forces`` is called with the forces at the present positions, ``done`` says who needs no
    further step, ``take_step`` moves the others.
    """

    name = ""
    stress = False

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

    def done(self, batch: Batch) -> Array:
        """Return which structures have converged, (B,) bool."""
        return np.zeros(len(batch), dtype=bool)

    def fmax(self, batch: Batch) -> Array | None:
        """Return the largest force of each structure, (B,) eV/Angstrom, if forces count."""
        return None

    def take_step(self, batch: Batch, results: BatchResults) -> None:
        """Move every structure one step."""
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        """Return what :meth:`restore` needs."""
        return {}

    def restore(self, arrays: dict[str, Array], batch: Batch) -> None:
        """Take a state back."""

    def describe(self, batch: Batch, results: BatchResults) -> str:
        """Return a line for people on how things are."""
        return ""
