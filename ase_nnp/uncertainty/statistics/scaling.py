"""Turning a spread into a standard deviation that errors agree with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite, as_predictions, as_std
from ase_nnp.uncertainty.statistics.scores import z_scores

__all__ = [
    "AffineVariance",
    "IsotonicStd",
    "StudentT",
    "fit_affine_variance",
    "fit_isotonic",
    "fit_per_group",
    "fit_student_t",
    "scale_abs",
    "scale_crps",
    "scale_nll",
    "scale_small_committee",
]

Fit = TypeVar("Fit")


def scale_nll(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> float:
    """Factor of the std that maximizes the Gaussian likelihood, ``sqrt(mean z^2)``."""
    return float(np.sqrt((z_scores(y_true, y_pred, y_std) ** 2).mean()))


def scale_abs(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> float:
    """Factor from absolute errors, ``sqrt(pi / 2) mean |z|``; less moved by outliers."""
    return float(np.sqrt(np.pi / 2) * np.abs(z_scores(y_true, y_pred, y_std)).mean())


def scale_crps(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> float:
    r"""Factor that minimizes the mean CRPS.

    The root of :math:`\sum_i \sigma_i (2\varphi(e_i / (a \sigma_i)) - 1/\sqrt\pi)`.
    """
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    error = np.abs(true - pred)
    if not error.any():
        raise UncertaintyError("All errors are zero; no positive scale minimizes the CRPS.")
    ratio = error / std

    def slope(log_a: float) -> float:
        pdf = stats.norm.pdf(ratio / np.exp(log_a))
        return float((std * (2 * pdf - 1 / np.sqrt(np.pi))).sum() / std.sum())

    # Each term rises with a, from its least value to a positive one: there is a single root,
    # unless so many errors are exactly zero that the sum is positive everywhere.
    low = high = float(np.log(ratio.max()))
    while slope(high) < 0:
        high += 1.0
    while slope(low) > 0:
        low -= 1.0
        if low < high - 200:
            raise UncertaintyError("Most errors are exactly zero; the CRPS has no best scale.")
    root = optimize.brentq(slope, low, high, xtol=1e-14, rtol=1e-14) if low < high else low
    return float(np.exp(root))


def scale_small_committee(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_std: ArrayLike,
    n_members: int,
    components: int = 1,
) -> float:
    r"""Factor corrected for the few members of the committee.

    .. math:: \alpha^2 = -1/M + \frac{\nu - 2}{\nu}\,\overline{z^2}, \qquad \nu = c\,(M - 1)

    With c = 1 this is Imbalzano et al. 2021 (doi:10.1063/5.0036522, eq. 14):
    ``-1/M + (M - 3)/(M - 1) mean z^2``. An isotropic force std pools c = 3 components.

    Parameters
    ----------
    y_std
        Sample std (ddof 1) over the members.
    n_members
        M; ``components * (M - 1)`` must exceed 2.
    y_true, y_pred
        Labels and predictions, (n,).
    components
        Numbers that share one standard deviation.

    Raises
    ------
    UncertaintyError
        Too few members, or a committee whose mean is better than its size allows (the squared
        factor is not positive).
    """
    freedom = _freedom(n_members, components)
    if freedom <= 2:
        raise UncertaintyError(
            f"{n_members} members leave {freedom} degrees of freedom; more than 2 are needed. "
            "Use more members, the isotropic force std (components=3) or scale_abs."
        )
    mean_square = float((z_scores(y_true, y_pred, y_std) ** 2).mean())
    square = -1 / n_members + (freedom - 2) / freedom * mean_square
    if square <= 0:
        raise UncertaintyError(
            f"The squared factor is {square:.3g}: errors are smaller than {n_members} members "
            "can resolve. Use scale_nll, or a larger calibration set."
        )
    return float(np.sqrt(square))


def _freedom(n_members: int, components: int) -> int:
    if n_members < 2 or components not in (1, 3):
        raise UncertaintyError(
            f"Needs two or more members and components 1 or 3; found {n_members}, {components}."
        )
    return components * (n_members - 1)


@dataclass(frozen=True)
class AffineVariance:
    """``s'^2 = a^2 s^2 + b^2``: a scale and a floor."""

    a: float
    b: float

    def __call__(self, y_std: ArrayLike) -> Array:
        """Calibrated std."""
        return np.asarray(np.sqrt(self.a**2 * as_finite("y_std", y_std) ** 2 + self.b**2))


