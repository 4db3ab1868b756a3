"""Scores as the benchmarks define them: pooled sums and counts, never means of means.

Each score comes as a streaming class (``update``, ``merge``, ``compute``) and as one call over
arrays. Energies are eV, forces eV/Angstrom, distances Angstrom; NumPy in, floats out.

======================  ============================================  ==========================
task                    streaming                                     one call
======================  ============================================  ==========================
S2EF, OC25, molecules   :class:`S2EFMetrics`                          :func:`s2ef_metrics`
IS2RE                   :class:`IS2REMetrics`                         :func:`is2re_metrics`
IS2RS                   :class:`IS2RSMetrics`                         :func:`is2rs_metrics`
OC20NEB                 (one transition state each)                   :func:`oc20neb_metrics`
AdsorbML, OC20-Dense    (needs all configs of a system)               :func:`adsorbml_metrics`
anomalies               (one relaxation at a time)                    :func:`detect_anomalies`
OC25 solvation          :class:`SolvationMetrics`                     :func:`solvation_metrics`
relaxations (GOLF)      (energies of an oracle)                       :func:`optimization_metrics`
======================  ============================================  ==========================
"""

from __future__ import annotations

from ase_nnp.metrics.adsorbml import adsorbml_metrics
from ase_nnp.metrics.anomaly import (
    Anomalies,
    adsorbate_desorbed,
    adsorbate_dissociated,
    adsorbate_intercalated,
    connectivity,
    detect_anomalies,
    surface_changed,
)
from ase_nnp.metrics.is2re import OC20_SPLITS, IS2REMetrics, is2re_metrics, mean_over_splits
from ase_nnp.metrics.is2rs import (
    IS2RSMetrics,
    adwt,
    afbt,
    dwt,
    fbt,
    is2rs_metrics,
    largest_free_force,
    mean_displacement,
    min_image,
)
from ase_nnp.metrics.oc20neb import oc20neb_metrics
from ase_nnp.metrics.optimization import optimization_metrics
from ase_nnp.metrics.s2ef import (
    S2EFMetrics,
    efwt,
    energy_mae,
    energy_mae_per_atom,
    energy_mse,
    energy_rmse,
    energy_within_threshold,
    force_cosine,
    forces_mae,
    forces_magnitude_error,
    forces_rmse,
    s2ef_metrics,
)
from ase_nnp.metrics.solvation import SolvationMetrics, solvation_energy, solvation_metrics

__all__ = [
    "OC20_SPLITS",
    "Anomalies",
    "IS2REMetrics",
    "IS2RSMetrics",
    "S2EFMetrics",
    "SolvationMetrics",
    "adsorbate_desorbed",
    "adsorbate_dissociated",
    "adsorbate_intercalated",
    "adsorbml_metrics",
    "adwt",
    "afbt",
    "connectivity",
    "detect_anomalies",
    "dwt",
    "efwt",
    "energy_mae",
    "energy_mae_per_atom",
    "energy_mse",
    "energy_rmse",
    "energy_within_threshold",
    "fbt",
    "force_cosine",
    "forces_mae",
    "forces_magnitude_error",
    "forces_rmse",
    "is2re_metrics",
    "is2rs_metrics",
    "largest_free_force",
    "mean_displacement",
    "mean_over_splits",
    "min_image",
    "oc20neb_metrics",
    "optimization_metrics",
    "s2ef_metrics",
    "solvation_energy",
    "solvation_metrics",
    "surface_changed",
]
