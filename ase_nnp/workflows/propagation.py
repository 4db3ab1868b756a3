"""Uncertainty of anything computed from a potential: run it once per member."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_nnp.calculator.calculator import NNPCalculator
from ase_nnp.errors import UncertaintyError
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.statistics.arrays import Array
from ase_nnp.uncertainty.statistics.moments import NOT_COVERED
from ase_nnp.uncertainty.statistics.observables import blocking_error

__all__ = ["PropagatedValue", "propagate", "summarize_members"]


@dataclass(frozen=True)
class PropagatedValue:
    """An observable over the members of an ensemble.

    Attributes
    ----------
    mean, std
        Over the members, of the observable's shape; sample std.
    interval
        (2, ...) credible interval of ``coverage``.
    members
        (M, ...) each member's value.
    statistical_std
        Mean statistical error of one member's value, where the function gave one.
    coverage
        Of the interval.
    failed
        Members whose function raised, with the reason.
    note
        What the interval leaves out.
    """

    mean: Array
    std: Array
    interval: Array
    members: Array
    statistical_std: Array
    coverage: float
    failed: dict[int, str]
    note: str = NOT_COVERED

    @property
    def total_std(self) -> Array:
        """Spread of the members and statistical error together."""
        return np.asarray(np.sqrt(self.std**2 + self.statistical_std**2))

    def __str__(self) -> str:
        if self.mean.ndim:
            body = f"{self.mean.shape} values, mean std {self.std.mean():.4g}"
        else:
            low, high = self.interval
            body = f"{self.mean:.6g} +- {self.std:.2g} [{low:.6g}, {high:.6g}]"
        return f"{body} ({self.coverage:.0%}, {len(self.members)} members). {self.note}"


def summarize_members(
    values: ArrayLike,
    coverage: float = 0.9,
    statistical_std: ArrayLike = 0.0,
    failed: dict[int, str] | None = None,
) -> PropagatedValue:
    """Mean, spread and credible interval of values with the members first.

    The interval is Student's t with M - 1 degrees of freedom about the mean, for a new draw of
    the model: ``mean -+ t s sqrt(1 + 1/M)``, widened by the statistical error.
    """
    from scipy import stats

    members = np.asarray(values, dtype=np.float64)
    if members.ndim == 0 or len(members) < 2:
        raise UncertaintyError("A spread needs values of two or more members.")
    if not 0 < coverage < 1:
        raise UncertaintyError(f"coverage must lie between 0 and 1; found {coverage}.")
    count = len(members)
    mean, std = members.mean(axis=0), members.std(axis=0, ddof=1)
    noise = np.asarray(statistical_std, dtype=np.float64)
    half = stats.t.ppf(0.5 + coverage / 2, count - 1) * np.sqrt(std**2 * (1 + 1 / count) + noise**2)
    interval = np.stack([mean - half, mean + half])
    return PropagatedValue(mean, std, interval, members, noise, coverage, failed or {})


def propagate(
    fn: Callable[[Any], Any],
    members: Any,
    *,
    coverage: float = 0.9,
    series: bool = False,
    executor: Executor | None = None,
    allow_failures: bool = False,
) -> PropagatedValue:
    """Evaluate ``fn(calculator)`` once for each member and sum up.

    Any observable will do: a relaxed energy, a barrier, an elastic constant, a phonon frequency,
    a radial distribution function. A mean over members of relaxed energies is not the relaxed
    energy of the mean potential; this is the former.

    Parameters
    ----------
    fn
        Takes a calculator, returns a number or an array of fixed shape.
    members
        Potentials, calculators, an ensemble (its members), or any list of ``fn``'s arguments.
    coverage
        Of the credible interval.
    series
        ``fn`` returns a time series; its mean counts, with its error by blocking.
    executor
        Runs the members in parallel.
    allow_failures
        Leave out members whose function raises; at least two must remain.

    Raises
    ------
    UncertaintyError
        Fewer than two members, values that are not finite, or of different shapes.
    """
    calculators = list(_calculators(members))
    if len(calculators) < 2:
        raise UncertaintyError("A spread needs two or more members.")

    values: list[Any] = []
    failed: dict[int, str] = {}
    running: Iterable[Callable[[], Any]]
    if executor is None:
        running = [lambda c=c: fn(c) for c in calculators]  # type: ignore[misc]
    else:
        running = [executor.submit(fn, c).result for c in calculators]
    for number, get in enumerate(running):
        try:
            values.append(np.asarray(get(), dtype=np.float64))
        except Exception as error:
            if not allow_failures:
                raise
            failed[number] = f"{type(error).__name__}: {error}"
    noise: Any = 0.0
    if series:
        noise = np.sqrt(np.mean([blocking_error(s) ** 2 for s in values]))
        values = [s.mean() for s in values]

    shapes = {np.shape(v) for v in values}
    if len(values) < 2 or len(shapes) > 1:
        raise UncertaintyError(
            f"{len(values)} members gave values of shapes {sorted(shapes)}; needs two or more of "
            f"one shape. Failed: {failed or 'none'}."
        )
    stacked = np.stack(values)
    if not np.isfinite(stacked).all():
        raise UncertaintyError("The observable of a member is not finite.")
    return summarize_members(stacked, coverage, noise, failed)


def _calculators(members: Any) -> Iterable[Any]:
    """One calculator (or whatever ``fn`` takes) for each member."""
    inner = getattr(members, "potentials", None)
    if inner is None and isinstance(members, NNPCalculator):
        inner = getattr(members.model, "potentials", None)
    listed: Sequence[Any] = list(members) if inner is None else inner
    return [NNPCalculator(m) if isinstance(m, Potential) else m for m in listed]