def fit_affine_variance(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> AffineVariance:
    """Fit scale and floor of the variance by the Gaussian likelihood."""
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    unit = float(np.sqrt((std**2).mean()))
    spread, square = (std / unit) ** 2, ((true - pred) / unit) ** 2
    if not square.any():
        raise UncertaintyError("All errors are zero; there is no variance to fit.")

    def objective(theta: Array) -> tuple[float, Array]:
        variance = theta[0] * spread + theta[1]
        slope = (1 / variance - square / variance**2) / 2
        value = (np.log(variance) + square / variance).mean() / 2
        return float(value), np.array([(slope * spread).mean(), slope.mean()])

    # From three starts: the likelihood of a scale and a floor can have two maxima.
    scale, floor = float((square / spread).mean()), float(square.mean())
    starts = [(scale, 1e-6 * floor), (scale / 2, floor / 2), (1e-3 * scale, floor)]
    tiny = 1e-12 * max(floor, 1e-300)
    fits = [
        optimize.minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(tiny, None), (0 if spread.min() > 0 else tiny, None)],
            options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 1000},
        )
        for start in starts
    ]

    best = min(fits, key=lambda fit: fit.fun)
    return AffineVariance(float(np.sqrt(best.x[0])), float(unit * np.sqrt(best.x[1])))


def fit_per_group(
    fit: Callable[..., Fit],
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_std: ArrayLike,
    groups: ArrayLike,
) -> dict[int, Fit]:
    """One fit for each group, for instance for each element.

    Parameters
    ----------
    fit
        :func:`fit_affine_variance` or :func:`fit_isotonic`; what it raises is raised.
    y_true, y_pred, y_std
        (N,), of one unit.
    groups
        (N,) integers, such as atomic numbers.
    """
    group = np.asarray(groups)
    arrays = [np.asarray(a, dtype=np.float64) for a in (y_true, y_pred, as_std("y_std", y_std))]
    return {int(g): fit(*(a[group == g] for a in arrays)) for g in np.unique(group)}


@dataclass(frozen=True)
class StudentT:
    """Errors follow a t with ``nu`` degrees of freedom and scale ``a * s``."""

    a: float
    nu: float

    def half_width(self, y_std: ArrayLike, coverage: float = 0.9) -> Array:
        """Half the central interval that holds ``coverage`` of the errors."""
        quantile = stats.t.ppf(0.5 + coverage / 2, self.nu)
        return np.asarray(self.a * quantile * as_finite("y_std", y_std))


def fit_student_t(y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike) -> StudentT:
    """Fit scale and degrees of freedom (1 to 1000) by the likelihood of z."""
    z = z_scores(y_true, y_pred, y_std)

    def objective(theta: Array) -> float:
        scale, nu = np.exp(theta)
        constant = special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2)
        constant -= np.log(nu * np.pi) / 2 + np.log(scale)
        return float((nu + 1) / 2 * np.log1p((z / scale) ** 2 / nu).mean() - constant)

    start = [np.log(scale_abs(y_true, y_pred, y_std)), np.log(5.0)]
    fit = optimize.minimize(
        objective, start, method="L-BFGS-B", bounds=[(-50, 50), (0, np.log(1000.0))]
    )
    return StudentT(float(np.exp(fit.x[0])), float(np.exp(fit.x[1])))


@dataclass(frozen=True)
class IsotonicStd:
    """A non-decreasing map from raw to calibrated std, linear between its knots."""

    knots: Array = field(repr=False)
    values: Array = field(repr=False)

    def __call__(self, y_std: ArrayLike) -> Array:
        """Calibrated std; flat beyond the calibration range."""
        return np.asarray(np.interp(as_finite("y_std", y_std), self.knots, self.values))


def fit_isotonic(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_std: ArrayLike,
    factor: float = float(np.sqrt(np.pi / 2)),
) -> IsotonicStd:
    """Isotonic regression of |error| on std.

    ``factor`` makes the std of a Gaussian of its mean absolute error; 1 leaves the latter.
    """
    true, pred, std = as_predictions(y_true, y_pred, y_std)
    knots, inverse, counts = np.unique(std, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse.ravel(), np.abs(true - pred)) / counts
    fitted = optimize.isotonic_regression(mean, weights=counts).x
    if not fitted.any():
        raise UncertaintyError("All errors are zero; there is no std to fit.")
    # A block of exact predictions at the small end would claim certainty.
    fitted = np.maximum(fitted, fitted[fitted > 0].min())
    return IsotonicStd(knots, factor * fitted)
