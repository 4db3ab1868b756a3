"""Kinds of structures, for calibration by leaving one kind out: given, or clusters of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.vq import kmeans2

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["cluster_kinds", "kind_labels", "kinds_of", "name_kinds"]

#: Kinds made by clustering, and the fewest structures of a kind.
KINDS, SMALLEST = 6, 5
#: Directions of the features that clusters are made in.
DIRECTIONS = 8


def kind_labels(
    structures: Sequence[Atoms], kinds: Sequence[Any] | str | None
) -> Sequence[Any] | None:
    """Return the kind of each structure: as given, or under a key of ``atoms.info``."""
    if isinstance(kinds, str):
        missing = [i for i, atoms in enumerate(structures) if kinds not in atoms.info]
        if missing:
            raise UncertaintyError(f"Structure {missing[0]} has no info['{kinds}'].")
        return [atoms.info[kinds] for atoms in structures]
    if kinds is not None and len(kinds) != len(structures):
        raise UncertaintyError(f"{len(kinds)} kinds were given for {len(structures)} structures.")
    return kinds


def name_kinds(labels: Sequence[Any] | ArrayLike) -> tuple[NDArray[np.intp], list[str]]:
    """Return numbers (n,) of kinds in the order of their sorted names, and the names."""
    names, number = np.unique([str(label) for label in np.asarray(labels)], return_inverse=True)
    return number.ravel(), [str(name) for name in names]


def cluster_kinds(features: ArrayLike, count: int = KINDS, seed: int = 0) -> NDArray[np.intp]:
    """Split structures into kinds by k-means on the main directions of their features.

    Parameters
    ----------
    features
        (n, d) one row a structure.
    count
        Most kinds; fewer where structures are few or alike.
    seed
        Of the starts.

    Returns
    -------
    ndarray
        (n,) numbers from 0; every kind has at least five structures if there are ten.
    """
    rows = as_finite("features", features)
    if rows.ndim != 2 or not len(rows):
        raise UncertaintyError(f"Features of structures must be (n, d); found {rows.shape}.")

    count = min(count, len(rows) // SMALLEST)
    if count < 2 or not rows.std(axis=0).any():
        return np.zeros(len(rows), dtype=np.intp)

    # Distances in many noisy directions are all alike.
    centered = rows - rows.mean(axis=0)
    left, strength, _ = np.linalg.svd(centered, full_matrices=False)
    keep = strength > 1e-6 * strength[0]
    main = (left * strength)[:, keep][:, :DIRECTIONS]
    centers, number = kmeans2(main, count, minit="++", rng=np.random.default_rng(seed))

    # A cluster of a few is no kind: its structures go to the nearest one that is.
    size = np.bincount(number, minlength=count)
    large = np.flatnonzero(size >= SMALLEST)
    gaps = np.linalg.norm(main[:, None] - centers[large], axis=2)
    return np.unique(large[gaps.argmin(axis=1)], return_inverse=True)[1]


def kinds_of(
    formulas: Sequence[str], features: Array, labels: Sequence[Any] | None = None, seed: int = 0
) -> tuple[NDArray[np.intp], list[str]]:
    """Return the kind of each structure and the kinds' names.

    Parameters
    ----------
    formulas
        Chemical formula of each structure.
    features
        (n, d) mean features of each structure.
    labels
        Kinds that the user knows (temperatures, phases, sources); they are taken as they are.
        Without them compositions are kinds if there are three or more with five structures each,
        and else clusters of the features.
    seed
        Of the clustering.
    """
    if labels is not None:
        if len(labels) != len(formulas):
            raise UncertaintyError(f"{len(labels)} kinds for {len(formulas)} structures.")
        number, names = name_kinds(labels)
        if len(names) < 2:
            raise UncertaintyError(f"All structures are of kind '{names[0]}'; give two or more.")
        return number, names

    number, names = name_kinds(formulas)
    size = np.bincount(number)
    if 3 <= len(names) <= 4 * KINDS and size.min() >= SMALLEST:
        return number, names
    number = cluster_kinds(features, seed=seed)
    return number, [f"cluster {k}" for k in range(int(number.max()) + 1)]
