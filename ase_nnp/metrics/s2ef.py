"""Structure to energy and forces (S2EF): errors as pooled sums and counts.

Definitions follow the evaluator of OC20 (Chanussot et al. 2021, doi:10.1021/acscatal.0c04525).
Forces are compared on free atoms only when ``fixed`` is given; energies always per system.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.metrics._checks import counts, free_mask, pair, ratio

if TYPE_CHECKING:
    from ase_nnp.metrics._checks import Floats

__all__ = [
    "ENERGY_THRESHOLD",
    "FORCE_THRESHOLD",
    "S2EFMetrics",
    "efwt",
    "energy_mae",
    "energy_mae_per_atom",
    "energy_mse",
    "energy_rmse",
    "energy_within_threshold",
    "force_cosine",
    "forces_mae",
    "forces_magnitude_error",
    "forces_rmse",
    "s2ef_metrics",
]

ENERGY_THRESHOLD = 0.02
"""eV, for EwT and EFwT."""
FORCE_THRESHOLD = 0.03
"""eV/Angstrom, on force components, for EFwT."""
_COSINE_EPS = 1e-8


def _cosines(pred: Floats, target: Floats) -> Floats:
    norms = np.linalg.norm(pred, axis=1) * np.linalg.norm(target, axis=1)
    return np.asarray((pred * target).sum(axis=1) / np.maximum(norms, _COSINE_EPS))


def _published_cosine_sum(pred: Floats, target: Floats) -> float:
    """Sum of cosines in float32, vectors normalized first: the arithmetic of published values."""
    if not len(pred):
        return 0.0
    unit = []
    for forces in (pred, target):
        single = forces.astype(np.float32)
        norm = np.linalg.norm(single, axis=1, keepdims=True)
        unit.append(single / np.maximum(norm, np.float32(_COSINE_EPS)))
    return float((unit[0] * unit[1]).sum(axis=1).mean()) * len(pred)


@dataclass
class S2EFMetrics:
    """Streaming S2EF metrics: ``update`` by batch, ``merge`` workers, ``compute`` at the end.

    Only sums and counts are kept, so any split into batches gives the numbers of one big batch.

    Examples
    --------
    >>> metrics = S2EFMetrics()
    >>> metrics.update([1.0], [1.01], [[0.0, 0.0, 1.0]], [[0.0, 0.0, 1.02]], [1])
    >>> round(metrics.compute()["energy_mae"], 6), metrics.compute()["efwt"]
    (0.01, 1.0)
    """

    energy_threshold: float = ENERGY_THRESHOLD
    force_threshold: float = FORCE_THRESHOLD
    n_systems: int = field(default=0, init=False)
    n_atoms: int = field(default=0, init=False)
    n_forces: int = field(default=0, init=False)
    _energy_abs: float = field(default=0.0, init=False)
    _energy_abs_per_atom: float = field(default=0.0, init=False)
    _energy_square: float = field(default=0.0, init=False)
    _energy_within: int = field(default=0, init=False)
    _both_within: int = field(default=0, init=False)
    _force_abs: float = field(default=0.0, init=False)
    _force_square: float = field(default=0.0, init=False)
    _force_norm_error: float = field(default=0.0, init=False)
    _force_l2: float = field(default=0.0, init=False)
    _cosine: float = field(default=0.0, init=False)
    _cosine_single: float = field(default=0.0, init=False)

    def update(
        self,
        energy_pred: Any,
        energy_target: Any,
        forces_pred: Any,
        forces_target: Any,
        natoms: Any,
        fixed: Any = None,
    ) -> None:
        """Add a batch of S systems with N atoms in all.

        Parameters
        ----------
        energy_pred, energy_target
            (S,) eV, both of one kind (total or adsorption).
        forces_pred, forces_target
            (N, 3) eV/Angstrom, the systems one after the other.
        natoms
            (S,) integers, atoms of each system, fixed ones included.
        fixed
            (N,) 0/1; atoms with 1 are left out of every force metric. None: no atom is fixed.

        Raises
        ------
        PredictionError
            A prediction is not finite or has the wrong shape.
        DatasetError
            A target is not finite, or counts do not fit.
        """
        f_pred, f_true = pair("forces", forces_pred, forces_target, (-1, 3))
        sizes = counts(natoms, len(f_true))
        e_pred, e_true = pair("energy", energy_pred, energy_target, (len(sizes),))
        free = free_mask(fixed, len(f_true))

        e_error = np.abs(e_pred - e_true)
        component_error = np.abs(f_pred - f_true)
        worst = np.where(free, component_error.max(axis=1, initial=0.0), 0.0)
        system = np.repeat(np.arange(len(sizes)), sizes)
        worst_of = np.zeros(len(sizes))
        np.maximum.at(worst_of, system, worst)
        e_within = e_error < self.energy_threshold

        self.n_systems += len(sizes)
        self.n_atoms += len(f_true)
        self._energy_abs += float(e_error.sum())
        self._energy_abs_per_atom += float((e_error / np.maximum(sizes, 1)).sum())
        self._energy_square += float((e_error**2).sum())
        self._energy_within += int(e_within.sum())
        self._both_within += int((e_within & (worst_of < self.force_threshold)).sum())

        f_pred, f_true, component_error = f_pred[free], f_true[free], component_error[free]
        norm_error = np.linalg.norm(f_pred, axis=1) - np.linalg.norm(f_true, axis=1)
        self.n_forces += len(f_true)
        self._force_abs += float(component_error.sum())
        self._force_square += float((component_error**2).sum())
        self._force_norm_error += float(np.abs(norm_error).sum())
        self._force_l2 += float(np.linalg.norm(f_pred - f_true, axis=1).sum())
        self._cosine += float(_cosines(f_pred, f_true).sum())
        self._cosine_single += _published_cosine_sum(f_pred, f_true)

    def merge(self, other: S2EFMetrics) -> S2EFMetrics:
        """Add what another worker counted; returns self."""
        if (self.energy_threshold, self.force_threshold) != (
            other.energy_threshold,
            other.force_threshold,
        ):
            raise ValueError("metrics with different thresholds cannot be merged")
        for item in fields(self):
            if not item.init:
                setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))
        return self

    def compute(self) -> dict[str, float]:
        """Return all metrics; NaN where nothing was counted.

        ``energy_*`` are per system; ``forces_mae``, ``forces_mse`` over components of free
        atoms; ``forces_cos``, ``forces_magnitude_error``, ``forces_l2mae`` over free atoms;
        ``efwt`` and ``energy_within_threshold`` are shares of systems (strict ``<``).
        ``forces_cos`` is in single precision, in which the published values were computed, and so
        moves by up to 1e-7 with the split into batches; ``forces_cos_float64`` is exact.
        """
        systems, atoms = self.n_systems, self.n_forces
        energy_mse = ratio(self._energy_square, systems)
        forces_mse = ratio(self._force_square, 3 * atoms)

        return {
            "energy_mae": ratio(self._energy_abs, systems),
            "energy_mae_per_atom": ratio(self._energy_abs_per_atom, systems),
            "energy_mse": energy_mse,
            "energy_rmse": float(np.sqrt(energy_mse)),
            "energy_within_threshold": ratio(self._energy_within, systems),
            "efwt": ratio(self._both_within, systems),
            "forces_mae": ratio(self._force_abs, 3 * atoms),
            "forces_mse": forces_mse,
            "forces_rmse": float(np.sqrt(forces_mse)),
            "forces_cos": ratio(self._cosine_single, atoms),
            "forces_cos_float64": ratio(self._cosine, atoms),
            "forces_magnitude_error": ratio(self._force_norm_error, atoms),
            "forces_l2mae": ratio(self._force_l2, atoms),
            "n_systems": self.n_systems,
            "n_atoms": self.n_atoms,
            "n_free_atoms": self.n_forces,
        }


def s2ef_metrics(
    energy_pred: Any,
    energy_target: Any,
    forces_pred: Any,
    forces_target: Any,
    natoms: Any,
    fixed: Any = None,
    *,
    energy_threshold: float = ENERGY_THRESHOLD,
    force_threshold: float = FORCE_THRESHOLD,
) -> dict[str, float]:
    """Return all S2EF metrics of one set of arrays; :class:`S2EFMetrics` says shapes and units."""
    metrics = S2EFMetrics(energy_threshold, force_threshold)
    metrics.update(energy_pred, energy_target, forces_pred, forces_target, natoms, fixed)
    return metrics.compute()


def energy_mae(energy_pred: Any, energy_target: Any) -> float:
    """Mean over systems of ``|E_pred - E|``; (S,) eV in, eV out."""
    pred, true = pair("energy", energy_pred, energy_target, (-1,))
    return ratio(float(np.abs(pred - true).sum()), len(true))


def energy_mae_per_atom(energy_pred: Any, energy_target: Any, natoms: Any) -> float:
    """Mean over systems of ``|E_pred - E| / natoms``; eV per atom."""
    pred, true = pair("energy", energy_pred, energy_target, (-1,))
    sizes = counts(natoms)
    if len(sizes) != len(true):
        raise ValueError(f"{len(sizes)} atom counts for {len(true)} energies")
    return ratio(float((np.abs(pred - true) / sizes).sum()), len(true))


def energy_mse(energy_pred: Any, energy_target: Any) -> float:
    """Mean over systems of ``(E_pred - E)^2``; eV^2."""
    pred, true = pair("energy", energy_pred, energy_target, (-1,))
    return ratio(float(((pred - true) ** 2).sum()), len(true))


def energy_rmse(energy_pred: Any, energy_target: Any) -> float:
    """Root of :func:`energy_mse`; eV."""
    return float(np.sqrt(energy_mse(energy_pred, energy_target)))


def energy_within_threshold(
    energy_pred: Any, energy_target: Any, threshold: float = ENERGY_THRESHOLD
) -> float:
    """EwT: share of systems with ``|E_pred - E| < threshold`` (eV, strict)."""
    pred, true = pair("energy", energy_pred, energy_target, (-1,))
    return ratio(float((np.abs(pred - true) < threshold).sum()), len(true))


def _free_pair(forces_pred: Any, forces_target: Any, fixed: Any) -> tuple[Floats, Floats]:
    pred, true = pair("forces", forces_pred, forces_target, (-1, 3))
    free = free_mask(fixed, len(true))
    return pred[free], true[free]


def forces_mae(forces_pred: Any, forces_target: Any, fixed: Any = None) -> float:
    """Mean absolute error over all components of all free atoms; (N, 3) eV/Angstrom."""
    pred, true = _free_pair(forces_pred, forces_target, fixed)
    return ratio(float(np.abs(pred - true).sum()), true.size)


def forces_rmse(forces_pred: Any, forces_target: Any, fixed: Any = None) -> float:
    """Root of the mean square error over all components of all free atoms; eV/Angstrom."""
    pred, true = _free_pair(forces_pred, forces_target, fixed)
    return float(np.sqrt(ratio(float(((pred - true) ** 2).sum()), true.size)))


def force_cosine(forces_pred: Any, forces_target: Any, fixed: Any = None) -> float:
    """Mean cosine between forces of free atoms; an atom without a force counts as 0."""
    pred, true = _free_pair(forces_pred, forces_target, fixed)
    return ratio(float(_cosines(pred, true).sum()), len(true))


def forces_magnitude_error(forces_pred: Any, forces_target: Any, fixed: Any = None) -> float:
    """Mean over free atoms of ``| |F_pred| - |F| |``; eV/Angstrom."""
    pred, true = _free_pair(forces_pred, forces_target, fixed)
    error = np.linalg.norm(pred, axis=1) - np.linalg.norm(true, axis=1)
    return ratio(float(np.abs(error).sum()), len(true))


def efwt(
    energy_pred: Any,
    energy_target: Any,
    forces_pred: Any,
    forces_target: Any,
    natoms: Any,
    fixed: Any = None,
    *,
    energy_threshold: float = ENERGY_THRESHOLD,
    force_threshold: float = FORCE_THRESHOLD,
) -> float:
    """EFwT: share of systems whose energy and largest force-component error are both small."""
    return s2ef_metrics(
        energy_pred,
        energy_target,
        forces_pred,
        forces_target,
        natoms,
        fixed,
        energy_threshold=energy_threshold,
        force_threshold=force_threshold,
    )["efwt"]
