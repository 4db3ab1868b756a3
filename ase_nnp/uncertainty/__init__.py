"""Uncertainty of any model's predictions.

Two layers. On plain arrays, without torch: ``metrics``, ``calibration``, ``observables``,
``ood``. On potentials: methods that wrap potentials and add ``energy_std`` and ``forces_std``,
samplers of weights, and what ASE users need to store and watch them.

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Calibration": "statistics.calibrated",
    "ChainSettings": "sampling.chains",
    "DeepEnsemble": "methods.ensemble",
    "LastLayerLaplace": "methods.last_layer",
    "LatentDistanceMethod": "methods.latent",
    "Pool": "methods.ensemble",
    "ShallowEnsemble": "methods.shallow",
    "UncertainPotential": "methods.base",
    "UncertaintyMonitor": "monitor",
    "UncertaintyTrajectory": "ase_storage",
    "UncertaintyWarning": "monitor",
    "aliases": "ase_storage",
    "attach": "fitting",
    "attach_uncertainty": "ase_storage",
    "calibrate": "fitting",
    "calibrate_differences": "shared_errors",
    "fit": "fitting",
    "freeze": "ase_storage",
    "read_uncertainty": "ase_storage",
    "write_db": "ase_storage",
    "write_extxyz": "ase_storage",
    "list_methods": "fitting",
    "load_uncertainty": "files",
    "save_uncertainty": "files",
    "uncertainty_info": "files",
    "wrap": "fitting",
    "members_from_samples": "sampling.store",
    "run_chains": "sampling.chains",
}
_STATISTICS = ("calibration", "metrics", "observables", "ood")
_MODULES = (*_STATISTICS, "sampling")

__all__ = [*_WHERE, *_MODULES]

if TYPE_CHECKING:
    from ase_nnp.uncertainty.ase_storage import UncertaintyTrajectory as UncertaintyTrajectory
    from ase_nnp.uncertainty.ase_storage import aliases as aliases
    from ase_nnp.uncertainty.ase_storage import attach_uncertainty as attach_uncertainty
    from ase_nnp.uncertainty.ase_storage import freeze as freeze
    from ase_nnp.uncertainty.ase_storage import read_uncertainty as read_uncertainty
    from ase_nnp.uncertainty.ase_storage import write_db as write_db
    from ase_nnp.uncertainty.ase_storage import write_extxyz as write_extxyz
    from ase_nnp.uncertainty.files import load_uncertainty as load_uncertainty
    from ase_nnp.uncertainty.files import save_uncertainty as save_uncertainty
    from ase_nnp.uncertainty.files import uncertainty_info as uncertainty_info
    from ase_nnp.uncertainty.fitting import attach as attach
    from ase_nnp.uncertainty.fitting import calibrate as calibrate
    from ase_nnp.uncertainty.fitting import fit as fit
    from ase_nnp.uncertainty.fitting import list_methods as list_methods
    from ase_nnp.uncertainty.fitting import wrap as wrap
    from ase_nnp.uncertainty.methods.base import UncertainPotential as UncertainPotential
    from ase_nnp.uncertainty.monitor import UncertaintyMonitor as UncertaintyMonitor
    from ase_nnp.uncertainty.monitor import UncertaintyWarning as UncertaintyWarning
    from ase_nnp.uncertainty.shared_errors import calibrate_differences as calibrate_differences
    from ase_nnp.uncertainty.statistics.calibrated import Calibration as Calibration


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    if name in _STATISTICS:
        return import_module(f"{__name__}.statistics.{name}")
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
