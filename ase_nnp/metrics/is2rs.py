"""Initial structure to relaxed structure (IS2RS): distances and forces below thresholds.

Definitions follow OC20 (Chanussot et al. 2021, doi:10.1021/acscatal.0c04525), section on IS2RS.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import DatasetError, PredictionError
from ase_nnp.metrics._checks import counts, free_mask, numbers, pair, ratio

if TYPE_CHECKING:
    from ase_nnp.metrics._checks import Floats

__all__ = [
    "ADWT_THRESHOLDS",
    "AFBT_THRESHOLDS",
    "DWT_THRESHOLD",
    "FBT_THRESHOLD",
    "IS2RSMetrics",
    "adwt",
    "afbt",
    "dwt",
    "fbt",
    "is2rs_metrics",
    "largest_free_force",
    "mean_displacement",
    "min_image",
]

ADWT_THRESHOLDS = np.arange(0.01, 0.5, 0.001)
"""Angstrom, 490 values."""
AFBT_THRESHOLDS = np.arange(0.01, 0.4, 0.001)
"""eV/Angstrom."""
DWT_THRESHOLD = 0.3
FBT_THRESHOLD = 0.05


def min_image(difference: Any, cell: Any, pbc: Any = True) -> Floats:
    """Wrap displacements into the cell, each fractional component on its own.

    This is the rule behind the published numbers. In strongly skewed cells it is not the
    shortest image; use ``ase.geometry.find_mic`` for that.

    Parameters
    ----------
    difference
        (N, 3) Angstrom.
    cell
        (3, 3) Angstrom, rows are lattice vectors.
    pbc
        One or three bools. On an axis that is not periodic only the last step of the rule is
        taken (components above half a cell lose one); without any periodic axis nothing is.
    """
    vectors = numbers("difference", difference, (-1, 3), PredictionError)
    lattice = numbers("cell", cell, (3, 3), DatasetError)
    periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,))
    if not periodic.any():
        return vectors

    try:
        fractional = np.linalg.solve(lattice.T, vectors.T).T
    except np.linalg.LinAlgError:
        raise DatasetError(
            "the cell has no volume, so it has no periodic images; complete it or set pbc=False"
        ) from None

    # Twice: a value of -1e-17 is 1.0 after the first pass.
    for _ in range(2):
        fractional[:, periodic] %= 1.0

    fractional[fractional > 0.5] -= 1.0
    return np.asarray(fractional @ lattice)


def mean_displacement(
    positions_pred: Any, positions_target: Any, cell: Any, pbc: Any = True, fixed: Any = None
) -> float:
    """Mean over atoms of the minimum-image distance between two relaxed structures (Angstrom).

    ``positions_*`` are (N, 3), ``cell`` (3, 3); with ``fixed`` (N,) only free atoms count, as on
    the leaderboard.
    """
    pred, true = pair("positions", positions_pred, positions_target, (-1, 3))
    free = free_mask(fixed, len(true))
    if not free.any():
        raise DatasetError("a system without a free atom has no mean displacement")
    return float(np.linalg.norm(min_image(pred - true, cell, pbc)[free], axis=1).mean())


def largest_free_force(forces: Any, fixed: Any = None) -> float:
    """Largest norm of the forces (N, 3) eV/Angstrom over the free atoms; 0 if there is none."""
    array = numbers("forces", forces, (-1, 3), PredictionError)
    free = array[free_mask(fixed, len(array))]
    return float(np.linalg.norm(free, axis=1).max(initial=0.0))


def _counts_below(values: Floats, thresholds: Floats) -> int:
    """Return how many pairs (value, threshold) have value < threshold."""
    # np.searchsorted(right): thresholds <= value do not pass, the rest do.
    order = np.sort(thresholds)
    return int((len(order) - np.searchsorted(order, values, side="right")).sum())


class IS2RSMetrics:
    """Streaming ADwT and DwT, and FbT and AFbT where forces at the predicted structure are given.

    FbT asks for reference forces (DFT, or a stand-in calculator) at the *predicted* relaxed
    structure.
    """

    def __init__(self) -> None:
        self.n_systems = 0
        self.n_force_systems = 0
        self._distance = 0.0
        self._adwt = 0
        self._dwt = 0
        self._fbt = 0
        self._afbt = 0

    def update(
        self,
        positions_pred: Any,
        positions_target: Any,
        cell: Any,
        pbc: Any = True,
        fixed: Any = None,
        forces: Any = None,
    ) -> float:
        """Add one system and return its mean displacement (Angstrom).

        Parameters
        ----------
        positions_pred, positions_target, cell, pbc, fixed
            As in :func:`mean_displacement`.
        forces
            (N, 3) eV/Angstrom, reference forces at ``positions_pred``; None leaves FbT alone.
        """
        distance = mean_displacement(positions_pred, positions_target, cell, pbc, fixed)
        largest = None if forces is None else largest_free_force(forces, fixed)
        self.n_systems += 1
        self._distance += distance
        self._adwt += _counts_below(np.array([distance]), ADWT_THRESHOLDS)
        self._dwt += distance < DWT_THRESHOLD
        if largest is not None:
            self.n_force_systems += 1
            self._fbt += largest < FBT_THRESHOLD
            self._afbt += _counts_below(np.array([largest]), AFBT_THRESHOLDS)
        return distance

    def merge(self, other: IS2RSMetrics) -> IS2RSMetrics:
        """Add what another worker counted; returns self."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def compute(self) -> dict[str, float]:
        """Return ``adwt``, ``dwt``, ``mean_distance`` (Angstrom), ``fbt``, ``afbt``."""
        return {
            "adwt": ratio(self._adwt, len(ADWT_THRESHOLDS) * self.n_systems),
            "dwt": ratio(self._dwt, self.n_systems),
            "mean_distance": ratio(self._distance, self.n_systems),
            "fbt": ratio(self._fbt, self.n_force_systems),
            "afbt": ratio(self._afbt, len(AFBT_THRESHOLDS) * self.n_force_systems),
            "n_systems": self.n_systems,
        }


