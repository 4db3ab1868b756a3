"""Distances of training atoms with their structure, or their whole kind, left out of the reference.

A training atom is at distance zero from itself. Left out with its structure, it is as far as an
atom of a new structure of a known kind; left out with its kind, as far as one of a new kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite
from ase_nnp.uncertainty.statistics.ranking import auroc_ood

__all__ = ["LeftOut", "choose_score", "left_out_distances"]

#: Numbers of a table of distances that is held at once.
BLOCK = 1 << 22
#: What a mean AUROC over a few kinds of a hundred structures moves by chance.
NOISE = 0.02


@dataclass(frozen=True)
class LeftOut:
    """Distances (N,) of atoms to the reference without their structure, and without their kind."""

    structure: Array
    kind: Array


def left_out_distances(
    features: ArrayLike,
    numbers: ArrayLike,
    owner: ArrayLike,
    kinds: ArrayLike,
    *,
    k: int = 10,
    max_points: int = 2000,
    seed: int = 0,
) -> LeftOut:
    """Mean distance of each atom to the ``k`` nearest of its element outside its structure or kind.

    Parameters
    ----------
    features
        (N, d) rows of atoms.
    numbers, owner
        (N,) atomic number and structure of each atom.
    kinds
        (B,) kind of each structure.
    k
        Neighbors; fewer where there are fewer.
    max_points
        Reference atoms of each element, drawn at random.
    seed
        Of the draw.

    Returns
    -------
    LeftOut
        Infinite where no atom of the element is left.
    """
    rows, z = as_finite("features", features), np.asarray(numbers)
    structure, kind = np.asarray(owner), np.asarray(kinds)
    if not len(rows) == len(z) == len(structure):
        raise UncertaintyError(f"{len(rows)} rows, {len(z)} elements, {len(structure)} owners.")
    rng = np.random.default_rng(seed)
    apart = {name: np.full(len(rows), np.inf) for name in ("structure", "kind")}

    for element in np.unique(z):
        own = np.flatnonzero(z == element)
        known = own
        if len(own) > max_points:
            known = np.sort(rng.choice(own, max_points, replace=False))
        labels = {"structure": structure, "kind": kind[structure]}
        for part in np.array_split(own, -(-len(own) * len(known) // BLOCK)):
            gaps = _distances(rows[part], rows[known])
            for name, label in labels.items():
                barred = label[part][:, None] == label[known]
                apart[name][part] = _mean_nearest(np.where(barred, np.inf, gaps), k)
    return LeftOut(**apart)


def _distances(one: Array, other: Array) -> Array:
    """Euclidean distances (n, m)."""
    square = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.asarray(np.sqrt(np.maximum(square, 0)))


def _mean_nearest(gaps: Array, k: int) -> Array:
    """Mean of the k least finite numbers of each row; infinite where there is none."""
    k = min(k, gaps.shape[1])
    near = np.partition(gaps, k - 1, axis=1)[:, :k]
    finite = np.isfinite(near)
    count = finite.sum(axis=1)
    total = np.where(finite, near, 0.0).sum(axis=1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.inf))


def choose_score(
    known: Mapping[str, Array], novel: Mapping[str, Array], kinds: ArrayLike, order: Sequence[str]
) -> tuple[str, dict[str, float]]:
    """Choose the score of structures that tells left-out kinds from known ones best.

    Parameters
    ----------
    known, novel
        By name, scores (B,) of training structures with only themselves left out of the reference,
        and with their kind left out.
    kinds
        (B,) kind of each structure.
    order
        Names from the one preferred to the last; a later one must be better by ``NOISE``.

    Returns
    -------
    name, table
        The choice, and the mean AUROC over kinds of every score.
    """
    kind = np.asarray(kinds)
    table: dict[str, float] = {}
    for name in order:
        inside, outside = (np.minimum(s[name], 1e12) for s in (known, novel))
        values: list[float] = []
        for number in np.unique(kind):
            own: NDArray[np.bool_] = kind == number
            if own.all():
                continue
            values.append(auroc_ood(inside[~own], outside[own]))
        table[name] = float(np.mean(values)) if values else 0.5

    best = order[0]
    for name in order[1:]:
        if table[name] > table[best] + NOISE:
            best = name
    return best, table
