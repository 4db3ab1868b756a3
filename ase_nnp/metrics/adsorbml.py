"""AdsorbML on OC20-Dense: is the best adsorption site found, and how much DFT is saved?

Lan et al. (2023), doi:10.1038/s41524-023-01121-5. A *system* is an adsorbate on a surface, a
*config* one placement of it. Energies are adsorption energies in eV.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ase_nnp.errors import DatasetError, PredictionError

__all__ = ["FAILED_ENERGY", "SUCCESS_THRESHOLD", "adsorbml_metrics", "total_compute"]

#: eV; one-sided for success, two-sided for the check of ML energies.
SUCCESS_THRESHOLD = 0.1
#: eV; what a missing or failed calculation counts as.
FAILED_ENERGY = 1e10


@dataclass(frozen=True)
class _Config:
    ml_energy: float
    dft_energy: float
    scf_steps: float = 0.0
    ionic_steps: float = 0.0


_MISSING = _Config(FAILED_ENERGY, FAILED_ENERGY)


def total_compute(
    dft_compute: Mapping[str, Mapping[str, Mapping[str, float]]], systems: Iterable[str]
) -> tuple[float, float]:
    """Return the SCF and ionic steps of all DFT relaxations of ``systems``, no clean surfaces."""
    scf = ionic = 0.0
    for system in systems:
        for config, steps in dft_compute.get(system, {}).items():
            if config != "surface":
                scf += steps["scf"]
                ionic += steps["ionic"]
    return scf, ionic


def _read(system: str, name: str, entry: Mapping[str, Any]) -> _Config:
    try:
        ml, dft = entry["ml_energy"], entry["ml+dft_energy"]
    except KeyError as error:
        raise PredictionError(f"system {system!r}, config {name!r} has no {error}") from None

    # None and exactly 0.0 both mean "failed" to the published script.
    config = _Config(
        float(ml),
        float(dft) if dft else FAILED_ENERGY,
        float(entry.get("scf_steps") or 0),
        float(entry.get("ionic_steps") or 0),
    )

    if not np.isfinite([config.ml_energy, config.dft_energy]).all():
        raise PredictionError(
            f"system {system!r}, config {name!r} has an energy that is not finite"
        )

    return config


def _ranked(
    system: str, wanted: Iterable[str], results: Mapping[str, Mapping[str, Any]]
) -> list[_Config]:
    """All configs of a system by ML energy: first what was computed, then the missing ones."""
    configs = [_read(system, name, entry) for name, entry in results.items()]
    configs += [_MISSING] * len(set(wanted) - set(results))
    return sorted(configs, key=lambda config: config.ml_energy)  # stable: fill-ins stay last


def adsorbml_metrics(
    dft_targets: Mapping[str, Sequence[Sequence[Any]]],
    ml_results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    dft_compute: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    *,
    ks: Iterable[int] = (1, 2, 3, 4, 5),
    threshold: float = SUCCESS_THRESHOLD,
) -> dict[str, Any]:
    """Score the configs that a model relaxed against dense DFT sampling.

    Parameters
    ----------
    dft_targets
        ``{system: [(config, adsorption energy), ...]}``; the lowest energy is the goal.
    ml_results
        ``{system: {config: {"ml_energy", "ml+dft_energy", "scf_steps", "ionic_steps"}}}``.
        ``ml+dft_energy`` is a DFT single point or relaxation on the ML-relaxed structure, None
        if it failed. Leave out anomalous configs (:func:`ase_nnp.metrics.detect_anomalies`).
        Absent systems and configs count as failed.
    dft_compute
        ``{system: {config: {"scf", "ionic"}}}``, steps of the DFT relaxations; the key
        ``"surface"`` is left out. Without it there is no speed-up.
    ks
        How many of the lowest ML configs are passed on to DFT.
    threshold
        eV.

    Returns
    -------
    dict
        ``topk[k]`` with ``success_rate``, ``much_better`` (shares of all target systems), ``scf``,
        ``ionic`` (steps spent) and ``speedup_scf``, ``speedup_ionic``;
        ``validated_ml_success``; ``total_scf``, ``total_ionic``. NaN for a speed-up of no steps.
    """
    if not dft_targets:
        raise DatasetError("there is no target system to score")
    best, ranked = {}, {}
    for system, targets in dft_targets.items():
        energies = [float(energy) for _, energy in targets]
        if not energies or not np.isfinite(energies).all():
            raise DatasetError(f"the targets of system {system!r} are empty or not finite")
        best[system] = min(energies)
        names = [str(name) for name, _ in targets]
        ranked[system] = _ranked(system, names, ml_results.get(system, {}))

    total_scf, total_ionic = total_compute(dft_compute or {}, dft_targets)
    topk: dict[int, dict[str, float]] = {}
    for k in ks:
        if k < 1:
            raise ValueError(f"k is {k}; at least one config must be taken")
        gaps, scf, ionic = [], 0.0, 0.0
        for system, configs in ranked.items():
            taken = configs[:k]
            gaps.append(min(config.dft_energy for config in taken) - best[system])
            scf += sum(config.scf_steps for config in taken)
            ionic += sum(config.ionic_steps for config in taken)
        gap = np.array(gaps)
        topk[k] = {
            "success_rate": float((gap <= threshold).mean()),
            "much_better": float((gap < -threshold).mean()),
            "scf": scf,
            "ionic": ionic,
            "speedup_scf": total_scf / scf if scf and total_scf else float("nan"),
            "speedup_ionic": total_ionic / ionic if ionic and total_ionic else float("nan"),
        }
    validated = [
        abs(configs[0].dft_energy - configs[0].ml_energy) <= threshold
        and configs[0].ml_energy - best[system] <= threshold
        for system, configs in ranked.items()
    ]
    return {
        "topk": topk,
        "validated_ml_success": float(np.mean(validated)),
        "total_scf": total_scf,
        "total_ionic": total_ionic,
    }
