r"""How much of two energies' errors is shared: intervals of differences that hold.

A model's own covariances say what the weights of its last layer do not know. The rest of an error,
of features that see two structures unlike each other, does not cancel, so that the interval of a
difference is too narrow with these covariances and too wide without them. One factor
:math:`0 \le \lambda \le 1` stands between,

.. math:: \mathrm{Var}(A - B) = \sigma_A^2 + \sigma_B^2 - 2 \lambda\, \mathrm{Cov}(A, B),

which leaves the bars of single energies as they are. The largest factor with which a pair with the
error :math:`e` is inside its interval is :math:`(\sigma_A^2 + \sigma_B^2 - (e / z)^2) /
2\,\mathrm{Cov}(A, B)`, so that a quantile of these over labeled pairs is split-conformal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.differences import energies
from ase_nnp.uncertainty.fitting import labels_of
from ase_nnp.uncertainty.methods.base import UncertainPotential
from ase_nnp.uncertainty.statistics.arrays import as_finite
from ase_nnp.uncertainty.statistics.kinds import kind_labels, name_kinds

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["calibrate_differences", "like_pairs", "shared_part", "shared_part_of_kinds"]


def shared_part(
    errors: ArrayLike, variances: ArrayLike, covariances: ArrayLike, coverage: float = 0.9
) -> float:
    """Return the largest part of covariances with which intervals of differences hold.

    Parameters
    ----------
    errors
        (n,) predicted minus true differences of pairs that trained nothing.
    variances
        (n,) the sum of both variances.
    covariances
        (n,) of the two.
    coverage
        Part of new pairs, exchangeable with these, that is to be inside.

    Returns
    -------
    float
        From 0 to 1. With 0 the intervals may still be too narrow: then the stds are.

    Raises
    ------
    UncertaintyError
        Too few pairs for the coverage; 9 are the least for 0.9.
    """
    error, variance, covariance = (
        as_finite(name, values)
        for name, values in (
            ("errors", errors), ("variances", variances), ("covariances", covariances)
        )
    )  # fmt: skip
    if not 0 < coverage < 1:
        raise UncertaintyError(f"coverage must lie between 0 and 1; found {coverage}.")
    outside = int(np.floor((len(error) + 1) * (1 - coverage) + 1e-9))
    if outside < 1:
        least = int(np.ceil(1 / (1 - coverage) - 1e-9)) - 1
        raise UncertaintyError(
            f"{len(error)} pairs are too few for a coverage of {coverage}: give {least} or more."
        )

    # A difference of errors that do not go together is as wide or wider with all of the covariance.
    z = float(stats.norm.ppf(0.5 + coverage / 2))
    slack = variance - (error / z) ** 2
    largest = np.where(slack >= 0, np.inf, -np.inf)
    cancel = covariance > 0
    largest[cancel] = slack[cancel] / (2 * covariance[cancel])
    return float(np.clip(np.sort(largest)[outside - 1], 0.0, 1.0))


def shared_part_of_kinds(
    errors: ArrayLike,
    variances: ArrayLike,
    covariances: ArrayLike,
    kinds: Sequence[Any],
    coverage: float = 0.9,
) -> float:
    """Return the part with which intervals hold for the pairs of every kind by itself.

    Over all pairs together, kinds that training saw would decide for those that it did not. Kinds
    with too few pairs for the coverage stand together as one; if that has too few, it only counts
    among all. The other parameters are those of :func:`shared_part`.
    """
    error, variance, covariance = (
        np.asarray(values, dtype=np.float64) for values in (errors, variances, covariances)
    )

    def part_of(rows: Any) -> float:
        return shared_part(error[rows], variance[rows], covariance[rows], coverage)

    parts = [part_of(slice(None))]
    least = int(np.ceil(1 / (1 - coverage) - 1e-9)) - 1
    kind, names = name_kinds(kinds)
    # One number for all kinds that are rare.
    kind = np.where(np.bincount(kind)[kind] < least, len(names), kind)
    parts += [part_of(kind == k) for k in np.unique(kind) if np.sum(kind == k) >= least]
    return min(parts)


def like_pairs(
    structures: Sequence[Atoms], seed: int = 0, kinds: Sequence[Any] | None = None
) -> list[tuple[int, int]]:
    """Return disjoint pairs of structures of one composition and kind, drawn at random."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, atoms in enumerate(structures):
        kind = "" if kinds is None else str(kinds[number])
        groups[atoms.get_chemical_formula(), kind].append(number)

    # A structure in two pairs would make them depend on each other.
    rng = np.random.default_rng(seed)
    pairs = []
    for members in groups.values():
        order = [members[k] for k in rng.permutation(len(members))]
        pairs += list(zip(order[::2], order[1::2], strict=False))
    return pairs


def calibrate_differences(
    model: UncertainPotential,
    structures: Sequence[Atoms],
    *,
    kinds: Sequence[Any] | str | None = None,
    coverage: float = 0.9,
    seed: int = 0,
) -> UncertainPotential:
    """Fit which part of its covariances a model may rely on for differences of energies.

    Parameters
    ----------
    model
        An uncertainty that states covariances of energies (``ensemble``, ``last_layer``, heads, a
        method with ``energy_rows``), calibrated already.
    structures
        Labeled structures that trained nothing, with at least nine pairs of one composition.
    kinds
        Kind of each structure, or a key of ``atoms.info`` that holds it. Intervals then hold for
        each kind by itself (:func:`shared_part_of_kinds`): with a kind that training never had
        among them, for what is new as well. Without it, over all pairs.
    coverage
        Of the intervals of differences.
    seed
        Of the draw of pairs.

    Returns
    -------
    UncertainPotential
        The model; ``model.shared`` is the part, which :func:`save_uncertainty` keeps.
    """
    structures = list(structures)
    labels = labels_of(structures)
    if not labels or "energy" not in labels[0]:
        raise UncertaintyError("Differences of energies need structures with energies.")
    kind = kind_labels(structures, kinds)
    pairs = like_pairs(structures, seed, kind)
    used = [number for pair in pairs for number in pair]

    # Else the part found would be one of the part found before.
    model.shared = 1.0
    observed = energies(model, [structures[k] for k in used])
    if any(part.kind == "independent" for one in observed for part in one.parts):
        raise UncertaintyError(
            f"'{model.method}' gives no covariances of energies, so there is nothing to share."
        )
    first, second = observed[::2], observed[1::2]
    errors = [
        float(a - b) - (labels[i]["energy"] - labels[j]["energy"])
        for a, b, (i, j) in zip(first, second, pairs, strict=True)
    ]
    variances = [a.covariance(a) + b.covariance(b) for a, b in zip(first, second, strict=True)]
    covariances = [a.covariance(b) for a, b in zip(first, second, strict=True)]
    if kind is None:
        model.shared = shared_part(errors, variances, covariances, coverage)
    else:
        own = [kind[i] for i, _ in pairs]
        model.shared = shared_part_of_kinds(errors, variances, covariances, own, coverage)
    return model
