"""What an uncertain potential means for an average over its own ensemble.

Energies in eV, ``beta = 1 / (k T)`` in 1/eV; any consistent pair of units will do. Members are
the first axis, configurations the last.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite

__all__ = [
    "ObservableSpread",
    "blocking_error",
    "cumulant_expansion",
    "effective_sample_size",
    "ensemble_observable",
    "free_energy_difference",
    "kish_ess_fraction",
    "reweight",
    "reweighted_average",
]


def reweight(energy_members: ArrayLike, energy_reference: ArrayLike, beta: float) -> Array:
    """Normalized weights ``exp(-beta (U_m - U_0))`` of sampled configurations, (M, n) or (n,)."""
    exponent = -beta * _difference(energy_members, energy_reference)
    return np.asarray(special.softmax(exponent, axis=-1))


def reweighted_average(
    observable: ArrayLike,
    energy_members: ArrayLike,
    energy_reference: ArrayLike,
    beta: float,
    min_ess_fraction: float = 0.1,
) -> Array:
    """Average of an observable in each member's own ensemble, (M,) or scalar.

    Warns when the effective sample size of a member falls below ``min_ess_fraction`` of n: such
    an average rests on few configurations and :func:`cumulant_expansion` is the safer choice.
    """
    weights = reweight(energy_members, energy_reference, beta)
    lowest = float(np.min(kish_ess_fraction(weights)))
    if lowest < min_ess_fraction:
        warnings.warn(
            f"Only {lowest:.1%} of the configurations count after reweighting (wanted at least "
            f"{min_ess_fraction:.1%}); use cumulant_expansion or more configurations.",
            stacklevel=2,
        )
    return np.asarray((weights * as_finite("observable", observable)).sum(axis=-1))


def effective_sample_size(weights: ArrayLike) -> Array:
    """Kish's effective sample size ``(sum w)^2 / sum w^2`` along the last axis."""
    values = as_finite("weights", weights)
    if values.min() < 0:
        raise UncertaintyError("Weights must not be negative.")
    return np.asarray(values.sum(axis=-1) ** 2 / (values**2).sum(axis=-1))


def kish_ess_fraction(weights: ArrayLike) -> Array:
    """Effective sample size over the number of configurations."""
    return np.asarray(effective_sample_size(weights) / np.shape(weights)[-1])


def cumulant_expansion(
    observable: ArrayLike, energy_members: ArrayLike, energy_reference: ArrayLike, beta: float
) -> Array:
    r"""First-order estimate of each member's average, stable for large systems.

    .. math:: \langle a\rangle_m \approx \langle a\rangle
              - \beta\,[\langle a\,\Delta U\rangle - \langle a\rangle\langle\Delta U\rangle]

    Imbalzano et al. 2021, doi:10.1063/5.0036522.
    """
    delta = _difference(energy_members, energy_reference)
    value = as_finite("observable", observable)
    centered = delta - delta.mean(axis=-1, keepdims=True)
    return np.asarray(value.mean() - beta * (value * centered).mean(axis=-1))


def free_energy_difference(
    energy_members: ArrayLike, energy_reference: ArrayLike, beta: float
) -> Array:
    """Zwanzig's ``-log <exp(-beta (U_m - U_0))> / beta`` of each member against the reference."""
    delta = _difference(energy_members, energy_reference)
    count = delta.shape[-1]
    return np.asarray(-(special.logsumexp(-beta * delta, axis=-1) - np.log(count)) / beta)


class ObservableSpread(NamedTuple):
    """An observable over the members: mean, sample std and each value."""

    mean: float
    std: float
    members: Array


def ensemble_observable(values: ArrayLike, ddof: int = 1) -> ObservableSpread:
    """Mean and spread of one number per member."""
    members = as_finite("values", values)
    if members.ndim != 1 or len(members) <= ddof:
        raise UncertaintyError(f"Needs one number for each of two or more members: {members.shape}")
    return ObservableSpread(float(members.mean()), float(members.std(ddof=ddof)), members)


def blocking_error(series: ArrayLike) -> float:
    """Standard error of the mean of a correlated series (Flyvbjerg and Petersen 1989).

    Pairs are averaged again and again; the largest estimate over levels of at least 16 blocks is
    taken, which is where the plateau lies.
    """
    values = as_finite("series", series).ravel()
    if values.size < 2:
        raise UncertaintyError("A statistical error needs two or more values.")
    best = float(values.std(ddof=1) / np.sqrt(values.size))
    while values.size >= 32:
        values = values[: values.size // 2 * 2].reshape(-1, 2).mean(axis=1)
        best = max(best, float(values.std(ddof=1) / np.sqrt(values.size)))
    return best


def _difference(energy_members: ArrayLike, energy_reference: ArrayLike) -> Array:
    members = as_finite("energy_members", energy_members)
    reference = as_finite("energy_reference", energy_reference)
    if reference.ndim != 1 or members.shape[-1:] != reference.shape:
        raise UncertaintyError(
            f"Energies of members {members.shape} and reference {reference.shape} must share "
            "their last axis, the configurations."
        )
    return np.asarray(members - reference)
