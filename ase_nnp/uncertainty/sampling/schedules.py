"""Step sizes over time and which steps to keep."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ase_nnp.errors import UncertaintyError

__all__ = ["Schedule", "constant_step", "kept_steps", "polynomial_step"]

#: Step number (from 0) to step size.
Schedule = Callable[[int], float]


def constant_step(size: float) -> Schedule:
    """Return the same step size at all times."""
    return lambda step: size


def polynomial_step(first: float, last: float, steps: int, gamma: float = 0.33) -> Schedule:
    """``h_t = a (b + t)^-gamma`` from ``first`` at step 0 to ``last`` at step ``steps - 1``."""
    if not first > last > 0 or steps < 2 or gamma <= 0:
        raise UncertaintyError(
            f"A decaying step needs first > last > 0, two or more steps and gamma > 0; found "
            f"{first}, {last}, {steps}, {gamma}."
        )
    ratio = (first / last) ** (1 / gamma)  # (b + steps - 1) / b
    b = (steps - 1) / (ratio - 1)
    a = first * b**gamma
    return lambda step: float(a * (b + step) ** -gamma)


def kept_steps(
    schedule: Schedule, steps: int, burn_in: int, samples: int, seed: int = 0
) -> list[int]:
    """Draw which steps to keep after burn-in, with a chance proportional to their step size.

    Returns
    -------
    list of int
        ``samples`` different step numbers, ascending.
    """
    if not 0 <= burn_in < steps or not 1 <= samples <= steps - burn_in:
        raise UncertaintyError(
            f"{samples} samples do not fit into {steps} steps with {burn_in} of burn-in."
        )
    candidates = np.arange(burn_in, steps)
    chance = np.array([schedule(int(t)) for t in candidates])
    rng = np.random.default_rng(seed)
    drawn = rng.choice(candidates, samples, replace=False, p=chance / chance.sum())
    return sorted(int(t) for t in drawn)
