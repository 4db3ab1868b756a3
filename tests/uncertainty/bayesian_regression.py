"""Bayesian linear regression in closed form: the exact answer for a linear last layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite

__all__ = ["BayesianLinearRegression", "bayesian_linear_regression"]


@dataclass(frozen=True)
class BayesianLinearRegression:
    """Posterior of ``y = X w + e`` with Gaussian noise and prior.

    Attributes
    ----------
    map_weights
        (D,) posterior mean, which is also its mode.
    posterior_precision, posterior_covariance
        (D, D) ``H`` and ``H^-1``, the latter times the temperature.
    log_marginal_likelihood
        Of the data, at temperature 1.
    noise_std, prior_precision, temperature
        As given.
    """

    map_weights: Array
    posterior_precision: Array
    posterior_covariance: Array
    log_marginal_likelihood: float
    noise_std: float
    prior_precision: float
    temperature: float

    def predictive_mean(self, features: ArrayLike) -> Array:
        """Mean prediction for rows of features, (n,)."""
        return np.asarray(as_finite("features", features) @ self.map_weights)

    def predictive_variance(self, features: ArrayLike) -> Array:
        """Epistemic variance ``x^T Sigma x`` of each row, (n,)."""
        rows = np.atleast_2d(as_finite("features", features))
        half = linalg.solve_triangular(self._cholesky(), rows.T, lower=True)
        return np.asarray(self.temperature * (half**2).sum(axis=0))

    def predictive_std_epistemic(self, features: ArrayLike) -> Array:
        """Root of the epistemic variance."""
        return np.asarray(np.sqrt(self.predictive_variance(features)))

    def predictive_std_total(self, features: ArrayLike) -> Array:
        """Root of epistemic variance plus noise."""
        return np.asarray(np.sqrt(self.predictive_variance(features) + self.noise_std**2))

    def prediction_rigidity(self, features: ArrayLike) -> Array:
        """Inverse epistemic variance (Bigi et al. 2024, arXiv:2403.02251)."""
        return np.asarray(1 / self.predictive_variance(features))

    def sample(self, count: int, seed: int = 0) -> Array:
        """``count`` draws of the weights from the posterior, (count, D)."""
        noise = np.random.default_rng(seed).standard_normal((len(self.map_weights), count))
        spread = linalg.solve_triangular(self._cholesky(), noise, lower=True, trans="T")
        return np.asarray(self.map_weights + np.sqrt(self.temperature) * spread.T)

    @property
    def ula_stable_step_upper_bound(self) -> float:
        """``2 / lambda_max(H)``: the step at which unadjusted Langevin dynamics diverges."""
        return float(2 / np.linalg.eigvalsh(self.posterior_precision)[-1])

    @property
    def condition_number(self) -> float:
        """Of the posterior precision."""
        values = np.linalg.eigvalsh(self.posterior_precision)
        return float(values[-1] / values[0])

    def _cholesky(self) -> Array:
        return np.asarray(np.linalg.cholesky(self.posterior_precision))


def bayesian_linear_regression(
    features: ArrayLike,
    targets: ArrayLike,
    noise_std: float,
    prior_precision: float,
    temperature: float = 1.0,
) -> BayesianLinearRegression:
    """Posterior over weights, ``H = X^T X / s^2 + lam I`` (Bishop 2006, section 3.3).

    Parameters
    ----------
    features, targets
        (N, D) and (N,).
    noise_std
        Standard deviation s of the noise.
    prior_precision
        ``lam`` of the prior ``w ~ N(0, I / lam)``.
    temperature
        T of the tempered posterior ``p(w|D)^(1/T)``: the same mean, covariance times T.
    """
    x, y = as_finite("features", features), as_finite("targets", targets)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise UncertaintyError(f"Features {x.shape} and targets {y.shape} must be (N, D), (N,).")
    if noise_std <= 0 or prior_precision <= 0 or temperature <= 0:
        raise UncertaintyError("noise_std, prior_precision and temperature must be positive.")
    count, width = x.shape
    precision = x.T @ x / noise_std**2 + prior_precision * np.eye(width)
    factor = linalg.cho_factor(precision, lower=True)
    mean = linalg.cho_solve(factor, x.T @ y / noise_std**2)
    misfit = ((y - x @ mean) ** 2).sum() / noise_std**2 + prior_precision * (mean**2).sum()
    evidence = (
        -count / 2 * np.log(2 * np.pi * noise_std**2)
        + width / 2 * np.log(prior_precision)
        - np.log(np.diag(factor[0])).sum()
        - misfit / 2
    )
    covariance = temperature * linalg.cho_solve(factor, np.eye(width))
    return BayesianLinearRegression(
        mean, precision, covariance, float(evidence), noise_std, prior_precision, temperature
    )
