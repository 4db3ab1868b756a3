r"""Is one model better than another? A hierarchical Bayesian comparison over data sets.

The paired differences of two models' errors have a mean :math:`d_i` and a standard error
:math:`s_i` on each data set. Data sets are draws from a population,

.. math:: d_i \sim N(\delta_i, s_i^2), \quad \delta_i \sim N(\mu, \tau^2),

with a flat prior on :math:`\mu` and on :math:`\tau` (Gelman et al., Bayesian Data Analysis, 3rd
ed., section 5.4, whose eq. 5.21 is integrated over :math:`\tau` on a grid, without sampling). Asked
for is the difference on a *new* data set, against a region of practical equivalence, as Benavoli,
Corani, Demsar and Zaffalon (J. Mach. Learn. Res. 18, 77 (2017)) compare classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite

__all__ = ["Comparison", "HierarchicalMean", "compare_errors", "hierarchical_mean"]

GRID = 4000


@dataclass(frozen=True)
class HierarchicalMean:
    """The posterior of :func:`hierarchical_mean`.

    Attributes
    ----------
    mean, std
        Of the population's mean.
    between
        Median of the standard deviation between data sets.
    effects
        (J,) posterior means of each data set's own mean, shrunk towards the population's.
    tau, weight
        The grid and its probabilities.
    """

    mean: float
    std: float
    between: float
    effects: Array
    tau: Array
    weight: Array
    _center: Array
    _variance: Array

    def probability_below(self, value: float, new: bool = True) -> float:
        """Return P(difference < value) for a new data set, or for the population's mean."""
        spread = np.sqrt(self._variance + (self.tau**2 if new else 0.0))
        return float(self.weight @ special.ndtr((value - self._center) / spread))


def hierarchical_mean(means: ArrayLike, errors: ArrayLike) -> HierarchicalMean:
    """Return the posterior of the mean of a population, of which some means are measured.

    Parameters
    ----------
    means
        (J,) of the data sets; at least 3, else a flat prior on tau gives no posterior.
    errors
        (J,) their standard errors, positive.
    """
    d, s = as_finite("means", means).ravel(), as_finite("errors", errors).ravel()
    if len(d) != len(s) or len(d) < 3:
        raise UncertaintyError(
            f"{len(d)} means with {len(s)} errors; a hierarchical comparison needs 3 data sets."
        )
    if not (s > 0).all():
        raise UncertaintyError("A standard error is not positive.")

    # Beyond ten times all that was seen, tau has no posterior left even for three data sets.
    scale = float(np.ptp(d) + s.max())
    tau = np.concatenate([[0.0], np.geomspace(1e-4, 1e3, GRID)]) * scale

    precision = 1.0 / (s**2 + tau[:, None] ** 2)
    variance = 1.0 / precision.sum(axis=1)
    center = variance * (precision @ d)
    log_density = 0.5 * (
        np.log(variance)
        + np.log(precision).sum(axis=1)
        - (precision * (d - center[:, None]) ** 2).sum(axis=1)
    )
    weight = np.exp(log_density - log_density.max()) * np.gradient(tau)
    weight /= weight.sum()

    mean = float(weight @ center)
    spread = float(weight @ (variance + (center - mean) ** 2))
    shrunk = (tau[:, None] ** 2 * d + s**2 * center[:, None]) * precision
    # The mean of tau does not exist for three data sets; the median does.
    between = float(np.interp(0.5, np.cumsum(weight), tau))
    return HierarchicalMean(
        mean, float(np.sqrt(spread)), between, weight @ shrunk, tau, weight, center,
        variance,
    )  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Model A against model B by the errors of the same records.

    Attributes
    ----------
    difference
        Mean of |error of A| minus |error of B|, negative where A is better.
    std
        Standard deviation of that mean's posterior.
    a_better, equivalent, b_better
        Probabilities for a new data set, against the region of practical equivalence; with fewer
        than three data sets, for these records.
    rope
        Half width of that region, in the unit of the errors.
    data_sets
        Mean difference, its standard error and the number of records of each.
    over
        ``"a new data set"``, or ``"these records"``.
    """

    difference: float
    std: float
    a_better: float
    equivalent: float
    b_better: float
    rope: float
    data_sets: dict[str, dict[str, float]]
    over: str

    @property
    def significant(self) -> bool:
        """Whether one of the three has a probability of 0.95 at least, and it is not equality."""
        return max(self.a_better, self.b_better) >= 0.95

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "significant": self.significant}


def compare_errors(
    errors_a: Mapping[str, ArrayLike], errors_b: Mapping[str, ArrayLike], *, rope: float = 0.01
) -> Comparison:
    """Compare two models by their absolute errors on data sets.

    Parameters
    ----------
    errors_a, errors_b
        Absolute errors by data set, of the same records in the same order.
    rope
        Differences below this are of no practical meaning; in the unit of the errors.

    Raises
    ------
    UncertaintyError
        The data sets differ, or none has two records.
    """
    if set(errors_a) != set(errors_b):
        raise UncertaintyError("The two models were not evaluated on the same data sets.")
    table = {}
    for name in sorted(errors_a):
        a, b = as_finite("errors", errors_a[name]), as_finite("errors", errors_b[name])
        if a.shape != b.shape:
            raise UncertaintyError(f"{name}: {a.size} and {b.size} errors; they must be paired.")
        if a.size < 2:
            continue
        x = np.abs(a) - np.abs(b)
        error = float(x.std(ddof=1) / np.sqrt(x.size))
        table[name] = {"difference": float(x.mean()), "error": error, "records": int(x.size)}
    if not table:
        raise UncertaintyError("No data set has two records that both models answered.")

    means = np.array([row["difference"] for row in table.values()])
    # Two models that agree to the last bit have no spread; the region of equivalence gives one.
    errors = np.maximum([row["error"] for row in table.values()], 1e-6 * max(rope, 1e-12))
    if len(means) >= 3:
        posterior = hierarchical_mean(means, errors)
        low, high = posterior.probability_below(-rope), posterior.probability_below(rope)
        center, spread, over = posterior.mean, posterior.std, "a new data set"
    else:
        counts = np.array([row["records"] for row in table.values()], float)
        center = float(counts @ means / counts.sum())
        spread = float(np.sqrt(counts**2 @ errors**2) / counts.sum())
        low, high = (float(special.ndtr((x - center) / spread)) for x in (-rope, rope))
        over = "these records"
    return Comparison(center, spread, low, high - low, 1 - high, rope, table, over)
