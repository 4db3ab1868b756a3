r"""Numbers that models gave, with their error bars and what these have in common.

Two energies of one model are wrong together, so the variance of their difference is

.. math:: \mathrm{Var}(A - B) = \mathrm{Var}(A) + \mathrm{Var}(B) - 2\,\mathrm{Cov}(A, B)

and not the sum of the first two. Each :class:`Observable` carries what its covariance with others
is made of. Sums, differences and multiples are exact; :func:`combine` evaluates any other function.
Where the model's own flag is raised for a structure, every number that is made of its energy says
so (:attr:`Observable.unknown`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import numpy as np

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.flags import Flags, added, scaled, through_a_function
from ase_nnp.uncertainty.statistics.arrays import Array
from ase_nnp.uncertainty.statistics.moments import NOT_COVERED

__all__ = ["Observable", "Source", "as_observable", "combine", "covariance", "inner"]


@dataclass(frozen=True)
class Source:
    """One model's doubt: observables with the same source are wrong together.

    Attributes
    ----------
    kind
        ``"members"``, ``"linear"``, ``"rest"`` (the part of a std that is known to be one
        structure's own), ``"independent"`` (a std without covariances) or ``"unknown"`` (a model
        without uncertainty).
    name
        For messages.
    key
        Tells sources apart, also those that came from another process; its own by default.
    """

    kind: str
    name: str = ""
    key: str = field(default_factory=lambda: uuid4().hex, repr=False)


@dataclass(frozen=True)
class Observable:
    """A number that models gave, with its error bar and what that has in common with others.

    Adding, subtracting, and multiplying by plain numbers keep all correlations.

    Attributes
    ----------
    value
        The number.
    parts
        For each source of doubt: deviations (M,) of the members from the value, or a row (d,)
        whose squares add up to the variance.
    flags
        For each structure that the model's own flag is raised for, the factor of its energy.
    """

    value: float
    parts: Mapping[Source, Array] = field(default_factory=dict, repr=False)
    flags: Flags = field(default_factory=dict, repr=False)

    def __float__(self) -> float:
        return float(self.value)

    def __add__(self, other: Observable | float) -> Observable:
        right = as_observable(other)
        parts = dict(self.parts)
        for source, vector in right.parts.items():
            parts[source] = parts[source] + vector if source in parts else vector
        return Observable(self.value + right.value, parts, added(self.flags, right.flags))

    def __mul__(self, factor: float) -> Observable:
        if isinstance(factor, Observable):
            raise UncertaintyError("A product of two observables is not linear; use combine(...).")
        parts = {source: factor * vector for source, vector in self.parts.items()}
        return Observable(factor * self.value, parts, scaled(self.flags, factor))

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Observable:
        return -1.0 * self

    def __sub__(self, other: Observable | float) -> Observable:
        return self + -1.0 * as_observable(other)

    def __rsub__(self, other: float) -> Observable:
        return -self + other

    def __truediv__(self, divisor: float) -> Observable:
        return self * (1.0 / divisor)

    def covariance(self, other: Observable) -> float:
        """Return the covariance with another observable, in the product of their units."""
        shared = [source for source in self.parts if source in other.parts]
        return math.fsum(inner(s, self.parts[s], other.parts[s]) for s in shared)

    @property
    def std(self) -> float | None:
        """Standard deviation; None where a model without uncertainty has its part in it."""
        if any(source.kind == "unknown" for source in self.parts):
            return None
        return math.sqrt(max(0.0, self.covariance(self)))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Formulas of the structures in it that the model calls outside of what it knows."""
        return tuple(sorted({flag.name for flag in self.flags}))

    @property
    def members(self) -> Array | None:
        """Each member's value, (M,); None unless one ensemble is the only source."""
        sources = list(self.parts)
        if len(sources) != 1 or sources[0].kind != "members":
            return None
        return self.value + self.parts[sources[0]]

    def interval(self, coverage: float = 0.9) -> tuple[float, float] | None:
        """Return the central interval: Student's t for the few members of one ensemble.

        As :func:`ase_nnp.workflows.propagate` draws it, for a new draw of the model.
        """
        from scipy import stats

        if not 0 < coverage < 1:
            raise UncertaintyError(f"coverage must lie between 0 and 1; found {coverage}.")
        if self.std is None:
            return None
        members = self.members
        if members is None:
            center, half = self.value, stats.norm.ppf(0.5 + coverage / 2) * self.std
        else:
            count, center = len(members), float(members.mean())
            half = stats.t.ppf(0.5 + coverage / 2, count - 1) * self.std * math.sqrt(1 + 1 / count)
        return center - float(half), center + float(half)

    @property
    def covers(self) -> str:
        """A sentence on what the error bar is, or why there is none."""
        kinds = {source.kind for source in self.parts}
        if not kinds:
            return "No model's error enters this number."
        if "unknown" in kinds:
            return "No ±: a model without uncertainty has its part in it."

        words = {
            "members": "its value for every member of an ensemble",
            "linear": "the covariance of the last layer's weights",
            "rest": "what was measured not to be shared by two structures",
            "independent": "standard deviations of single energies, taken to be uncorrelated: "
            "what errors have in common does not cancel",
        }

        said = " and ".join(
            words[kind] for kind in ("members", "linear", "rest", "independent") if kind in kinds
        )
        return f"± is from {said}. {NOT_COVERED}"

    def __str__(self) -> str:
        bar = "no error bar" if self.std is None else f"± {self.std:.4f}"
        doubt = f"; unknown to the model: {', '.join(self.unknown)}" if self.flags else ""
        return f"{self.value:.4f} {bar}{doubt}"


