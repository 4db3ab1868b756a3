"""Training: fit a potential to labeled structures, continue from a checkpoint, measure errors.

Needs the extra ``train`` (Lightning, pydantic, PyYAML). The names below are imported when they are
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "AtomGraphDataset": "graph_loader",
    "FitResult": "fitting",
    "GraphLoader": "graph_loader",
    "Settings": "settings",
    "TrainingReport": "report",
    "fit": "fitting",
    "fit_normalization": "normalization",
    "read_run_file": "runfile",
}

__all__ = [*_WHERE]

if TYPE_CHECKING:
    from ase_nnp.training.fitting import FitResult as FitResult
    from ase_nnp.training.fitting import fit as fit
    from ase_nnp.training.graph_loader import AtomGraphDataset as AtomGraphDataset
    from ase_nnp.training.graph_loader import GraphLoader as GraphLoader
    from ase_nnp.training.normalization import fit_normalization as fit_normalization
    from ase_nnp.training.report import TrainingReport as TrainingReport
    from ase_nnp.training.runfile import read_run_file as read_run_file
    from ase_nnp.training.settings import Settings as Settings


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
