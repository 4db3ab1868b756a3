r"""Last-layer Laplace approximation on plain arrays.

Rows are features :math:`\Phi_n` of structures and, for forces, :math:`J_{nk} = -\partial\Phi_n /
\partial x_k`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite, as_std

__all__ = [
    "laplace_covariance",
    "laplace_precision",
    "misfit_temperature",
    "pops_covariance",
    "quadratic_std",
    "ula_variance",
]


def laplace_precision(
    features: ArrayLike,
    noise_energy: float,
    *,
    jacobian: ArrayLike | None = None,
    noise_forces: float | None = None,
    prior_precision: float = 0.0,
    ridge: float = 0.0,
) -> Array:
    r"""Posterior precision of the last layer's weights.

    .. math:: H = \lambda I + \sum_n \Phi_n \Phi_n^T / s_E^2 + \sum_{nk} J_{nk} J_{nk}^T / s_F^2

    Parameters
    ----------
    features
        (N, d), summed over the atoms of each structure.
    noise_energy, noise_forces
        Expected errors s_E and s_F, eV and eV/Angstrom.
    jacobian
        (..., d) rows of all force components.
    prior_precision
        lambda.
    ridge
        Added to lambda, times ``trace(H) / d`` of the data's part.
    """
    rows = np.atleast_2d(as_finite("features", features))
    total = rows.T @ rows / noise_energy**2
    if jacobian is not None:
        if noise_forces is None:
            raise UncertaintyError("Force rows need noise_forces.")
        slopes = as_finite("jacobian", jacobian).reshape(-1, rows.shape[1])
        total = total + slopes.T @ slopes / noise_forces**2
    width = rows.shape[1]
    lam = prior_precision + ridge * np.trace(total) / width
    return np.asarray(total + lam * np.eye(width))


def laplace_covariance(precision: ArrayLike, temperature: float = 1.0) -> Array:
    """Inverse of the precision times the temperature, by Cholesky."""
    matrix = as_finite("precision", precision)
    factor = linalg.cho_factor(matrix, lower=True)
    return np.asarray(temperature * linalg.cho_solve(factor, np.eye(len(matrix))))


def quadratic_std(rows: ArrayLike, covariance: ArrayLike) -> Array:
    """``sqrt(r^T Sigma r)`` of each row (..., d): energies, atomic energies or forces."""
    array, sigma = as_finite("rows", rows), as_finite("covariance", covariance)
    square = np.einsum("...i,ij,...j->...", array, sigma, array)
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def pops_covariance(precision: ArrayLike, rows: ArrayLike, errors: ArrayLike) -> Array:
    r"""Covariance of the weights that would fit each training row exactly.

    .. math:: \delta w_n = \frac{H^{-1} J_n e_n}{J_n^T H^{-1} J_n}, \qquad
              \Sigma = \overline{\delta w\,\delta w^T}

    Swinburne and Perez 2025, arXiv:2502.07104.

    Parameters
    ----------
    precision
        (d, d) H.
    rows, errors
        (n, d) and (n,) what the model misses of each label.
    """
    matrix = as_finite("precision", precision)
    table = np.atleast_2d(as_finite("rows", rows))
    missed = as_finite("errors", errors).ravel()
    if missed.shape != table.shape[:1]:
        raise UncertaintyError(f"{len(table)} rows for {len(missed)} errors.")
    solved = linalg.cho_solve(linalg.cho_factor(matrix, lower=True), table.T).T
    leverage = (table * solved).sum(axis=1)
    seen = leverage > 1e-12 * leverage.max()
    step = solved[seen] * (missed[seen] / leverage[seen])[:, None]
    return np.asarray(step.T @ step / seen.sum())


def ula_variance(precision: ArrayLike, step: float, temperature: float = 1.0) -> Array:
    """Variance that unadjusted Langevin dynamics gives a Gaussian direction of this precision.

    ``T / (lam (1 - h lam / 2))`` for ``theta += -h lam theta + sqrt(2 h T) xi``; infinite from
    ``h = 2 / lam`` on, where it diverges.
    """
    lam = as_std("precision", precision)
    shrink = 1 - step * lam / 2
    safe = np.where(shrink > 0, shrink, 1.0)
    return np.asarray(np.where(shrink > 0, temperature / (lam * safe), np.inf))


def misfit_temperature(loss: float, n_parameters: int) -> float:
    """Temperature ``2 L0 / N`` of a model that does not fit (Frederiksen et al. 2004).

    Parameters
    ----------
    loss
        Least loss L0, half a sum of squared residuals over their noise.
    n_parameters
        N, of the model.
    """
    if loss < 0 or n_parameters < 1:
        raise UncertaintyError("Needs a loss of zero or more and at least one parameter.")
    return 2 * loss / n_parameters
