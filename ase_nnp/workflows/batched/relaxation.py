"""Relax many structures at once, each in the steps that ASE would take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential
from ase_nnp.workflows.batched.engine import Method, Progress, run
from ase_nnp.workflows.batched.evaluate import Found
from ase_nnp.workflows.batched.optimizers import METHODS
from ase_nnp.workflows.batched.outcome import Outcome
from ase_nnp.workflows.batched.rows import AtomRows, CellRows
from ase_nnp.workflows.batched.state import Array, Batch

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Relaxing", "iter_relax", "relax_many"]


class Relaxing(Method):
    """An optimizer on rows, with ASE's test of convergence."""

    def __init__(self, optimizer: str, fmax: float, cell: bool) -> None:
        if optimizer not in METHODS:
            raise ConfigError(
                f"No batched optimizer '{optimizer}'. There are: {', '.join(METHODS)}."
            )
        if not fmax > 0:
            raise ConfigError(f"fmax = {fmax}: a positive force in eV/Angstrom.")
        self.name, self.threshold, self.stress = optimizer, float(fmax), cell
        self.rows = CellRows() if cell else AtomRows()
        self.optimizer = METHODS[optimizer]()
        self._forces = np.zeros((0, 3))

    def settings(self) -> dict[str, Any]:
        """Return threshold and whether the cell relaxes."""
        return {"fmax": self.threshold, "cell": self.stress}

    def add(self, new: Batch) -> None:
        """Append structures."""
        self.optimizer.add(self.rows.add(new))

    def keep(self, mask: Array) -> None:
        """Forget structures."""
        if len(self._forces):
            self._forces = self._forces[mask[self.rows.segments.owner]]
        self.rows.keep(mask)
        self.optimizer.keep(mask)

    def arrive(self, batch: Batch, found: Found) -> None:
        """Take the forces on all rows."""
        self._forces = self.rows.forces(batch, found.forces, found.stress)

    def fmax(self, batch: Batch) -> Array:
        """Return the longest row of forces, (B,)."""
        return self.rows.segments.longest(self._forces)

    def done(self, batch: Batch) -> Array:
        """Return whose forces have come below the threshold."""
        return self.fmax(batch) < self.threshold

    def depart(self, batch: Batch, found: Found) -> None:
        """Move by one step of the optimizer."""
        x = self.rows.x(batch)
        step = self.optimizer.displace(x, self._forces, self.rows.free(batch))
        self.rows.move(batch, x + step)
        self._forces = np.zeros((0, 3))

    def state(self) -> dict[str, Array]:
        """Return the state of optimizer and rows."""
        rows = {f"rows_{k}": v for k, v in self.rows.state().items()}
        return {**rows, **{f"optimizer_{k}": v for k, v in self.optimizer.state().items()}}

    def restore(self, arrays: dict[str, Array], batch: Batch) -> None:
        """Take a state back."""

        def part(prefix: str) -> dict[str, Array]:
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        self.rows.restore(part("rows_"), batch)
        self.optimizer.restore(part("optimizer_"), self.rows.segments)

    def say(self, batch: Batch, found: Found) -> str:
        """Return the largest force of all."""
        return f"largest force {self.fmax(batch).max():.3f} eV/Å"


def iter_relax(
    model: Potential,
    structures: Sequence[Atoms],
    *,
    optimizer: str = "FIRE",
    fmax: float = 0.05,
    steps: int = 300,
    cell: bool = False,
    **options: Any,
) -> Iterator[Outcome]:
    """As :func:`relax_many`, yielding each structure as soon as it is done."""
    return run(model, structures, Relaxing(optimizer, fmax, cell), steps=steps, **options)


def relax_many(
    model: Potential,
    structures: Sequence[Atoms],
    *,
    optimizer: str = "FIRE",
    fmax: float = 0.05,
    steps: int = 300,
    cell: bool = False,
    folder: str | Path | None = None,
    trajectory: str | None = "traj",
    interval: int = 1,
    checkpoint_every: float = 30.0,
    monitor: Mapping[str, Any] | None = None,
    batch: str | int = "auto",
    max_edges: int | None = None,
    max_atoms: int | None = None,
    skin: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[Outcome]:
    """Relax many structures at once.

    Each moves as it would alone under ASE's optimizer of the same name: the same steps, the same
    test of convergence (with ``cell``: of ASE's FrechetCellFilter, cell rows included). One that
    fails does not disturb the others.

    Parameters
    ----------
    model
        Any potential.
    structures
        ase.Atoms, or a dataset; left as they are. FixAtoms and FixCartesian are kept.
    optimizer
        ``"FIRE"``, ``"BFGS"`` or ``"LBFGS"``.
    fmax
        eV/Angstrom.
    steps
        At most so many for each.
    cell
        Relax the cell too.
    folder
        Keeps results, trajectories and checkpoints; the same call goes on after a kill.
    trajectory
        ``"traj"`` (ASE), ``"h5"`` or None; one file for each structure in ``folder``.
    interval
        Steps from frame to frame.
    checkpoint_every
        Seconds; what was done since the last one is done again after a kill.
    monitor
        Arguments of :class:`~ase_nnp.uncertainty.UncertaintyMonitor` for each structure, such as
        ``{"key": "forces_std_norm", "threshold": 0.3, "mode": "stop"}``.
    batch
        ``"auto"`` measures on a CPU whether batches or one structure at a time are quicker;
        ``"loop"`` is one at a time; a number is a budget of edges.
    max_edges, max_atoms
        What one model call may hold. ``max_atoms`` also limits how many atoms move together.
    skin
        Angstrom that neighbour lists reach beyond the cutoff; does not change results.
    progress
        Called with :class:`Progress` at every step.

    Returns
    -------
    list of Outcome
        In the order of ``structures``.

    Raises
    ------
    ConfigError
        For arguments that cannot be meant, or a folder that holds another run.
    """
    outcomes = iter_relax(
        model,
        structures,
        optimizer=optimizer,
        fmax=fmax,
        steps=steps,
        cell=cell,
        folder=folder,
        trajectory=trajectory,
        interval=interval,
        checkpoint_every=checkpoint_every,
        monitor=monitor,
        batch=batch,
        max_edges=max_edges,
        max_atoms=max_atoms,
        skin=skin,
        progress=progress,
    )
    return sorted(outcomes, key=lambda outcome: outcome.index)
