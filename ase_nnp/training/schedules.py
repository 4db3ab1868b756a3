"""The learning rate at a step: warm-up, cosine, plateau. A function of a few plain numbers."""

from __future__ import annotations

import math
from typing import Any

from ase_nnp.training.settings import Schedule

__all__ = ["RateSchedule"]


class RateSchedule:
    """Factor of the learning rate by step; the plateau is told each validation loss.

    Parameters
    ----------
    settings
        Kind, warm-up, floor.
    steps
        Of the whole run.
    """

    def __init__(self, settings: Schedule, steps: int) -> None:
        self.settings, self.steps = settings, max(1, steps)
        warm = settings.warmup
        self.warm = round(warm if warm >= 1 else warm * self.steps)
        self.best, self.waited, self.reduction = math.inf, 0, 1.0

    def factor(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        s = self.settings

        # From one step on, never from zero: the first step is a step.
        rise = min(1.0, (step + 1) / (self.warm + 1))
        if s.kind == "cosine":
            # A function of the step alone: a run that is made longer goes on along the longer
            # curve.
            past = min(1.0, max(0.0, (step - self.warm) / max(1, self.steps - self.warm)))
            return rise * (s.floor + (1 - s.floor) * 0.5 * (1 + math.cos(math.pi * past)))
        return rise * max(s.floor, self.reduction)

    def validated(self, loss: float) -> None:
        """Take note of a validation loss."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.settings.kind == "plateau" and self.waited >= self.settings.patience:
            self.reduction, self.waited = self.reduction * self.settings.factor, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs."""
        return {"best": self.best, "waited": self.waited, "reduction": self.reduction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.best, self.waited, self.reduction = state["best"], state["waited"], state["reduction"]
