"""Do large error bars sit on large errors? Rank correlations, AUROC, confidence curves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite, as_predictions

__all__ = [
    "ConfidenceCurve",
    "auroc",
    "auroc_errors",
    "auroc_ood",
    "ause",
    "confidence_curve",
    "error_threshold",
    "kendall",
    "pearson",
    "spearman",
]


def spearman(errors: ArrayLike, y_std: ArrayLike) -> float:
    """Spearman's rank correlation of |error| and std; ties share their mean rank."""
    return float(stats.spearmanr(*_pair(errors, y_std)).statistic)


def pearson(errors: ArrayLike, y_std: ArrayLike) -> float:
    """Linear correlation of |error| and std."""
    return float(stats.pearsonr(*_pair(errors, y_std)).statistic)


def kendall(errors: ArrayLike, y_std: ArrayLike) -> float:
    """Kendall's tau-b of |error| and std."""
    return float(stats.kendalltau(*_pair(errors, y_std)).statistic)


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a positive scores above a negative; ties count one half.

    Parameters
    ----------
    labels
        Booleans; both kinds must occur.
    scores
        Larger means more likely positive.
    """
    positive, score = np.asarray(labels).astype(bool).ravel(), as_finite("scores", scores).ravel()
    if positive.shape != score.shape:
        raise UncertaintyError(f"{positive.size} labels for {score.size} scores.")
    count = int(positive.sum())
    if count in (0, positive.size):
        raise UncertaintyError("All labels are the same; AUROC needs both kinds.")
    # Ranks, with ties shared, give Mann and Whitney's count of the pairs that are won.
    ranks = stats.rankdata(score)
    wins = ranks[positive].sum() - count * (count + 1) / 2
    return float(wins / (count * (positive.size - count)))


def error_threshold(errors: ArrayLike, quantile: float = 0.8) -> float:
    """|error| below which the fraction ``quantile`` of points lies (linear interpolation)."""
    return float(np.quantile(np.abs(as_finite("errors", errors)), quantile))


def auroc_errors(
    errors: ArrayLike,
    y_std: ArrayLike,
    threshold: float | None = None,
    quantile: float = 0.8,
) -> float:
    """AUROC of the std as a detector of ``|error| > threshold``.

    Without ``threshold`` the ``quantile`` of |error| is taken.
    """
    size, std = _pair(errors, y_std)
    limit = error_threshold(size, quantile) if threshold is None else threshold
    return auroc(size > limit, std)


def auroc_ood(scores_in: ArrayLike, scores_out: ArrayLike) -> float:
    """AUROC of telling structures outside a model's knowledge from those inside."""
    inside = as_finite("scores_in", scores_in).ravel()
    outside = as_finite("scores_out", scores_out).ravel()
    labels = np.r_[np.zeros(inside.size, bool), np.ones(outside.size, bool)]
    return auroc(labels, np.r_[inside, outside])


class ConfidenceCurve(NamedTuple):
    """Error of what is left after removing a fraction of points."""

    fractions: Array
    curve: Array
    oracle: Array
    random_level: float


def confidence_curve(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_std: ArrayLike,
    fractions: ArrayLike | None = None,
) -> ConfidenceCurve:
    """Mean absolute error after removing the points of largest std, and of largest error.

    Parameters
    ----------
    fractions
        Parts to remove, each below 1; 0, 0.05 ... 0.95 when left out. ``round(f n)`` points go.
    y_true, y_pred, y_std
        Labels, predictions and their standard deviations, (n,).

    Returns
    -------
    ConfidenceCurve
        ``curve`` (by std), ``oracle`` (by error) and the level of random removal.
    """
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    part = np.linspace(0, 0.95, 20) if fractions is None else as_finite("fractions", fractions)
    if part.min() < 0 or part.max() >= 1:
        raise UncertaintyError("Fractions to remove must lie in [0, 1).")

    error = np.abs(true - pred)
    removed = np.round(part * len(error)).astype(int)
    removed = np.minimum(removed, len(error) - 1)

    def left(order: NDArray[np.intp]) -> Array:
        kept = error[order][::-1]  # the first to go last, so that prefixes are what is left
        mean = np.cumsum(kept) / np.arange(1, len(kept) + 1)
        return np.asarray(mean[len(kept) - removed - 1])

    by_std = np.argsort(-std, kind="stable")
    by_error = np.argsort(-error, kind="stable")
    return ConfidenceCurve(part, left(by_std), left(by_error), float(error.mean()))


def ause(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_std: ArrayLike,
    fractions: ArrayLike | None = None,
) -> float:
    """Area between the confidence curve and the oracle's (Ilg et al. 2018), in units of y."""
    table = confidence_curve(y_true, y_pred, y_std, fractions)
    return float(integrate.trapezoid(table.curve - table.oracle, table.fractions))


def _pair(errors: ArrayLike, y_std: ArrayLike) -> tuple[Array, Array]:
    size, std = np.abs(as_finite("errors", errors)).ravel(), as_finite("y_std", y_std).ravel()
    if size.shape != std.shape:
        raise UncertaintyError(f"{size.size} errors for {std.size} standard deviations.")
    return size, std
