r"""Selection of features by relevance and redundancy, from mutual information.

De Breuck, Hautier and Rignanese 2021 (doi:10.1038/s41524-021-00552-2): the first feature is the one
that says most of the target; the next ones have the largest

.. math:: \frac{\mathrm{NMI}(f, y)}{\max_s \mathrm{NMI}(f, s)^{p} + c}, \qquad
          p = \max(0.1,\ 4.5 - n^{0.4}), \quad c = 10^{-6} n^3

over the :math:`n` features :math:`s` that are chosen already.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ase_nnp.errors import ConfigError

__all__ = ["mutual_information", "normalized_mutual_information", "select_features"]

Array = np.ndarray[Any, Any]


def mutual_information(x: Array, y: Array, neighbors: int = 3) -> float:
    r"""Return the mutual information of two samples (N,), in nats.

    The first estimator of Kraskov, Stoegbauer and Grassberger (2004, doi:10.1103/PhysRevE.69.
    066138), :math:`\psi(k) + \psi(N) - \langle\psi(n_x) + \psi(n_y)\rangle`, where :math:`n` counts
    the points closer than the k-th neighbor in the plane, and a point itself. Where that neighbor
    is at distance zero, k is the number of equal points (Gao et al. 2017, arXiv:1709.06212), so
    that samples of a few values are right too.

    Raises
    ------
    ConfigError
        Samples of different lengths, of too few points or with values that are not finite.
    """
    from scipy.spatial import cKDTree
    from scipy.special import digamma

    x, y = (_scaled(np.asarray(v, dtype=float)) for v in (x, y))
    if x.shape != y.shape or x.ndim != 1 or len(x) <= neighbors:
        raise ConfigError(f"Two samples of more than {neighbors} points each were expected.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError("Samples with values that are not finite have no mutual information.")

    plane = np.stack([x, y], axis=1)
    tree = cKDTree(plane)
    far = tree.query(plane, neighbors + 1, p=np.inf)[0][:, -1]
    near = far * (1 - 1e-10)  # closer, by more than sums round: the neighbor itself is not counted
    counts = [_within(v, near) for v in (x, y)]

    # Equal points: all that are at distance zero are neighbors, however many there are.
    k = np.full(len(x), neighbors)
    for at in np.flatnonzero(far == 0):
        k[at] = tree.query_ball_point(plane[at], 0.0, p=np.inf, return_length=True)
    mean = np.mean(digamma(k) - sum(digamma(n) for n in counts))
    return max(0.0, float(digamma(len(x)) + mean))


def normalized_mutual_information(x: Array, y: Array) -> float:
    r"""Return :math:`2 I(x; y) / (I(x; x) + I(y; y))`, between 0 and 1."""
    return _normalized(mutual_information(x, y), mutual_information(x, x), mutual_information(y, y))


def select_features(features: Array, targets: Array, count: int) -> list[int]:
    """Return the columns of the best features, best first.

    Parameters
    ----------
    features : array (N, F)
        Constant ones are never chosen.
    targets : array (N,) or (N, T)
        NaN where a structure has no such label. Each target ranks the features by itself; then
        they take turns.
    count
        How many.

    Raises
    ------
    ConfigError
        Shapes that do not fit, or features that are not finite.
    """
    features, targets = np.asarray(features, float), np.asarray(targets, float)
    targets = targets.reshape(len(targets), -1)
    if features.ndim != 2 or len(features) != len(targets) or count < 1:
        raise ConfigError(
            f"Features (N, F), targets (N, T) and a positive count were expected, not "
            f"{features.shape}, {targets.shape} and {count}."
        )
    if not np.isfinite(features).all():
        raise ConfigError("A feature is not finite.")

    varied = np.flatnonzero(np.ptp(features, axis=0) > 0)
    own = {int(f): mutual_information(features[:, f], features[:, f]) for f in varied}
    known: dict[tuple[int, int], float] = {}
    ranks = [_ranked(features, target, own, known, count) for target in targets.T]
    merged = dict.fromkeys(rank[i] for i in range(count) for rank in ranks if i < len(rank))
    return list(merged)[:count]


def _ranked(
    features: Array,
    target: Array,
    own: dict[int, float],
    known: dict[tuple[int, int], float],
    count: int,
) -> list[int]:
    have = np.isfinite(target)
    label = target[have]
    of_label = mutual_information(label, label)
    relevance = {}
    for f in sorted(own):
        column = features[have, f]
        of_column = own[f] if have.all() else mutual_information(column, column)
        relevance[f] = _normalized(mutual_information(column, label), of_column, of_label)

    closest = dict.fromkeys(relevance, 0.0)
    chosen: list[int] = []
    while relevance and len(chosen) < count:
        score = relevance  # nothing is redundant yet at the first one
        if n := len(chosen):
            power, constant = max(0.1, 4.5 - n**0.4), 1e-6 * n**3
            score = {f: r / (closest[f] ** power + constant) for f, r in relevance.items()}
        best = max(score, key=score.__getitem__)
        chosen.append(best)
        del relevance[best]

        for f in relevance:
            pair = min(f, best), max(f, best)
            if pair not in known:
                shared = mutual_information(features[:, f], features[:, best])
                known[pair] = _normalized(shared, own[f], own[best])
            closest[f] = max(closest[f], known[pair])
    return chosen


def _normalized(shared: float, one: float, two: float) -> float:
    return min(1.0, 2 * shared / (one + two)) if one + two > 0 else 0.0


def _scaled(values: Array) -> Array:
    """Centered, in units of their spread: neighbors in the plane must not depend on units."""
    std = values.std()
    return (values - values.mean()) / std if std > 0 else values


def _within(values: Array, radius: Array) -> Array:
    """Return how many of the values lie within ``radius`` of each one, itself counted."""
    ordered = np.sort(values)
    above = np.searchsorted(ordered, values + radius, side="right")
    return above - np.searchsorted(ordered, values - radius, side="left")
