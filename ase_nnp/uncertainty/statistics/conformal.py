"""Split conformal prediction: intervals whose coverage is known without assumptions.

The guarantee holds for units that could be swapped with each other. For structures that is the
structure, not its atoms or force components: use :func:`structure_scores` first when a guarantee
is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import (
    Array,
    as_finite,
    as_predictions,
    as_probability,
    as_std,
)

__all__ = [
    "SplitConformal",
    "absolute_scores",
    "conformal_interval",
    "conformal_quantile",
    "conformal_rank",
    "coverage_law",
    "cqr_offset",
    "cqr_scores",
    "expected_coverage",
    "mondrian_quantiles",
    "normalized_scores",
    "structure_scores",
    "weighted_conformal_quantile",
]


def conformal_rank(n: int, alpha: float) -> int:
    """``k = ceil((n + 1)(1 - alpha))``, guarded against rounding: 20 * 0.95 is 19.

    ``k > n`` means that n scores are too few for a finite interval at this level.
    """
    if n < 1:
        raise UncertaintyError(f"Conformal calibration needs at least one score; found {n}.")
    exact = (n + 1) * (1 - as_probability("alpha", alpha))
    return max(1, math.ceil(exact - 1e-9 * max(1.0, exact)))


def conformal_quantile(scores: ArrayLike, alpha: float = 0.1) -> float:
    """The k-th smallest score, or infinity when k exceeds their number."""
    values = as_finite("scores", scores).ravel()
    k = conformal_rank(values.size, alpha)
    return float(np.partition(values, k - 1)[k - 1]) if k <= values.size else math.inf


def coverage_law(n: int, alpha: float) -> tuple[float, float, float]:
    """Mean and central 95 % range of the coverage, given a calibration set of size n.

    Without ties the coverage follows ``Beta(k, n + 1 - k)`` exactly.

    Returns
    -------
    mean, low, high
        All 1 when the interval is infinite.
    """
    k = conformal_rank(n, alpha)
    if k > n:
        return 1.0, 1.0, 1.0
    low, high = stats.beta.ppf([0.025, 0.975], k, n + 1 - k)
    return k / (n + 1), float(low), float(high)


def expected_coverage(n: int, alpha: float) -> float:
    """``k / (n + 1)``, at least ``1 - alpha``."""
    return coverage_law(n, alpha)[0]


def absolute_scores(y_true: ArrayLike, y_pred: ArrayLike) -> Array:
    """``|y_true - y_pred|``: one width for all."""
    return np.abs(as_finite("y_true", y_true) - as_finite("y_pred", y_pred))


def normalized_scores(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> Array:
    """``|y_true - y_pred| / y_std``: widths follow the std."""
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    return np.asarray((np.abs(true - pred) / std).reshape(np.shape(y_true)))


def cqr_scores(y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> Array:
    """``max(lower - y, y - upper)``: how far outside a given interval, negative inside."""
    true = as_finite("y_true", y_true)
    return np.maximum(as_finite("lower", lower) - true, true - as_finite("upper", upper))


def structure_scores(
    scores: ArrayLike,
    structure: ArrayLike,
    reduce: Literal["max", "mean", "random"] = "max",
    seed: int = 0,
) -> Array:
    """One score per structure, so that the units of calibration are exchangeable.

    Parameters
    ----------
    scores
        (n, ...) one row per atom; further axes (components) are reduced by their maximum.
    structure
        (n,) which structure each row belongs to.
    reduce
        ``"max"``: the interval then holds for all atoms at once. ``"random"``: one atom drawn
        from each structure, so that it holds for an atom drawn at random.
    seed
        Of the choice of atoms.
    """
    rows = as_finite("scores", scores)
    # Atoms of one structure err together: they are no units that could be swapped.
    flat = rows.reshape(len(rows), -1).max(axis=1)

    names, index = np.unique(np.asarray(structure), return_inverse=True)
    groups = [flat[index.ravel() == i] for i in range(len(names))]
    if reduce == "max":
        return np.array([group.max() for group in groups])
    if reduce == "mean":
        return np.array([group.mean() for group in groups])
    if reduce == "random":
        rng = np.random.default_rng(seed)
        return np.array([rng.choice(group) for group in groups])
    raise UncertaintyError(f"reduce must be 'max', 'mean' or 'random'; found {reduce!r}.")


def mondrian_quantiles(
    scores: ArrayLike, groups: ArrayLike, alpha: float = 0.1
) -> dict[int, float]:
    """One quantile for each group, for instance for each element."""
    values, group = as_finite("scores", scores), np.asarray(groups)
    if values.shape != group.shape:
        raise UncertaintyError(f"{values.shape} scores for {group.shape} groups.")
    return {int(g): conformal_quantile(values[group == g], alpha) for g in np.unique(group)}


def weighted_conformal_quantile(
    scores: ArrayLike, weights: ArrayLike, test_weight: ArrayLike, alpha: float = 0.1
) -> Array:
    """Quantile under covariate shift, for each test point (Tibshirani et al. 2019).

    Parameters
    ----------
    scores, weights
        (n,) calibration scores and likelihood ratios p_test(x) / p_calibration(x), any scale.
    test_weight
        The ratio at each test point.
    alpha
        One minus the coverage.

    Returns
    -------
    ndarray
        Shape of ``test_weight``; infinite where the test point itself carries more than alpha.
    """
    values, weight = as_finite("scores", scores).ravel(), as_finite("weights", weights).ravel()
    test = as_finite("test_weight", test_weight)
    if values.shape != weight.shape or weight.min() < 0 or test.min() < 0:
        raise UncertaintyError("Weights must be non-negative, one for each score.")
    order = np.argsort(values, kind="stable")
    mass = np.cumsum(weight[order])
    wanted = (1 - as_probability("alpha", alpha)) * (mass[-1] + test)
    # A sum of n equal weights may miss its exact share by the last digits.
    place = np.searchsorted(mass * (1 + 1e-12), wanted, side="left")
    return np.asarray(np.append(values[order], math.inf)[place])


def conformal_interval(
    y_pred: ArrayLike, quantile: ArrayLike, y_std: ArrayLike = 1.0
) -> tuple[Array, Array]:
    """``y_pred -+ quantile * y_std``."""
    half = np.asarray(quantile) * as_std("y_std", y_std)
    center = as_finite("y_pred", y_pred)
    return center - half, center + half


def cqr_offset(y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike, alpha: float = 0.1) -> float:
    """Width to add at both ends of given intervals (Romano et al. 2019); may be negative."""
    return conformal_quantile(cqr_scores(y_true, lower, upper), alpha)


@dataclass(frozen=True)
class SplitConformal:
    """A fitted normalized split-conformal calibration, for all or for each group.

    Attributes
    ----------
    alpha
        Miscoverage wanted; the interval holds at least ``1 - alpha``.
    quantile
        For groups that were not calibrated, and for all without groups.
    group_quantiles
        By group (atomic number); a group that is too small has an infinite one.
    n
        Number of calibration units.
    """

    alpha: float
    quantile: float
    n: int
    group_quantiles: Mapping[int, float] | None = None

    @classmethod
    def fit(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        y_std: ArrayLike,
        alpha: float = 0.1,
        groups: ArrayLike | None = None,
    ) -> SplitConformal:
        """Fit to a calibration set; ``groups`` makes it Mondrian."""
        scores = normalized_scores(y_true, y_pred, y_std)
        by_group = None if groups is None else mondrian_quantiles(scores, groups, alpha)
        return cls(alpha, conformal_quantile(scores, alpha), scores.size, by_group)

    def interval(
        self, y_pred: ArrayLike, y_std: ArrayLike, groups: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Lower and upper end for predictions, in the shape of ``y_pred``."""
        quantile: ArrayLike = self.quantile
        if groups is not None and self.group_quantiles is not None:
            table = self.group_quantiles
            labels = np.asarray(groups)

            # A group that was not calibrated has the width of all.
            flat = [table.get(int(g), self.quantile) for g in labels.ravel()]
            quantile = np.array(flat).reshape(labels.shape)
        return conformal_interval(y_pred, quantile, y_std)
