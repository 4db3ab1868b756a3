"""Convergence diagnostics of chains: R-hat and effective sample size of predictions (numpy, scipy).

Have the chains mixed? Predictions tell, not weights. Arrays have the shape (chains, samples, ...):
one prediction per sample, for instance a force.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite

__all__ = ["autocorrelation", "chain_share", "diagnose", "ess", "r_hat"]


def _as_chains(values: ArrayLike, chains: int, samples: int) -> Array:
    array = as_finite("chains", values)
    if array.ndim < 2 or array.shape[0] < chains or array.shape[1] < samples:
        raise UncertaintyError(
            f"Needs (chains >= {chains}, samples >= {samples}, ...); found shape {array.shape}."
        )
    return array


def _split(chains: Array) -> Array:
    """Cut each chain in two, so that a drift shows as chains that disagree."""
    half = chains.shape[1] // 2
    return np.concatenate([chains[:, :half], chains[:, -half:]])


def _normalize_ranks(chains: Array) -> Array:
    """Replace each value by the normal quantile of its rank in all chains (Vehtari, Eq. 14)."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    flat = chains.reshape(-1, *chains.shape[2:])
    ranks = rankdata(flat, axis=0)
    return np.asarray(ndtri((ranks - 3 / 8) / (len(flat) + 1 / 4))).reshape(chains.shape)


def r_hat(chains: ArrayLike) -> Array:
    r"""Potential scale reduction; 1 when mixed, above 1.05 not yet.

    Of split chains with normalized ranks, the larger of that of the values and that of their
    distances from the median (Vehtari et al. 2021, doi:10.1214/20-BA1221, Eqs. 4, 14 and 15): it
    sees a drift within a chain, chains that differ in spread alone, and heavy tails.

    Parameters
    ----------
    chains
        (C, S, ...) with at least 4 samples; one chain will do.

    Returns
    -------
    ndarray
        (...); infinite where samples within chains do not differ but the chains do.
    """
    split = _split(_as_chains(chains, 1, 4))
    distance = np.abs(split - np.median(split, axis=(0, 1)))
    bulk, tails = (_r_hat(_normalize_ranks(values)) for values in (split, distance))
    return np.maximum(bulk, tails)


def _r_hat(chains: Array) -> Array:
    """The ratio of Gelman and Rubin (1992)."""
    count = chains.shape[1]
    within = chains.var(axis=1, ddof=1).mean(axis=0)
    between = chains.mean(axis=1).var(axis=0, ddof=1)
    pooled = (count - 1) / count * within + between
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(pooled / within)
    return np.asarray(np.where(pooled == 0, 1.0, ratio))


def autocorrelation(series: ArrayLike) -> Array:
    """Autocovariance along axis 0 over its value at lag 0, by FFT; shape of ``series``."""
    array = as_finite("series", series)
    delta = array - array.mean(axis=0)
    size = 2 * len(array)
    power = np.abs(np.fft.rfft(delta, size, axis=0)) ** 2
    covariance = np.fft.irfft(power, size, axis=0)[: len(array)] / len(array)
    return np.asarray(covariance / np.where(covariance[:1] == 0, 1.0, covariance[:1]))


def ess(chains: ArrayLike) -> Array:
    """Effective number of samples in all chains together, in the bulk of the distribution.

    Of split chains with normalized ranks (Vehtari et al. 2021, section 3.2). The combined
    autocorrelation is summed over Geyer's initial positive monotone sequence; chains that disagree
    lower it.

    Parameters
    ----------
    chains
        (C, S, ...) with at least 8 samples.

    Returns
    -------
    ndarray
        (...).
    """
    split = _normalize_ranks(_split(_as_chains(chains, 1, 8)))
    count, length = split.shape[:2]
    flat = split.reshape(count, length, -1)
    out = [_ess_of_one(flat[:, :, i]) for i in range(flat.shape[2])]
    return np.asarray(out, dtype=np.float64).reshape(split.shape[2:])


def _ess_of_one(chains: Array) -> float:
    count, length = chains.shape
    variance = chains.var(axis=1, ddof=1)
    pooled = (length - 1) / length * variance.mean() + chains.mean(axis=1).var(ddof=1)
    if pooled == 0:
        return float(count * length)

    rho_chain = autocorrelation(chains.T).T
    mean_product = ((length - 1) / length * variance[:, None] * rho_chain).mean(axis=0)
    rho = 1 - (variance.mean() - mean_product) / pooled
    rho[0] = 1.0

    # The last lags rest on a handful of products.
    pairs = rho[: (length - 3) // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs < 0)
    kept = int(negative[0]) if len(negative) else len(pairs)
    monotone = np.minimum.accumulate(pairs[:kept])
    # The even lag after the last pair still counts where it is positive: odd lags alone are what
    # makes an antithetic chain's pair negative.
    rest = max(0.0, float(rho[2 * kept])) if 2 * kept < length else 0.0
    # Samples can be worth more than independent ones, but not without bound.
    time = max(2 * monotone.sum() - 1 + rest, 1 / np.log10(count * length))
    return float(count * length / time)


def chain_share(chains: ArrayLike) -> Array:
    """Part of the variance that lies between chains: 0 when mixed, 1 when each stays at home."""
    array = _as_chains(chains, 2, 1)
    between = array.mean(axis=1).var(axis=0)
    total = array.reshape(-1, *array.shape[2:]).var(axis=0)
    return np.asarray(np.where(total > 0, between / np.where(total > 0, total, 1.0), 0.0))


def diagnose(chains: ArrayLike) -> dict[str, Any]:
    """Sum up the diagnostics of predictions and say what they mean.

    Returns
    -------
    dict
        ``r_hat_median``, ``r_hat_max``, ``ess_median``, ``chain_share_mean``, ``mixed`` (bool)
        and ``verdict``, a sentence.
    """
    # Two chains: one alone cannot show that it is stuck.
    array = _as_chains(chains, 2, 8)
    reduction, share = r_hat(array), chain_share(array)
    median, worst = float(np.median(reduction)), float(reduction.max())
    mixed = median < 1.05
    verdict = (
        f"R-hat of predictions is {median:.2f} (median), {worst:.2f} (largest): "
        + ("the chains agree." if mixed else "the chains have NOT mixed; ")
        + ("" if mixed else f"{share.mean():.0%} of the variance lies between chains. ")
        + ("" if mixed else "The spread is that of an ensemble of chains, not of the posterior.")
    )

    return {
        "chains": array.shape[0],
        "samples_per_chain": array.shape[1],
        "r_hat_median": median,
        "r_hat_max": worst,
        "ess_median": float(np.median(ess(array))),
        "chain_share_mean": float(share.mean()),
        "mixed": mixed,
        "verdict": verdict,
    }
