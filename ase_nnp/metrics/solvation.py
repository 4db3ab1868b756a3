"""OC25 (pseudo-)solvation energy: adsorption with solvent minus adsorption without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ase_nnp.errors import DatasetError, PredictionError

__all__ = ["SOLVATION_PARTS", "SolvationMetrics", "solvation_energy", "solvation_metrics"]

#: The four single points of one snapshot: the words used here, and the endings of the stored names.
SOLVATION_PARTS = {
    "full": "",
    "solvent_surface": "_solvent_surface",
    "adsorbate_surface": "_adsorbate_surface",
    "surface": "_surface",
}


def _parts(energies: Mapping[str, Any]) -> dict[str, float]:
    """Accept our words or stored names (``randsh0``, ``randsh0_surface``, ...)."""
    if set(SOLVATION_PARTS) <= set(energies):
        parts = {part: energies[part] for part in SOLVATION_PARTS}
    else:
        prefix = min(energies, key=len, default="")
        parts = {}
        for part, ending in SOLVATION_PARTS.items():
            if prefix + ending not in energies:
                raise DatasetError(
                    f"a solvation energy needs four energies; {prefix + ending!r} is not among "
                    f"{sorted(energies)}"
                )
            parts[part] = energies[prefix + ending]

    values = {part: float(value) for part, value in parts.items()}
    for part, value in values.items():
        if not np.isfinite(value):
            raise PredictionError(f"the energy of {part!r} is not finite")
    return values


def solvation_energy(energies: Mapping[str, Any]) -> dict[str, float]:
    """Return the solvation energy of one snapshot from four unrelaxed single points.

    ``[E(full) - E(solvent+surface)] - [E(adsorbate+surface) - E(surface)]``

    Parameters
    ----------
    energies
        eV, under ``full``, ``solvent_surface``, ``adsorbate_surface``, ``surface``, or under the
        names of the release (``randsh0``, ``randsh0_solvent_surface``, ...).

    Returns
    -------
    dict
        ``solvation_energy`` and its two brackets ``solvent_ads_energy``, ``clean_ads_energy``; eV.
    """
    e = _parts(energies)
    with_solvent = e["full"] - e["solvent_surface"]
    without = e["adsorbate_surface"] - e["surface"]
    return {
        "solvent_ads_energy": with_solvent,
        "clean_ads_energy": without,
        "solvation_energy": with_solvent - without,
    }


class SolvationMetrics:
    """Streaming mean absolute errors of solvation energies and their two brackets."""

    def __init__(self) -> None:
        self.n_cases = 0
        self._sums = dict.fromkeys(
            ("solvation_energy", "solvent_ads_energy", "clean_ads_energy"), 0.0
        )

    def update(self, pred: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Add one case: four predicted and four reference energies (:func:`solvation_energy`)."""
        ours, true = solvation_energy(pred), solvation_energy(target)
        self.n_cases += 1
        for key in self._sums:
            self._sums[key] += abs(ours[key] - true[key])

    def merge(self, other: SolvationMetrics) -> SolvationMetrics:
        """Add what another worker counted; returns self."""
        self.n_cases += other.n_cases
        for key in self._sums:
            self._sums[key] += other._sums[key]
        return self

    def compute(self) -> dict[str, float]:
        """Return the MAE (eV) of the solvation energy and of its brackets, by name."""
        n = self.n_cases
        out = {f"{key}_mae": (v / n if n else float("nan")) for key, v in self._sums.items()}
        return {**out, "n_cases": n}


def solvation_metrics(
    pred: Mapping[str, Mapping[str, Any] | float], target: Mapping[str, Mapping[str, Any] | float]
) -> dict[str, float]:
    """Return the mean absolute errors over cases, by identifier.

    Parameters
    ----------
    pred, target
        ``{identifier: four energies}``, or ``{identifier: solvation energy}``; eV. Every target
        needs a prediction.
    """
    missing = sorted(set(target) - set(pred))
    if missing:
        raise PredictionError(
            f"{len(missing)} cases have no prediction, the first is {missing[0]!r}"
        )

    metrics = SolvationMetrics()
    plain = []
    for name, true in target.items():
        ours = pred[name]
        if isinstance(ours, Mapping) and isinstance(true, Mapping):
            metrics.update(ours, true)
            continue
        values = [
            solvation_energy(x)["solvation_energy"] if isinstance(x, Mapping) else float(x)
            for x in (ours, true)
        ]
        if not np.isfinite(values).all():
            raise PredictionError(f"the solvation energy of {name!r} is not finite")
        plain.append(abs(values[0] - values[1]))

    if not plain:
        return metrics.compute()
    total = metrics._sums["solvation_energy"] + float(np.sum(plain))
    n = metrics.n_cases + len(plain)
    return {"solvation_energy_mae": total / n, "n_cases": n}
