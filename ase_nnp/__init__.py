"""Neural-network potentials as ASE calculators, on catalyst data, with error bars.

The public names below are imported when they are first used, so that ``import ase_nnp`` costs
next to nothing and leaves torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "AtomGraph": "graph",
    "AtomsDataset": "datasets.base",
    "BatchingCalculator": "batching",
    "Conservative": "potential",
    "DatasetFormat": "family",
    "ModelFamily": "family",
    "NNPCalculator": "calculator",
    "Potential": "potential",
    "Predictor": "inference",
    "Pretrained": "family",
    "UncertaintyMethod": "family",
    "adsorption_energy": "workflows.adsorption",
    "build_model": "models",
    "cite": "citation",
    "from_ase": "foreign",
    "hookimpl": "hookspecs",
    "list_models": "registry",
    "load_model": "models",
    "open_dataset": "datasets",
    "predict": "inference",
    "remote": "workers.remote",
    "save_model": "models",
    "write_dataset": "datasets.writers",
    "AseNnpError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DatasetError": "errors",
    "DownloadError": "errors",
    "PluginError": "errors",
    "PredictionError": "errors",
    "RegistryError": "errors",
    "StructureError": "errors",
    "UnknownModelError": "errors",
    "UnsafeFileError": "errors",
    "UnsupportedElementError": "errors",
    "WorkerError": "errors",
}

_PACKAGES = ("datasets", "metrics", "testing", "training", "uncertainty", "workflows")

__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from ase_nnp.batching import BatchingCalculator as BatchingCalculator
    from ase_nnp.calculator import NNPCalculator as NNPCalculator
    from ase_nnp.citation import cite as cite
    from ase_nnp.datasets import open_dataset as open_dataset
    from ase_nnp.datasets.base import AtomsDataset as AtomsDataset
    from ase_nnp.datasets.writers import write_dataset as write_dataset
    from ase_nnp.errors import AseNnpError as AseNnpError
    from ase_nnp.errors import CheckpointError as CheckpointError
    from ase_nnp.errors import ConfigError as ConfigError
    from ase_nnp.errors import DatasetError as DatasetError
    from ase_nnp.errors import DownloadError as DownloadError
    from ase_nnp.errors import PluginError as PluginError
    from ase_nnp.errors import PredictionError as PredictionError
    from ase_nnp.errors import RegistryError as RegistryError
    from ase_nnp.errors import StructureError as StructureError
    from ase_nnp.errors import UnknownModelError as UnknownModelError
    from ase_nnp.errors import UnsafeFileError as UnsafeFileError
    from ase_nnp.errors import UnsupportedElementError as UnsupportedElementError
    from ase_nnp.errors import WorkerError as WorkerError
    from ase_nnp.family import DatasetFormat as DatasetFormat
    from ase_nnp.family import ModelFamily as ModelFamily
    from ase_nnp.family import Pretrained as Pretrained
    from ase_nnp.family import UncertaintyMethod as UncertaintyMethod
    from ase_nnp.foreign import from_ase as from_ase
    from ase_nnp.graph import AtomGraph as AtomGraph
    from ase_nnp.hookspecs import hookimpl as hookimpl
    from ase_nnp.inference import Predictor as Predictor
    from ase_nnp.inference import predict as predict
    from ase_nnp.models import build_model as build_model
    from ase_nnp.models import load_model as load_model
    from ase_nnp.models import save_model as save_model
    from ase_nnp.potential import Conservative as Conservative
    from ase_nnp.potential import Potential as Potential
    from ase_nnp.registry import list_models as list_models
    from ase_nnp.workers.remote import remote as remote
    from ase_nnp.workflows.adsorption import adsorption_energy as adsorption_energy


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"ase_nnp.{name}")
    if name in _WHERE:
        value = getattr(import_module(f"ase_nnp.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ase_nnp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
