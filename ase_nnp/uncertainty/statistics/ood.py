"""Distance of atoms from what a model was trained on, in its own features, per element.

Features are per-atom rows that do not change under rotation. Each element has its own model of
them. An element that was not seen is infinitely far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg, spatial, stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite

__all__ = [
    "KNNDistance",
    "LatentDistance",
    "Mahalanobis",
    "mahalanobis",
    "ood_threshold",
    "rank_average",
    "structure_ood_score",
]


class LatentDistance(Protocol):
    """Scores atoms by their features."""

    def __call__(self, features: ArrayLike, numbers: ArrayLike) -> Array:
        """(N, d) features and (N,) atomic numbers to (N,) distances."""
        ...


def mahalanobis(features: ArrayLike, mean: ArrayLike, covariance: ArrayLike) -> Array:
    """``sqrt((phi - mu)^T C^-1 (phi - mu))`` of each row, (N,)."""
    rows = np.atleast_2d(as_finite("features", features))
    factor: Array = np.asarray(np.linalg.cholesky(as_finite("covariance", covariance)))
    return _whitened_norm(rows, np.asarray(mean, dtype=np.float64), factor)


def _whitened_norm(rows: Array, mean: Array, factor: Array) -> Array:
    white = linalg.solve_triangular(factor, (rows - mean).T, lower=True)
    return np.asarray(np.sqrt((white**2).sum(axis=0)))


def _knn(tree: spatial.cKDTree, rows: Array, k: int) -> Array:
    # Of a list of ranks scipy gives a column each, of k = 1 alone a flat array.
    near, _ = tree.query(rows, k=list(range(1, min(k, tree.n) + 1)))
    return np.asarray(near.mean(axis=1))


def _split(features: ArrayLike, numbers: ArrayLike) -> tuple[Array, Array]:
    rows, z = as_finite("features", features), np.asarray(numbers)
    if rows.ndim != 2 or z.shape != rows.shape[:1]:
        raise UncertaintyError(f"Features {rows.shape} and numbers {z.shape} must be (N, d), (N,).")
    return rows, z


@dataclass(frozen=True)
class Mahalanobis:
    """One Gaussian of the features per element; keeps means and Cholesky factors only.

    Attributes
    ----------
    means, factors
        By atomic number: (d,) and the lower (d, d) factor of the covariance.
    """

    means: Mapping[int, Array]
    factors: Mapping[int, Array]

    @classmethod
    def fit(cls, features: ArrayLike, numbers: ArrayLike, ridge: float = 1e-6) -> Mahalanobis:
        """Fit to the training atoms.

        ``ridge`` times the mean variance is added to the diagonal, so that features that never
        move do not make the covariance singular.
        """
        rows, z = _split(features, numbers)
        width = rows.shape[1]
        pooled = float(rows.var(axis=0).mean()) or 1.0
        means, factors = {}, {}
        for element in np.unique(z):
            own = rows[z == element]
            mean = own.mean(axis=0)
            scatter = (own - mean).T @ (own - mean) / max(len(own) - 1, 1)
            # An element that was seen once has no scatter: that of all atoms stands in.
            scale = float(np.trace(scatter)) / width or pooled
            means[int(element)] = mean
            factors[int(element)] = np.linalg.cholesky(scatter + ridge * scale * np.eye(width))
        return cls(means, factors)

    def __call__(self, features: ArrayLike, numbers: ArrayLike) -> Array:
        """Distance of each atom, infinite for elements that were not seen."""
        rows, z = _split(features, numbers)
        out = np.full(len(rows), np.inf)
        for element in np.unique(z):
            if int(element) in self.means:
                own = z == element
                out[own] = _whitened_norm(
                    rows[own], self.means[int(element)], self.factors[int(element)]
                )
        return out


@dataclass(frozen=True)
class KNNDistance:
    """Mean distance to the k nearest training atoms of the same element.

    Attributes
    ----------
    training
        By atomic number the (n, d) features themselves, in units of ``scale``.
    scale
        (d,) std of each feature over the training atoms.
    """

    training: Mapping[int, Array]
    scale: Array
    k: int = 10

    @classmethod
    def fit(
        cls,
        features: ArrayLike,
        numbers: ArrayLike,
        k: int = 10,
        max_points: int | None = None,
        seed: int = 0,
        standardize: bool = False,
    ) -> KNNDistance:
        """Keep the training atoms, at most ``max_points`` of each element, drawn at random."""
        rows, z = _split(features, numbers)
        rng = np.random.default_rng(seed)
        scale = rows.std(axis=0) if standardize else np.ones(rows.shape[1])
        scale = np.where(scale > 0, scale, 1.0)
        kept = {}
        for element in np.unique(z):
            own = rows[z == element] / scale
            if max_points is not None and len(own) > max_points:
                own = own[np.sort(rng.choice(len(own), max_points, replace=False))]
            kept[int(element)] = own
        return cls(kept, scale, k)

    def __call__(self, features: ArrayLike, numbers: ArrayLike) -> Array:
        """Distance of each atom, infinite for elements that were not seen."""
        rows, z = _split(features, numbers)
        out = np.full(len(rows), np.inf)
        for element in np.unique(z):
            if int(element) in self.training:
                tree = self._trees[int(element)]
                out[z == element] = _knn(tree, rows[z == element] / self.scale, self.k)
        return out

    @cached_property
    def _trees(self) -> dict[int, spatial.cKDTree]:
        return {z: spatial.cKDTree(rows) for z, rows in self.training.items()}


def structure_ood_score(
    atom_scores: ArrayLike, structure: ArrayLike, reduce: Literal["max", "mean"] = "max"
) -> Array:
    """One score per structure from those of its atoms, in ascending order of ``structure``."""
    scores = np.asarray(atom_scores, dtype=np.float64)
    if np.isnan(scores).any():
        raise UncertaintyError("atom_scores holds NaN.")
    names, index = np.unique(np.asarray(structure), return_inverse=True)
    if reduce == "max":
        out = np.full(len(names), -np.inf)
        np.maximum.at(out, index.ravel(), scores)
        return out
    if reduce == "mean":
        return np.asarray(np.bincount(index.ravel(), scores) / np.bincount(index.ravel()))
    raise UncertaintyError(f"reduce must be 'max' or 'mean'; found {reduce!r}.")


def ood_threshold(training_scores: ArrayLike, quantile: float = 0.99) -> float:
    """Score above which a structure is called unknown: a quantile of the training scores."""
    return float(np.quantile(as_finite("training_scores", training_scores), quantile))


def rank_average(*scores: ArrayLike, reference: ArrayLike | None = None) -> Array:
    """Mean of the ranks (0 to 1) of several scores, to combine those of different units.

    Parameters
    ----------
    scores
        (n,) each.
    reference
        One array of calibration scores for each of them, to rank against; without it each is
        ranked within itself.
    """
    if reference is None:
        ranks = [(stats.rankdata(s) - 0.5) / np.size(s) for s in scores]
    else:
        # The middle between both sides: a score that was seen before counts half.
        known = [np.sort(as_finite("reference", r)) for r in reference]  # type: ignore[union-attr]
        if len(known) != len(scores):
            raise UncertaintyError(f"{len(scores)} scores for {len(known)} references.")
        ranks = [
            (np.searchsorted(r, s) + np.searchsorted(r, s, side="right")) / (2 * len(r))
            for r, s in zip(known, scores, strict=True)
        ]
    return np.asarray(np.mean(ranks, axis=0))