def is2rs_metrics(systems: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the IS2RS metrics of many systems.

    Parameters
    ----------
    systems
        One dictionary each with ``pos_pred``, ``pos_target`` (N, 3), ``cell`` (3, 3) and,
        if wanted, ``pbc``, ``fixed`` (N,) and ``forces`` (N, 3); Angstrom and eV/Angstrom.
        Give ``fixed`` for the leaderboard's rule (free atoms only).
    """
    metrics = IS2RSMetrics()
    for system in systems:
        metrics.update(
            system["pos_pred"],
            system["pos_target"],
            system["cell"],
            system.get("pbc", True),
            system.get("fixed"),
            system.get("forces"),
        )
    return metrics.compute()


def adwt(distances: Any, n_natoms: Any = None) -> float:
    """Average share of systems within a threshold of 0.01 ... 0.499 Angstrom (490 thresholds).

    Parameters
    ----------
    distances
        (S,) mean displacements in Angstrom; or, with ``n_natoms`` (S,), the displacements of all
        atoms one system after the other.
    n_natoms
        Number of atoms of each structure.
    """
    values = numbers("distances", distances, (-1,), PredictionError)
    if n_natoms is not None:
        sizes = counts(n_natoms, len(values))
        ends = np.cumsum(sizes)
        values = np.array([values[e - n : e].mean() for e, n in zip(ends, sizes, strict=True)])
    return ratio(_counts_below(values, ADWT_THRESHOLDS), len(ADWT_THRESHOLDS) * len(values))


def dwt(distances: Any, threshold: float = DWT_THRESHOLD) -> float:
    """Share of systems whose mean displacement (S,) is below ``threshold`` (Angstrom)."""
    values = numbers("distances", distances, (-1,), PredictionError)
    return ratio(float((values < threshold).sum()), len(values))


def fbt(largest_forces: Any, threshold: float = FBT_THRESHOLD) -> float:
    """Share of systems whose largest free force (S,) eV/Angstrom is below ``threshold``."""
    values = numbers("largest_forces", largest_forces, (-1,), PredictionError)
    return ratio(float((values < threshold).sum()), len(values))


def afbt(largest_forces: Any) -> float:
    """FbT averaged over the thresholds 0.01 ... 0.399 eV/Angstrom."""
    values = numbers("largest_forces", largest_forces, (-1,), PredictionError)
    return ratio(_counts_below(values, AFBT_THRESHOLDS), len(AFBT_THRESHOLDS) * len(values))
