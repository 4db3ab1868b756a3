"""Proper scores of Gaussian and ensemble predictions; smaller is better."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ase_nnp.uncertainty.statistics.arrays import Array, as_finite, as_members, as_predictions

__all__ = [
    "check_score",
    "coefficient_of_variation_of_std",
    "crps_ensemble",
    "crps_gaussian",
    "interval_score",
    "nll_gaussian",
    "pinball_loss",
    "sharpness",
    "sharpness_mean",
    "sharpness_rms",
    "z_scores",
]


def z_scores(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> Array:
    """Errors in units of their predicted std, ``(y_true - y_pred) / y_std``."""
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    return np.asarray((true - pred) / std)


def nll_gaussian(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> float:
    """Mean negative log likelihood under Gaussians."""
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    return float(-stats.norm.logpdf(true, pred, std).mean())


def crps_gaussian(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> float:
    r"""Mean continuous ranked probability score of Gaussians (Gneiting and Raftery 2007, eq. 21).

    .. math:: \sigma\,[z(2\Phi(z) - 1) + 2\varphi(z) - 1/\sqrt\pi]
    """
    _, _, std = as_predictions(y_true, y_pred, y_std)
    z = z_scores(y_true, y_pred, y_std)
    inner = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    return float((std * inner).mean())


def crps_ensemble(y_true: ArrayLike, members: ArrayLike, fair: bool = False) -> float:
    """Mean CRPS of the members' empirical distribution, ``mean|x - y| - mean|x - x'| / 2``.

    Parameters
    ----------
    y_true
        (...).
    members
        (M, ...).
    fair
        Average the pair term over distinct pairs, so that the expected score does not depend on M
        (Ferro 2014). Needs two members.
    """
    values = as_members("members", members, ddof=int(fair))
    true, count = as_finite("y_true", y_true), len(values)
    ordered = np.sort(values, axis=0)
    rank = (2 * np.arange(1, count + 1) - count - 1).reshape(-1, *[1] * (values.ndim - 1))
    pairs = (rank * ordered).sum(axis=0) / (count * (count - 1) if fair else count**2)
    return float((np.abs(values - true).mean(axis=0) - pairs).mean())


def pinball_loss(y_true: ArrayLike, y_quantile: ArrayLike, level: float) -> float:
    """Mean pinball loss of predicted quantiles of this level."""
    excess = as_finite("y_quantile", y_quantile) - as_finite("y_true", y_true)
    return float((((excess >= 0) - level) * excess).mean())


def check_score(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, levels: int = 99) -> float:
    """Mean check (pinball) loss over quantile levels 0.01 ... 0.99."""
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    total = 0.0
    for q in np.linspace(0.01, 0.99, levels):
        total += pinball_loss(true, pred + std * stats.norm.ppf(q), q)
    return total / levels


def interval_score(
    y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, levels: int = 99
) -> float:
    """Mean interval score of central intervals with coverage 0.01 ... 0.99.

    Width plus ``2 / alpha`` times the distance by which the truth lies outside
    (Gneiting and Raftery 2007, eq. 43).
    """
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    total = 0.0
    for p in np.linspace(0.01, 0.99, levels):
        half = std * stats.norm.ppf(0.5 + p / 2)
        outside = np.maximum(np.abs(true - pred) - half, 0)
        total += float((2 * half + 2 / (1 - p) * outside).mean())
    return total / levels


def sharpness_rms(y_std: ArrayLike) -> float:
    """Root mean predicted variance."""
    return float(np.sqrt((as_finite("y_std", y_std) ** 2).mean()))


sharpness = sharpness_rms


def sharpness_mean(y_std: ArrayLike) -> float:
    """Mean predicted std."""
    return float(as_finite("y_std", y_std).mean())


def coefficient_of_variation_of_std(y_std: ArrayLike, ddof: int = 1) -> float:
    """Spread of the predicted std over its mean; 0 means that all error bars are the same."""
    std = as_finite("y_std", y_std)
    return float(std.std(ddof=ddof) / std.mean())
