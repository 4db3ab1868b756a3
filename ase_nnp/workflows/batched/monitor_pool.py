"""Uncertainty monitors of a batched run: one for each structure, as on a run of its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.monitor import MonitorEvent, UncertaintyMonitor
from ase_nnp.workflows.batched.evaluate import BatchResults
from ase_nnp.workflows.batched.outcome import labeled
from ase_nnp.workflows.batched.state import Array, Batch

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["MonitorPool"]


class _Results:
    """What a monitor reads of a calculator."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results


class _Run:
    """What a monitor needs of a dynamics: one structure of the batch as it is now."""

    def __init__(self) -> None:
        self.nsteps = -1
        self.max_steps = 1
        self.atoms: Atoms | None = None


class MonitorPool:
    """Uncertainty monitors, one for each structure on the move.

    Parameters
    ----------
    options
        Arguments of :class:`~ase_nnp.uncertainty.UncertaintyMonitor` without ``dyn`` and
        ``interval``: ``{"key": "forces_std_norm", "threshold": 0.3, "mode": "stop"}``; None
        watches nothing.
    """

    def __init__(self, options: Mapping[str, Any] | None) -> None:
        self.options = None if options is None else dict(options)
        for name in {"dyn", "interval", "save"} & set(self.options or ()):
            raise ConfigError(
                f"monitor[{name!r}]: in a batch each structure has a monitor of its own, at every "
                "step; its events stand in the outcome."
            )
        if (self.options or {}).get("mode") == "branch":
            raise ConfigError("monitor mode 'branch' is for a single run of ASE's dynamics.")
        self._monitors: dict[int, tuple[_Run, UncertaintyMonitor]] = {}
        self._kept: dict[int, dict[str, Any]] = {}

    @staticmethod
    def properties(options: Mapping[str, Any] | None, model: Potential) -> list[str]:
        """Return what the model must give beside energy and forces.

        Raises
        ------
        ConfigError
            If it does not give it.
        """
        if options is None:
            return []
        key = str(options.get("key", "forces_std_norm"))
        if key not in model.outputs:
            raise ConfigError(
                f"The monitor watches '{key}', which this model does not give. Attach an "
                f"uncertainty to it first. It gives: {', '.join(model.outputs)}."
            )
        return [] if key in ("energy", "forces", "stress") else [key]

    def settings(self) -> dict[str, str] | None:
        """Return what must be the same to go on with a run, as JSON-able values."""
        if self.options is None:
            return None
        # A function has no content that could be compared with another process's.
        plain = (str, int, float, bool, type(None))
        return {
            name: repr(value) if isinstance(value, plain) else type(value).__name__
            for name, value in sorted(self.options.items())
        }

    def look(self, batch: Batch, results: BatchResults, sound: Array) -> Array:
        """Show every monitor its structure; returns which structures must stop, (B,) bool.

        Batch and results are on the host; those where ``sound`` (B,) is false are not shown.
        """
        stop = np.zeros(len(batch), dtype=bool)
        for k in np.flatnonzero(sound).tolist():
            run, monitor = self._of(int(batch.index[k]))

            atoms = labeled(batch, results, k)
            labels = atoms.calc.results
            atoms.calc = None
            atoms._calc = _Results(labels)  # every name, also those ASE does not know
            run.atoms, run.nsteps, run.max_steps = atoms, int(batch.step[k]), 1

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is reported in the outcome
                monitor()
            stop[k] = run.max_steps == 0
        return stop

    def _of(self, index: int) -> tuple[_Run, UncertaintyMonitor]:
        if index not in self._monitors:
            assert self.options is not None
            run = _Run()
            monitor = UncertaintyMonitor(run, interval=None, **self.options)
            old = self._kept.pop(index, None)
            if old is not None:
                monitor._above, monitor._last = old["above"], old["last"]
                monitor.triggered = old["triggered"]
                monitor.events = [_event(values) for values in old["events"]]
            self._monitors[index] = (run, monitor)
        return self._monitors[index]

    def events(self, index: int) -> list[dict[str, Any]]:
        """Return what the monitor of a structure has reported."""
        if index not in self._monitors:
            return []
        return [asdict(event) for event in self._monitors[index][1].events]

    def reason(self, index: int) -> str:
        """Return why the monitor stopped a structure."""
        event = self._monitors[index][1].events[-1]
        key = self._monitors[index][1].key
        return f"{key} = {event.value:.4g} exceeds {event.threshold:.4g} at step {event.step}"

    def forget(self, index: int) -> None:
        """Drop the monitor of a structure that has left."""
        _, monitor = self._monitors.pop(index, (None, None))
        if monitor is not None:
            monitor.close()

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs, as JSON-able values."""
        return {
            str(index): {
                "above": monitor._above,
                "last": monitor._last,
                "triggered": monitor.triggered,
                "events": [asdict(event) for event in monitor.events],
            }
            for index, (_, monitor) in self._monitors.items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state back."""
        self._kept = {int(index): value for index, value in state.items()}

    def close(self) -> None:
        """Finish the files of all monitors."""
        for index in list(self._monitors):
            self.forget(index)


def _event(values: dict[str, Any]) -> MonitorEvent:
    """Return an event from its values, which JSON has made lists of."""
    tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return MonitorEvent(**tuples)
