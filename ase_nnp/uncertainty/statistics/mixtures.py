"""Combining models that predict their own noise: Gaussian mixtures and evidential outputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite, as_members, as_std

__all__ = [
    "GaussianMixture",
    "beta_nll",
    "gaussian_mixture",
    "gaussian_moment_matched_nll",
    "mixture_nll",
    "nig_aleatoric_variance",
    "nig_epistemic_variance",
    "nig_mean",
    "nig_nll",
    "nig_student_t_nll",
]


class GaussianMixture(NamedTuple):
    """Mean and the parts of the spread of an ensemble of mean-variance models."""

    mean: Array
    aleatoric_std: Array
    epistemic_std: Array
    total_std: Array


def gaussian_mixture(
    member_mean: ArrayLike, member_std: ArrayLike, ddof: int = 0
) -> GaussianMixture:
    """Combine M Gaussians with equal weights (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    Aleatoric variance is the mean of the members' variances, epistemic variance the variance of
    their means, and the total their sum.

    Parameters
    ----------
    member_mean, member_std
        (M, ...).
    ddof
        Of the epistemic part. 0 makes the total the exact variance of the mixture.
    """
    mean, std = _same(member_mean, member_std, ddof)
    aleatoric, epistemic = (std**2).mean(axis=0), mean.var(axis=0, ddof=ddof)
    return GaussianMixture(
        mean.mean(axis=0), np.sqrt(aleatoric), np.sqrt(epistemic), np.sqrt(aleatoric + epistemic)
    )


def mixture_nll(y_true: ArrayLike, member_mean: ArrayLike, member_std: ArrayLike) -> Array:
    """Negative log density of the equal-weight Gaussian mixture at each point."""
    mean, std = _same(member_mean, member_std, 0)
    logs = stats.norm.logpdf(as_finite("y_true", y_true), mean, std)
    # Densities underflow some forty stds away; their logarithms do not.
    return np.asarray(np.log(len(mean)) - special.logsumexp(logs, axis=0))


def gaussian_moment_matched_nll(
    y_true: ArrayLike, member_mean: ArrayLike, member_std: ArrayLike
) -> Array:
    """Negative log density of one Gaussian with the mixture's mean and total std."""
    mixture = gaussian_mixture(member_mean, member_std)
    true = as_finite("y_true", y_true)
    return np.asarray(-stats.norm.logpdf(true, mixture.mean, mixture.total_std))


def beta_nll(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike, beta: float = 0.5) -> Array:
    """Beta-NLL of each point, ``s^(2 beta) (log s^2 / 2 + e^2 / (2 s^2))``.

    Seitzer et al. 2022, arXiv:2203.09168. In training the weight carries no gradient; the
    constant ``log(2 pi) / 2`` is left out, as there.
    """
    error = as_finite("y_true", y_true) - as_finite("y_pred", y_pred)
    variance = as_std("y_std", y_std) ** 2
    return np.asarray(variance**beta * (np.log(variance) / 2 + error**2 / (2 * variance)))


def nig_mean(gamma: ArrayLike) -> Array:
    """Prediction of a normal-inverse-gamma output: gamma itself."""
    return as_finite("gamma", gamma)


def nig_aleatoric_variance(alpha: ArrayLike, beta: ArrayLike) -> Array:
    """Expected noise variance ``beta / (alpha - 1)`` (Amini et al. 2020, arXiv:1910.02600)."""
    return np.asarray(as_std("beta", beta) / (_alpha(alpha) - 1))


def nig_epistemic_variance(nu: ArrayLike, alpha: ArrayLike, beta: ArrayLike) -> Array:
    """Variance of the mean, ``beta / (nu (alpha - 1))``."""
    return np.asarray(nig_aleatoric_variance(alpha, beta) / as_std("nu", nu))


def nig_nll(
    y_true: ArrayLike, gamma: ArrayLike, nu: ArrayLike, alpha: ArrayLike, beta: ArrayLike
) -> Array:
    """Negative log density of the Student t that a normal-inverse-gamma output predicts.

    ``2 alpha`` degrees of freedom, location gamma, squared scale
    ``beta (1 + nu) / (nu alpha)``.
    """
    shape, rate = as_std("alpha", alpha), as_std("beta", beta)
    count = as_std("nu", nu)
    scale = np.sqrt(rate * (1 + count) / (count * shape))
    location = as_finite("gamma", gamma)
    return np.asarray(-stats.t.logpdf(as_finite("y_true", y_true), 2 * shape, location, scale))


nig_student_t_nll = nig_nll


def _alpha(alpha: ArrayLike) -> Array:
    array = as_finite("alpha", alpha)
    if not (array > 1).all():
        raise UncertaintyError("alpha must exceed 1, or the noise has no mean variance.")
    return array


def _same(member_mean: ArrayLike, member_std: ArrayLike, ddof: int) -> tuple[Array, Array]:
    mean, std = as_members("member_mean", member_mean, ddof), as_std("member_std", member_std)
    if mean.shape != std.shape:
        raise UncertaintyError(
            f"member_mean and member_std must have one shape; found {mean.shape}, {std.shape}."
        )
    return mean, std
