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
    "MinimumSpread",
    "ObservableSpread",
    "blocking_error",
    "cumulant_expansion",
    "effective_sample_size",
    "ensemble_observable",
    "free_energy_difference",
    "harmonic_ess_fraction",
    "kish_ess_fraction",
    "minimum_over_configurations",
    "reweight",
    "reweighted_average",
    "total_observable_variance",
]


def reweight(energy_members: ArrayLike, energy_reference: ArrayLike, beta: float) -> Array:
    """Normalised weights ``exp(-beta (U_m - U_0))`` of sampled configurations, (M, n) or (n,)."""
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


def harmonic_ess_fraction(ratio: ArrayLike) -> Array:
    """Exact effective fraction ``sqrt(2 r - 1) / r`` of a harmonic well reweighted to ``r k``.

    0 for r <= 1/2, where the weights have no finite variance.
    """
    r = as_finite("ratio", ratio)
    return np.asarray(np.sqrt(np.maximum(2 * r - 1, 0)) / r)


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
    centred = delta - delta.mean(axis=-1, keepdims=True)
    return np.asarray(value.mean() - beta * (value * centred).mean(axis=-1))


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


class MinimumSpread(NamedTuple):
    """The least energy over configurations, and which configuration it may be."""

    mean: float
    std: float
    members: Array
    probabilities: Array


def minimum_over_configurations(energies: ArrayLike, ddof: int = 1) -> MinimumSpread:
    """Propagate through a minimum, as for adsorption energies over many placements.

    Each member picks its own minimum: its distribution is not Gaussian, and its mean lies below
    the minimum of the mean.

    Parameters
    ----------
    energies
        (M, C) of the members for each configuration, eV.

    Returns
    -------
    MinimumSpread
        Mean and sample std of the members' minima, these, and for each configuration the fraction
        of members that call it the minimum.
    """
    table = as_finite("energies", energies)
    if table.ndim != 2 or len(table) <= ddof:
        raise UncertaintyError(f"Needs (members, configurations), two or more: {table.shape}.")
    least = table.min(axis=1)
    votes = np.bincount(table.argmin(axis=1), minlength=table.shape[1]) / len(table)
    return MinimumSpread(float(least.mean()), float(least.std(ddof=ddof)), least, votes)


def total_observable_variance(
    member_values: ArrayLike, statistical_variances: ArrayLike, ddof: int = 1
) -> float:
    """Variance between members plus the mean statistical variance of their averages."""
    between = as_finite("member_values", member_values).var(ddof=ddof)
    return float(between + as_finite("statistical_variances", statistical_variances).mean())


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
