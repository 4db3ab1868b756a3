"""A calibration as plain numbers: how raw spreads become stds and intervals (numpy only)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_predictions
from ase_nnp.uncertainty.statistics.conformal import (
    conformal_quantile,
    mondrian_quantiles,
    normalized_scores,
    structure_scores,
)
from ase_nnp.uncertainty.statistics.scaling import (
    AffineVariance,
    IsotonicStd,
    fit_affine_variance,
    fit_isotonic,
    scale_abs,
    scale_crps,
    scale_nll,
    scale_small_committee,
)

__all__ = [
    "CALIBRATORS",
    "Calibration",
    "PropertyCalibration",
    "check_factors",
    "fit_calibration",
]

CALIBRATORS = ("nll", "abs", "crps", "corrected", "affine", "isotonic")
#: That of spreads in their own units is some tens, that of rounding 1e5.
LARGEST_FACTOR = 1e4


@dataclass(frozen=True)
class PropertyCalibration:
    """Calibration of one property.

    Attributes
    ----------
    kind, numbers
        ``"scale"`` (a), ``"affine"`` (a, b) or ``"isotonic"`` (knots, then values).
    quantile, group_quantiles
        Conformal half-width in units of the calibrated std, for all and by atomic number.
    n
        Calibration values.
    """

    kind: str
    numbers: tuple[float, ...]
    quantile: float = math.inf
    group_quantiles: Mapping[int, float] = field(default_factory=dict)
    n: int = 0

    def std(self, raw: ArrayLike) -> Array:
        """Calibrated std of a raw spread."""
        values = np.asarray(raw, dtype=np.float64)
        if self.kind == "scale":
            return np.asarray(self.numbers[0] * values)
        if self.kind == "affine":
            return AffineVariance(self.numbers[0], self.numbers[1])(values)
        half = len(self.numbers) // 2
        return IsotonicStd(np.array(self.numbers[:half]), np.array(self.numbers[half:]))(values)

    def half_width(self, std: ArrayLike, numbers: ArrayLike | None = None) -> Array:
        """Half the conformal interval, for calibrated stds (n, ...) of atoms of ``numbers``."""
        values = np.asarray(std, dtype=np.float64)
        if numbers is None or not self.group_quantiles:
            return np.asarray(self.quantile * values)
        table = [self.group_quantiles.get(int(z), self.quantile) for z in np.asarray(numbers)]
        return np.asarray(np.reshape(table, (-1, *[1] * (values.ndim - 1))) * values)


@dataclass(frozen=True)
class Calibration:
    """Calibrations by property (``energy``, ``forces``, ...), and what they rest on."""

    properties: Mapping[str, PropertyCalibration] = field(default_factory=dict)
    coverage: float = 0.9
    calibrator: str = "nll"
    unit: str = "value"
    structures: int = 0
    data_hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinite quantiles become the string ``"inf"``."""
        table = {}
        for name, p in self.properties.items():
            groups = {str(z): _out(q) for z, q in p.group_quantiles.items()}
            table[name] = {
                "kind": p.kind,
                "numbers": list(p.numbers),
                "quantile": _out(p.quantile),
                "group_quantiles": groups,
                "n": p.n,
            }
        rest = ("coverage", "calibrator", "unit", "structures", "data_hash")
        return {"properties": table, **{k: getattr(self, k) for k in rest}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_json` wrote."""
        table = {
            name: PropertyCalibration(
                p["kind"],
                tuple(p["numbers"]),
                float(p["quantile"]),
                {int(z): float(q) for z, q in p["group_quantiles"].items()},
                p["n"],
            )
            for name, p in data["properties"].items()
        }
        return cls(table, **{k: v for k, v in data.items() if k != "properties"})


def _out(number: float) -> float | str:
    return number if math.isfinite(number) else "inf"


def fit_property(
    true: ArrayLike,
    pred: ArrayLike,
    std: ArrayLike,
    calibrator: str,
    alpha: float,
    *,
    numbers: ArrayLike | None = None,
    structure: ArrayLike | None = None,
    n_members: int = 0,
    components: int = 1,
) -> PropertyCalibration:
    """Fit scale and conformal quantiles of one property; see :func:`fit_calibration`."""
    xyz = as_predictions(true, pred, std)
    if calibrator == "affine":
        affine = fit_affine_variance(*xyz)
        base = PropertyCalibration("affine", (affine.a, affine.b))
    elif calibrator == "isotonic":
        iso = fit_isotonic(*xyz)
        base = PropertyCalibration("isotonic", (*iso.knots.tolist(), *iso.values.tolist()))
    elif calibrator == "corrected":
        factor = scale_small_committee(*xyz, n_members, components)
        base = PropertyCalibration("scale", (factor,))
    elif calibrator in ("nll", "abs", "crps"):
        scale = {"nll": scale_nll, "abs": scale_abs, "crps": scale_crps}[calibrator](*xyz)
        base = PropertyCalibration("scale", (scale,))
    else:
        raise UncertaintyError(
            f"No calibrator '{calibrator}'. There are: {', '.join(CALIBRATORS)}."
        )

    # Of calibrated stds, so that a quantile near 1.64 says at a glance that errors are Gaussian.
    scores = normalized_scores(true, pred, base.std(std))
    groups: dict[int, float] = {}
    # A guarantee for structures is one for their worst component, whatever its element.
    if structure is not None:
        scores = structure_scores(scores, structure, "max")
    elif numbers is not None:
        z = np.broadcast_to(np.asarray(numbers)[:, None], scores.shape)
        groups = mondrian_quantiles(scores, z, alpha)

    quantile = conformal_quantile(scores, alpha)
    return PropertyCalibration(base.kind, base.numbers, quantile, groups, scores.size)


def fit_calibration(
    labels: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    numbers: Sequence[ArrayLike],
    *,
    calibrator: str = "nll",
    coverage: float = 0.9,
    unit: str = "value",
    n_members: int = 0,
    components: int = 3,
    data_hash: str = "",
) -> Calibration:
    """Fit the calibration of all properties that labels and predictions share.

    Parameters
    ----------
    labels, predictions
        One dictionary per structure: ``energy``, ``forces`` and the raw ``*_std`` beside them.
    numbers
        Atomic numbers of each structure.
    calibrator
        ``"nll"``, ``"abs"``, ``"crps"``, ``"corrected"`` (for small committees), ``"affine"`` or
        ``"isotonic"``.
    coverage
        Of the conformal intervals.
    unit
        What conformal intervals of per-atom properties hold for: ``"value"``, each component of
        an atom of each element, without guarantee as components of one structure depend on each
        other; or ``"structure"``, all atoms of a structure at once, guaranteed by split conformal
        prediction with the calibrators of one factor, which cancels in the scores. The maps
        ``"affine"`` and ``"isotonic"`` are fitted to the same structures: nearly so.
    n_members, components
        For ``"corrected"``: members, and components that the force std pools.
    data_hash
        Digest of the structures, kept with the result.
    """
    if not labels or len(labels) != len(predictions):
        raise UncertaintyError("Calibration needs one label and one prediction per structure.")
    if unit not in ("value", "structure"):
        raise UncertaintyError(f"unit must be 'value' or 'structure', not {unit!r}.")

    fits = {}
    shared = [k for k in labels[0] if f"{k}_std" in predictions[0] and k in predictions[0]]
    for name in shared:
        true = [np.asarray(row[name]) for row in labels]
        pred = [np.asarray(row[name]) for row in predictions]
        std = [np.asarray(row[f"{name}_std"]) for row in predictions]

        # Only forces have rows of atoms, so elements to tell apart and structures to group by.
        if name == "forces":
            sizes = [np.size(z) for z in numbers]
            fits[name] = fit_property(
                np.concatenate(true),
                np.concatenate(pred),
                np.concatenate(std),
                calibrator,
                1 - coverage,
                numbers=np.concatenate([np.asarray(z) for z in numbers]),
                structure=np.repeat(np.arange(len(sizes)), sizes) if unit == "structure" else None,
                n_members=n_members,
                components=components,
            )
        elif true[0].ndim == 0:
            fits[name] = fit_property(
                np.array(true), np.array(pred), np.array(std), calibrator, 1 - coverage,
                n_members=n_members,
            )  # fmt: skip
    if not fits:
        raise UncertaintyError("Labels and predictions share no property with a spread.")
    return Calibration(fits, coverage, calibrator, unit, len(labels), data_hash)


def check_factors(fitted: Calibration, method: str) -> None:
    """Refuse a spread that is rounding: a factor makes bars of any size of it, at random."""
    for name, part in fitted.properties.items():
        if part.kind == "scale" and part.numbers[0] > LARGEST_FACTOR:
            raise UncertaintyError(
                f"Errors of the {name} are {part.numbers[0]:.2g} times the spread that '{method}' "
                "gives: it is rounding, or members that agree, and says nothing about errors. Use "
                "'auto', or members that were trained apart."
            )
