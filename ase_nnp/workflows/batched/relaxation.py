"""Relax many structures at once, each in the steps that ASE would take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError
from ase_nnp.workflows.batched.evaluate import BatchResults
from ase_nnp.workflows.batched.method import Method
from ase_nnp.workflows.batched.optimizers import FIRE, Optimizer
from ase_nnp.workflows.batched.outcome import Outcome
from ase_nnp.workflows.batched.quasi_newton import BFGS, LBFGS
from ase_nnp.workflows.batched.rows import AtomRows, CellRows
from ase_nnp.workflows.batched.run import run
from ase_nnp.workflows.batched.settings import RunSettings
from ase_nnp.workflows.batched.state import Array, Batch

__all__ = ["OPTIMIZERS", "Relaxation", "iter_relax", "relax_many"]

OPTIMIZERS: dict[str, type[Optimizer]] = {"FIRE": FIRE, "BFGS": BFGS, "LBFGS": LBFGS}


class Relaxation(Method):
    """An optimizer on rows, with ASE's test of convergence."""

    def __init__(self, optimizer: str, fmax: float, cell: bool) -> None:
        if optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"No batched optimizer '{optimizer}'. There are: {', '.join(OPTIMIZERS)}."
            )
        if not fmax > 0:
            raise ConfigError(f"fmax = {fmax}: a positive force in eV/Angstrom.")

        self.name, self.threshold, self.stress = optimizer, float(fmax), cell
        self.rows = CellRows() if cell else AtomRows()
        self.optimizer = OPTIMIZERS[optimizer]()
        self._forces = torch.zeros(0, 3, dtype=torch.float64)

    def settings(self) -> dict[str, Any]:
        """Return threshold and whether the cell relaxes."""
        return {"fmax": self.threshold, "cell": self.stress}

    def add(self, new: Batch) -> None:
        """Append structures."""
        self.optimizer.add(self.rows.add(new))

    def keep(self, mask: Array) -> None:
        """Forget structures."""
        self.rows.keep(mask)
        self.optimizer.keep(mask)

    def on_forces(self, batch: Batch, results: BatchResults) -> None:
        """Take the forces on all rows."""
        self._forces = self.rows.forces(batch, results.forces, results.stress)

    def watched(self, batch: Batch) -> Tensor:
        """Return the longest row of forces, (B,)."""
        return self.rows.segments.longest(self._forces)

    def done(self, watched: Array) -> Array:
        """Return whose forces have come below the threshold."""
        return watched < self.threshold

    def fmax(self, watched: Array) -> Array:
        """Return what is watched."""
        return watched

    def take_step(self, batch: Batch, results: BatchResults) -> None:
        """Move by one step of the optimizer."""
        x = self.rows.x(batch)
        step = self.optimizer.displace(x, self._forces, self.rows.free(batch))
        self.rows.move(batch, x + step)

    def state(self) -> dict[str, Any]:
        """Return the state of optimizer and rows."""
        rows = {f"rows_{k}": v for k, v in self.rows.state().items()}
        return {**rows, **{f"optimizer_{k}": v for k, v in self.optimizer.state().items()}}

    def restore(self, tensors: Mapping[str, Tensor], batch: Batch) -> None:
        """Take a state back."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.rows.restore(part("rows_"), batch)
        self.optimizer.restore(part("optimizer_"), self.rows.segments)

    def describe(self, step: Array, watched: Array) -> str:
        """Return the largest force of all."""
        return f"largest force {watched.max():.3f} eV/Å"


def iter_relax(
    model: Any,
    structures: Any,
    *,
    optimizer: str = "FIRE",
    fmax: float = 0.05,
    steps: int = 300,
    cell: bool = False,
    **options: Any,
) -> Iterator[Outcome]:
    """As :func:`relax_many`, yielding each structure as soon as it is done."""
    method = Relaxation(optimizer, fmax, cell)
    return run(model, structures, method, steps, RunSettings.of(options))


def relax_many(model: Any, structures: Any, **options: Any) -> list[Outcome]:
    """Relax many structures at once.

    Each moves as it would alone under ASE's optimizer of the same name: the same steps, the same
    test of convergence (with ``cell``: of ASE's FrechetCellFilter, cell rows included). One that
    fails, or cannot be read, does not disturb the others.

    Parameters
    ----------
    model
        What :func:`~ase_nnp.load_model` takes: a potential, a calculator of ours, a path, a name,
        None for the default model.
    structures
        One ase.Atoms, any iterable of them, or a dataset; left as they are. FixAtoms and
        FixCartesian are kept.
    **options
        ``optimizer``: ``"FIRE"`` (default), ``"BFGS"`` or ``"LBFGS"``. ``fmax``: eV/Angstrom
        (default 0.05). ``steps``: at most so many for each (default 300). ``cell``: relax the
        cell too. Further the fields of :class:`~ase_nnp.workflows.batched.RunSettings`:
        ``folder``, ``trajectory``, ``interval``, ``checkpoint_every``, ``monitor``, ``batch``,
        ``max_edges``, ``max_atoms``, ``skin``, ``progress``.

    Returns
    -------
    list of Outcome
        In the order of ``structures``.

    Raises
    ------
    ConfigError
        For arguments that cannot be meant, or a folder that holds another run.
    DatasetError
        The folder is damaged or cannot be written.
    """
    return sorted(iter_relax(model, structures, **options), key=lambda outcome: outcome.index)
