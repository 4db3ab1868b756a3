"""Initial structure to relaxed energy (IS2RE): energy errors per system, pooled over batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ase_nnp.metrics._checks import pair, ratio
from ase_nnp.metrics.s2ef import ENERGY_THRESHOLD

__all__ = ["OC20_SPLITS", "IS2REMetrics", "is2re_metrics", "mean_over_splits"]

#: The four validation or test splits of OC20, in the order of the published tables.
OC20_SPLITS = ("id", "ood_ads", "ood_cat", "ood_both")


@dataclass
class IS2REMetrics:
    """Streaming IS2RE metrics of predicted against stored relaxed energies (eV)."""

    threshold: float = ENERGY_THRESHOLD
    n_systems: int = field(default=0, init=False)
    _abs: float = field(default=0.0, init=False)
    _square: float = field(default=0.0, init=False)
    _within: int = field(default=0, init=False)

    def update(self, energy_pred: Any, energy_target: Any) -> None:
        """Add a batch: (S,) eV each; the target is ``y_relaxed``."""
        pred, true = pair("energy", energy_pred, energy_target, (-1,))
        error = np.abs(pred - true)
        self.n_systems += len(error)
        self._abs += float(error.sum())
        self._square += float((error**2).sum())
        self._within += int((error < self.threshold).sum())

    def merge(self, other: IS2REMetrics) -> IS2REMetrics:
        """Add what another worker counted; returns self."""
        if self.threshold != other.threshold:
            raise ValueError("metrics with different thresholds cannot be merged")
        self.n_systems += other.n_systems
        self._abs += other._abs
        self._square += other._square
        self._within += other._within
        return self

    def compute(self) -> dict[str, float]:
        """Return the errors by name: ``energy_mae``, ``energy_rmse`` (eV), ``energy_mse`` ..."""
        mse = ratio(self._square, self.n_systems)
        return {
            "energy_mae": ratio(self._abs, self.n_systems),
            "energy_mse": mse,
            "energy_rmse": float(np.sqrt(mse)),
            "energy_within_threshold": ratio(self._within, self.n_systems),
            "n_systems": self.n_systems,
        }


def is2re_metrics(
    energy_pred: Any, energy_target: Any, *, threshold: float = ENERGY_THRESHOLD
) -> dict[str, float]:
    """Return the IS2RE metrics of predicted against stored relaxed energies, (S,) eV each."""
    metrics = IS2REMetrics(threshold)
    metrics.update(energy_pred, energy_target)
    return metrics.compute()


def mean_over_splits(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the plain mean of each metric over splits, as the OC20 tables report it.

    Parameters
    ----------
    results
        Metrics by split, e.g. ``{"id": {...}, "ood_ads": {...}, ...}``. Counts (``n_*``) add up.
    """
    if not results:
        raise ValueError("no split to average over")
    keys = list(next(iter(results.values())))
    for name, values in results.items():
        if set(values) != set(keys):
            raise ValueError(f"split {name!r} has other metrics than the rest")
    out = {}
    for key in keys:
        column = [values[key] for values in results.values()]
        out[key] = float(np.sum(column)) if key.startswith("n_") else float(np.mean(column))
    return out
