"""Do errors come as large as predicted? Coverage, calibration curves, ENCE, PIT."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite, as_predictions
from ase_nnp.uncertainty.statistics.scores import z_scores

__all__ = [
    "ReliabilityBins",
    "calibration_curve",
    "coverage",
    "ence",
    "ence_bins",
    "ence_by_chance",
    "interval_coverage",
    "mean_abs_calibration_error",
    "mean_interval_width",
    "mean_z",
    "miscalibration_area",
    "observed_coverage",
    "pit",
    "pit_ks_statistic",
    "rms_calibration_error",
    "var_z",
]


class ReliabilityBins(NamedTuple):
    """Root mean predicted variance and root mean squared error of each bin, and its size."""

    rmv: Array
    rmse: Array
    counts: Array


def ence_bins(
    y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, bins: int = 10
) -> ReliabilityBins:
    """Bins of equal count, in ascending order of the predicted std.

    Points of equal std keep the order of the input, and the first bins take what is left over
    (``numpy.array_split``).
    """
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    if not 1 <= bins <= len(true):
        raise UncertaintyError(f"{bins} bins for {len(true)} points; give 1 to {len(true)}.")
    groups = np.array_split(np.argsort(std, kind="stable"), bins)
    rmv = [np.sqrt((std[g] ** 2).mean()) for g in groups]
    rmse = [np.sqrt(((true[g] - pred[g]) ** 2).mean()) for g in groups]
    return ReliabilityBins(np.array(rmv), np.array(rmse), np.array([float(len(g)) for g in groups]))


def ence(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, bins: int = 10) -> float:
    """Expected normalized calibration error, ``mean_b |RMV_b - RMSE_b| / RMV_b``.

    Levi et al. 2022, doi:10.3390/s22155540.
    """
    table = ence_bins(y_true, y_pred, y_std, bins)
    return float((np.abs(table.rmv - table.rmse) / table.rmv).mean())


def ence_by_chance(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, bins: int = 10) -> float:
    r"""ENCE that perfect error bars would have on as many values with errors of the same shape.

    The root mean square of :math:`n` errors scatters by :math:`\sqrt{(\kappa - 1) / n} / 2` of
    itself, with the kurtosis :math:`\kappa` of errors over stds (3 for a Gaussian), so that the
    mean deviation is :math:`\sqrt{(\kappa - 1) / 2 \pi n}` with :math:`n` values a bin: 0.053 for
    2250 values in 20 bins. A lower bound where values depend on each other, as the forces of one
    structure do; for very heavy tails a little too large.
    """
    z = z_scores(y_true, y_pred, y_std)
    if not 1 <= bins <= len(z):
        raise UncertaintyError(f"{bins} bins for {len(z)} points; give 1 to {len(z)}.")
    square = float((z**2).mean())
    kurtosis = float((z**4).mean()) / square**2 if square > 0 else 1.0
    return float(np.sqrt((kurtosis - 1) * bins / (2 * np.pi * len(z))))


def observed_coverage(
    y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, levels: ArrayLike
) -> Array:
    """Fraction of points inside the central Gaussian interval of each level in [0, 1]."""
    z = np.sort(np.abs(z_scores(y_true, y_pred, y_std)))
    nominal = np.atleast_1d(as_finite("levels", levels))
    if nominal.min() < 0 or nominal.max() > 1:
        raise UncertaintyError("Coverage levels must lie in [0, 1].")
    inside = np.searchsorted(z, stats.norm.ppf(0.5 + nominal / 2), side="right")
    return np.asarray(inside / len(z))


def calibration_curve(
    y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, levels: int = 100
) -> tuple[Array, Array]:
    """Nominal levels ``linspace(0, 1, levels)`` of central intervals and what they cover."""
    nominal = np.linspace(0, 1, levels)
    return nominal, observed_coverage(y_true, y_pred, y_std, nominal)


def miscalibration_area(
    y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, levels: int = 100
) -> float:
    """Area between the calibration curve and the diagonal (Kuleshov et al. 2018; Tran 2020).

    Levels are joined by straight lines. Where two neighbors lie on different sides of the
    diagonal, the two triangles count, not a trapezoid.
    """
    nominal, observed = calibration_curve(y_true, y_pred, y_std, levels)
    left, right = (observed - nominal)[:-1], (observed - nominal)[1:]
    size = np.abs(left) + np.abs(right)
    crossing = left * right < 0
    triangles = (left**2 + right**2) / np.where(crossing, size, 1.0)
    return float((np.diff(nominal) * np.where(crossing, triangles, size) / 2).sum())


def mean_abs_calibration_error(
    y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, levels: int = 100
) -> float:
    """Mean over levels of |covered - nominal|."""
    nominal, observed = calibration_curve(y_true, y_pred, y_std, levels)
    return float(np.abs(observed - nominal).mean())


def rms_calibration_error(
    y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, levels: int = 100
) -> float:
    """Root mean square over levels of covered - nominal."""
    nominal, observed = calibration_curve(y_true, y_pred, y_std, levels)
    return float(np.sqrt(((observed - nominal) ** 2).mean()))


def mean_z(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> float:
    """Mean of ``(y_true - y_pred) / y_std``; 0 without bias."""
    return float(z_scores(y_true, y_pred, y_std).mean())


def var_z(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> float:
    """Mean of z^2, the variance of z about zero; 1 when the error bars have the right size."""
    return float((z_scores(y_true, y_pred, y_std) ** 2).mean())


def pit(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> Array:
    """Probability integral transform ``Phi((y_true - y_pred) / y_std)``; uniform when right."""
    return np.asarray(stats.norm.cdf(z_scores(y_true, y_pred, y_std)))


def pit_ks_statistic(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> float:
    """Kolmogorov-Smirnov distance of the PIT from the uniform distribution."""
    return float(stats.kstest(pit(y_true, y_pred, y_std), "uniform").statistic)


def interval_coverage(y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> float:
    """Fraction of ``y_true`` inside the closed intervals; infinite ends are allowed."""
    true = as_finite("y_true", y_true)
    return float(((np.asarray(lower) <= true) & (true <= np.asarray(upper))).mean())


coverage = interval_coverage


def mean_interval_width(lower: ArrayLike, upper: ArrayLike) -> float:
    """Mean width of intervals."""
    return float((np.asarray(upper, np.float64) - np.asarray(lower, np.float64)).mean())