def as_observable(value: Observable | float) -> Observable:
    """Return a plain number as an observable without any error."""
    return value if isinstance(value, Observable) else Observable(float(value))


def inner(source: Source, a: Array, b: Array) -> float:
    """Return the covariance of two parts (M,) or (d,) of one source."""
    if source.kind == "members":
        return float((a - a.mean()) @ (b - b.mean()) / (len(a) - 1))
    return float(a @ b)


def covariance(observables: Sequence[Observable]) -> Array:
    """Return the covariance matrix (K, K) of observables."""
    return np.array([[a.covariance(b) for b in observables] for a in observables])


def combine(
    function: Callable[..., float], *observables: Observable | float, step: float = 1e-5
) -> Observable:
    """Return ``function(*observables)`` with its error bar.

    Where one ensemble is the only source, the function is evaluated for every member (a maximum
    may lie elsewhere for each). Otherwise its error is propagated in first order.

    Parameters
    ----------
    function
        Takes as many numbers as there are observables and returns one.
    *observables
        Its arguments; plain numbers have no error.
    step
        Of the numerical gradient, in the observables' units.
    """
    given = [as_observable(one) for one in observables]
    values = np.array([one.value for one in given])
    sources = list(dict.fromkeys(source for one in given for source in one.parts))
    center = float(function(*values))
    flags = through_a_function(one.flags for one in given)

    if len(sources) == 1 and sources[0].kind == "members":
        rows = [one.parts.get(sources[0], 0.0) + np.zeros(_length(given)) for one in given]
        members = [float(function(*(values + shift))) for shift in np.transpose(rows)]
        return Observable(center, {sources[0]: np.array(members) - center}, flags)

    result = Observable(center)
    for k, one in enumerate(given):
        if one.parts:
            move = step * np.eye(len(given))[k]
            slope = (function(*(values + move)) - function(*(values - move))) / (2 * step)
            result = result + (one - one.value) * float(slope)
    return Observable(result.value, result.parts, flags)


def _length(observables: Iterable[Observable]) -> int:
    return max(len(vector) for one in observables for vector in one.parts.values())
