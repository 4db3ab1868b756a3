"""Watching a run of molecular dynamics or an optimizer, and stopping it in time."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.ase_storage import UncertaintyTrajectory

__all__ = ["MonitorEvent", "UncertaintyMonitor", "UncertaintyWarning"]

log = logging.getLogger(__name__)

MODES = ("stop", "flag", "log", "callback", "branch")
#: Dynamics of ASE that set the atoms from positions, momenta or a cell of their own.
OWN_STATE = (
    "NoseHooverChainNVT", "IsotropicMTKNPT", "MTKNPT", "MaskedMTKNPT", "NPT", "MelchionnaNPT",
)  # fmt: skip


class UncertaintyWarning(UserWarning):
    """A run has left what its model knows."""


@dataclass(frozen=True)
class MonitorEvent:
    """One excursion above the threshold: when, how far and which atoms."""

    step: int
    value: float
    threshold: float
    atoms: tuple[int, ...]
    symbols: tuple[str, ...]


class UncertaintyMonitor:
    """Compare an uncertainty with a threshold at every step, and act once per excursion.

    ``UncertaintyMonitor(dyn, "forces_std_norm", 0.3)`` attaches itself to ``dyn`` and is called
    every ``interval`` steps; attaching it again by hand does no harm. Stopping sets
    ``dyn.max_steps``, so that the run ends after the current step with positions, velocities and
    results of one and the same state.

    Parameters
    ----------
    dyn
        An ASE dynamics or optimizer.
    key
        What to watch in ``calc.results``: ``"forces_std_norm"``, ``"ood_score"``, ``"energy_std"``
        and so on. Of vectors per atom the norm counts.
    threshold
        Fires above. None: for ``"ood_score"`` that of the model's own flag
        (``uq["score_threshold"]``), for ``"ood_flag"`` the flag itself, and else 0.1. ``upper``
        makes it a band: beyond ``upper`` structures are nonsense rather than informative, and are
        neither saved nor called back, but do stop a run.
    patience
        Fire at the n-th step in a row above the threshold.
    mode
        ``"stop"``, ``"flag"`` (``monitor.triggered``), ``"log"``, ``"callback"``, or ``"branch"``:
        molecular dynamics goes on from the last step below the threshold, with new random
        velocities of the same kinetic energy and total momentum, so that one run finds many ways
        out. For dynamics that take positions and momenta from the atoms at each step.
    callback
        ``callback(atoms, event)``; called in every mode if given.
    relative
        A level in eV/Angstrom: the value of an atom is divided by its force plus this level.
    per_atom
        Largest atom (True) or mean over atoms (False), for per-atom keys.
    interval
        Steps between looks; None attaches nothing, for a monitor that is called by hand.
    save
        Path of a trajectory that collects the structures that fired.
    upper
        End of the band that begins at ``threshold``.
    seed
        Of the velocities of ``mode="branch"``.
    """

    def __init__(
        self,
        dyn: Any,
        key: str = "forces_std_norm",
        threshold: float | None = None,
        patience: int = 1,
        *,
        upper: float | None = None,
        mode: str = "stop",
        callback: Callable[[Any, MonitorEvent], None] | None = None,
        relative: float | None = None,
        per_atom: bool = True,
        interval: int | None = 1,
        save: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        if mode not in MODES:
            raise UncertaintyError(f"mode must be one of {', '.join(MODES)}, not {mode!r}.")
        if mode == "callback" and callback is None:
            raise UncertaintyError("mode='callback' needs callback=function.")
        self.dyn, self.key, self.upper = dyn, key, upper
        self.threshold = self._own_threshold() if threshold is None else threshold
        if patience < 1 or (upper is not None and upper <= self.threshold):
            raise UncertaintyError("Needs patience >= 1 and upper > threshold.")
        from ase.md.md import MolecularDynamics

        if mode == "branch" and not isinstance(dyn, MolecularDynamics):
            raise UncertaintyError("mode='branch' needs molecular dynamics, which has velocities.")
        own_state = [kind.__name__ for kind in type(dyn).__mro__ if kind.__name__ in OWN_STATE]
        if mode == "branch" and own_state:
            raise UncertaintyError(
                f"mode='branch' cannot turn {own_state[0]} back: it keeps positions of its own. "
                "Use VelocityVerlet, Langevin, Bussi, Andersen or NVTBerendsen, or mode='stop'."
            )
        self.patience, self.mode, self.callback = patience, mode, callback
        self.relative, self.per_atom = relative, per_atom

        self.events: list[MonitorEvent] = []
        self.history: list[float] = []
        self.triggered = False
        self._above = 0
        self._last = -1
        self._trusted: tuple[Any, Any, Any] | None = None
        self._random = np.random.default_rng(seed)
        self._file = None if save is None else UncertaintyTrajectory(save)
        if interval is not None:
            dyn.attach(self, interval=interval)

    @classmethod
    def watch(cls, dyn: Any, *args: Any, **options: Any) -> UncertaintyMonitor:
        """Make a monitor that is attached to ``dyn``; the same as the constructor."""
        return cls(dyn, *args, **options)

    def __call__(self) -> None:
        """Look at the present step, once."""
        if int(self.dyn.nsteps) == self._last:
            return
        self._last = int(self.dyn.nsteps)
        atoms = self._atoms()
        value, worst = self._value(atoms)
        self.history.append(value)

        # Written so that NaN is no alarm and starts the count anew.
        if not value > self.threshold:
            self._above, self.triggered = 0, False
            if self.mode == "branch":
                self._trusted = (atoms.positions.copy(), atoms.get_momenta(), atoms.cell.copy())
            return
        self._above += 1
        if self._above < self.patience or self.triggered:
            return  # still patient, or this excursion has been reported

        self.triggered = True
        event = MonitorEvent(
            int(self.dyn.nsteps),
            value,
            self.threshold,
            worst,
            tuple(atoms.symbols[i] for i in worst),
        )
        self.events.append(event)
        self._act(atoms, event)

    def _act(self, atoms: Any, event: MonitorEvent) -> None:
        useful = self.upper is None or event.value <= self.upper
        if self._file is not None and useful:
            self._file.write(atoms)
        names = ", ".join(f"{s}{i}" for s, i in zip(event.symbols, event.atoms, strict=True))
        text = (
            f"{self.key} = {event.value:.4g} exceeds {self.threshold:.4g} at step {event.step}"
            + (f" on atoms {names}" if names else "")
        )

        if self.mode == "log":
            log.warning(text)
        else:
            if self.mode == "stop":
                text += "; the run stops here"
            warnings.warn(text, UncertaintyWarning, stacklevel=4)
        if self.callback is not None and useful:
            self.callback(atoms, event)
        # An observer cannot break out of ASE's loop, but lower its limit.
        if self.mode == "stop":
            self.dyn.max_steps = 0
        elif self.mode == "branch":
            self._branch(atoms)

    def _branch(self, atoms: Any) -> None:
        """Go back to the last trusted step and on in another direction."""
        if self._trusted is None:
            raise UncertaintyError(
                f"{self.key} is above {self.threshold:.4g} at the first step: there is nothing to "
                "go back to. Start from a structure that the model knows."
            )
        positions, momenta, cell = self._trusted
        masses = atoms.get_masses()[:, None]
        atoms.set_cell(cell)
        atoms.set_positions(positions)

        # Maxwell's directions. Constraints take their part of them before they are scaled, or the
        # energy of fixed atoms would be lost.
        drawn = np.sqrt(masses) * self._random.standard_normal(momenta.shape)
        if not atoms.constraints:
            drawn -= masses * (drawn.sum(axis=0) / masses.sum())
        atoms.set_momenta(drawn)
        drawn = atoms.get_momenta()

        drift = np.zeros_like(momenta)
        if not atoms.constraints:
            drift = masses * (momenta.sum(axis=0) / masses.sum())
        energy = ((momenta - drift) ** 2 / masses).sum()
        own = (drawn**2 / masses).sum()
        atoms.set_momenta(drift + drawn * np.sqrt(energy / own if own > 0 else 0.0))
        self._above, self.triggered = 0, False

    def _own_threshold(self) -> float:
        """The threshold where none is given."""
        if self.key == "ood_flag":
            return 0.5
        if self.key != "ood_score":
            return 0.1
        model = getattr(self._atoms().calc, "model", None)
        value = (getattr(model, "uq", None) or {}).get("score_threshold")
        if value is None:
            raise UncertaintyError(
                "The model states no threshold of 'ood_score'. Give threshold=..., or fit error "
                "bars with uq.fit('auto', ...)."
            )
        return float(value)

    def _atoms(self) -> Any:
        atoms = getattr(self.dyn, "atoms", None)
        if atoms is None:
            atoms = self.dyn.optimizable.atoms
        return getattr(atoms, "atoms", atoms)

    def _value(self, atoms: Any) -> tuple[float, tuple[int, ...]]:
        """The watched number now, and the atoms above the threshold, worst first."""
        results = {} if atoms.calc is None else atoms.calc.results
        if self.key not in results:
            atoms.get_potential_energy()
            results = atoms.calc.results
        if self.key not in results:
            raise UncertaintyError(
                f"The calculator gives no '{self.key}'. It gives: {', '.join(sorted(results))}."
            )

        value = np.asarray(results[self.key], dtype=np.float64)
        if value.shape[:1] != (len(atoms),):
            return float(np.max(np.abs(value))), ()
        rows = value.reshape(len(atoms), -1)
        atomwise = np.linalg.norm(rows, axis=1)
        if self.relative is not None:
            force = np.linalg.norm(results["forces"], axis=1)
            atomwise = atomwise / (force + self.relative)

        order = np.argsort(-atomwise, kind="stable")
        worst = tuple(int(i) for i in order if atomwise[i] > self.threshold)
        if not self.per_atom:
            return float(atomwise.mean()), worst
        return float(atomwise.max()), worst

    def close(self) -> None:
        """Finish the file of saved structures."""
        if self._file is not None:
            self._file.close()
