"""The settings of a batched run, one object for relaxation and dynamics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any, Self

from ase_nnp.errors import ConfigError

__all__ = ["Progress", "RunSettings"]

TRAJECTORIES = ("traj", "h5")


@dataclass(frozen=True)
class Progress:
    """Where a run stands: numbers of structures, and a line for people."""

    total: int
    finished: int
    running: int
    failed: int
    text: str = ""


@dataclass(frozen=True)
class RunSettings:
    """How a batched run is carried out, whatever moves the structures.

    Parameters
    ----------
    folder
        Keeps results, trajectories and checkpoints; the same call goes on after a kill.
    trajectory
        ``"traj"`` (ASE), ``"h5"`` or None; one file for each structure in ``folder``.
    interval
        Steps from frame to frame.
    checkpoint_every
        Seconds; what was done since the last one is done again after a kill. An interrupt
        (Ctrl-C) makes one.
    monitor
        Arguments of :class:`~ase_nnp.uncertainty.UncertaintyMonitor` for each structure, such as
        ``{"key": "forces_std_norm", "threshold": 0.3, "mode": "stop"}``.
    batch
        ``"auto"`` measures on a CPU whether batches or one structure at a time are quicker;
        ``"loop"`` is one at a time; a number is a budget of edges.
    max_edges, max_atoms
        What one model call may hold. ``max_atoms`` also limits how many atoms move together.
    skin
        Angstrom that neighbor lists reach beyond the cutoff; does not change results.
    progress
        Called with :class:`Progress` at every step.

    Raises
    ------
    ConfigError
        For values that cannot be meant.
    """

    folder: str | Path | None = None
    trajectory: str | None = "traj"
    interval: int = 1
    checkpoint_every: float = 30.0
    monitor: Mapping[str, Any] | None = None
    batch: str | int = "auto"
    max_edges: int | None = None
    max_atoms: int | None = None
    skin: float = 0.8
    progress: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.interval, Integral) and self.interval >= 1):
            raise ConfigError(f"interval = {self.interval!r}: a number of steps, at least 1.")
        if self.trajectory not in (None, *TRAJECTORIES):
            raise ConfigError(
                f"trajectory = {self.trajectory!r}: one of {', '.join(TRAJECTORIES)}, or None."
            )
        if not self.skin >= 0:
            raise ConfigError(f"skin = {self.skin}: a length in Angstrom, zero or more.")
        for name in ("max_edges", "max_atoms"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ConfigError(f"{name} = {value}: at least 1, or None.")

        budget = isinstance(self.batch, int) and not isinstance(self.batch, bool) and self.batch > 0
        if self.batch not in ("auto", "loop") and not budget:
            raise ConfigError(f"batch = {self.batch!r}: 'auto', 'loop' or a number of edges.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return settings from keyword arguments.

        Raises
        ------
        ConfigError
            For a name that is no setting.
        """
        known = [one.name for one in fields(cls)]
        strange = sorted(set(options) - set(known))
        if strange:
            raise ConfigError(f"No option {', '.join(strange)}. There are: {', '.join(known)}.")
        return cls(**options)
