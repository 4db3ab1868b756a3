"""Relax one structure with one of ASE's own optimizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["OPTIMIZERS", "Relaxation", "check_optimizer", "relax"]

OPTIMIZERS = ("FIRE", "BFGS", "LBFGS", "FIRE2", "BFGSLineSearch")


@dataclass(frozen=True)
class Relaxation:
    """What a relaxation ended with: energies in eV, ``fmax`` in eV/Angstrom of the free atoms."""

    atoms: Atoms
    converged: bool
    steps: int
    energy_before: float
    energy: float
    fmax: float


def relax(
    atoms: Atoms,
    calculator: Any,
    *,
    fmax: float = 0.05,
    steps: int = 300,
    optimizer: str = "FIRE",
    cell: bool = False,
    trajectory: str | Path | None = None,
    callback: Callable[[int, float, float], None] | None = None,
) -> Relaxation:
    """Return a relaxed copy of ``atoms`` with its calculator attached.

    Parameters
    ----------
    atoms
        Left as it is; constraints are kept.
    calculator
        Any ASE calculator.
    fmax
        Convergence in eV/Angstrom, by ASE's own criterion.
    steps
        At most so many.
    optimizer
        One of :data:`OPTIMIZERS`.
    cell
        Relax the cell too (FrechetCellFilter).
    trajectory
        ASE trajectory file of every step.
    callback
        Called as ``callback(step, energy, fmax)`` after each step.
    """
    check_optimizer(optimizer)
    import ase.optimize
    from ase.filters import FrechetCellFilter

    moving = atoms.copy()
    moving.calc = calculator
    before = float(moving.get_potential_energy())
    target = FrechetCellFilter(moving) if cell else moving
    driver = getattr(ase.optimize, optimizer)(
        target, logfile=None, trajectory=None if trajectory is None else str(trajectory)
    )
    taken = 0
    converged = False
    for done in driver.irun(fmax=fmax, steps=steps):
        converged, taken = bool(done), driver.nsteps
        if callback is not None:
            callback(taken, float(moving.get_potential_energy()), _fmax(target))
    return Relaxation(
        moving, converged, taken, before, float(moving.get_potential_energy()), _fmax(target)
    )


def check_optimizer(name: str) -> None:
    """Raise ConfigError for an optimizer that is not one of :data:`OPTIMIZERS`."""
    if name not in OPTIMIZERS:
        raise ConfigError(f"No optimizer '{name}'. There are: {', '.join(OPTIMIZERS)}.")


def _fmax(target: Any) -> float:
    return float(np.sqrt((target.get_forces() ** 2).sum(axis=1).max()))
