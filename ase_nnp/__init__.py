"""Neural-network potentials as ASE calculators, on catalyst data, with error bars.

The public names below are imported when they are first used, so that ``import ase_nnp`` costs
next to nothing and leaves torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "AtomGraph": "models.graph",
    "AtomsDataset": "datasets.base",
    "BatchingCalculator": "calculator.batching",
    "Conservative": "models.conservative",
    "Correction": "registry.correction",
    "DatasetFormat": "registry.family",
    "GraphLoader": "training.graph_loader",
    "ModelFamily": "registry.family",
    "NNPCalculator": "calculator.calculator",
    "Potential": "models.potential",
    "Predictor": "models.predictor",
    "Pretrained": "registry.family",
    "UncertaintyMethod": "registry.family",
    "adsorption_energy": "workflows.adsorption",
    "build_model": "models.files",
    "cite": "registry.citation",
    "export_model": "models.export",
    "from_ase": "models.from_ase",
    "hookimpl": "registry.hookspecs",
    "list_models": "registry.installed",
    "load_model": "models.files",
    "open_dataset": "datasets",
    "predict": "models.predictor",
    "relax_many": "workflows.batched",
    "remote": "models.remote.potential",
    "run_dynamics": "workflows.batched",
    "save_model": "models.files",
    "splinify": "models.splines",
    "sum_potentials": "models.sums",
    "write_dataset": "datasets.writing.write",
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

_ROOMS = (
    "errors",
    "files",
    "registry",
    "datasets",
    "metrics",
    "models",
    "uncertainty",
    "calculator",
    "workflows",
    "training",
    "testing",
    "cli",
)

__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from ase_nnp.calculator.batching import BatchingCalculator as BatchingCalculator
    from ase_nnp.calculator.calculator import NNPCalculator as NNPCalculator
    from ase_nnp.datasets import open_dataset as open_dataset
    from ase_nnp.datasets.base import AtomsDataset as AtomsDataset
    from ase_nnp.datasets.writing.write import write_dataset as write_dataset
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
    from ase_nnp.models.conservative import Conservative as Conservative
    from ase_nnp.models.export import export_model as export_model
    from ase_nnp.models.files import build_model as build_model
    from ase_nnp.models.files import load_model as load_model
    from ase_nnp.models.files import save_model as save_model
    from ase_nnp.models.from_ase import from_ase as from_ase
    from ase_nnp.models.graph import AtomGraph as AtomGraph
    from ase_nnp.models.potential import Potential as Potential
    from ase_nnp.models.predictor import Predictor as Predictor
    from ase_nnp.models.predictor import predict as predict
    from ase_nnp.models.remote.potential import remote as remote
    from ase_nnp.models.splines import splinify as splinify
    from ase_nnp.models.sums import sum_potentials as sum_potentials
    from ase_nnp.registry.citation import cite as cite
    from ase_nnp.registry.correction import Correction as Correction
    from ase_nnp.registry.family import DatasetFormat as DatasetFormat
    from ase_nnp.registry.family import ModelFamily as ModelFamily
    from ase_nnp.registry.family import Pretrained as Pretrained
    from ase_nnp.registry.family import UncertaintyMethod as UncertaintyMethod
    from ase_nnp.registry.hookspecs import hookimpl as hookimpl
    from ase_nnp.registry.installed import list_models as list_models
    from ase_nnp.training.graph_loader import GraphLoader as GraphLoader
    from ase_nnp.workflows.adsorption import adsorption_energy as adsorption_energy
    from ase_nnp.workflows.batched import relax_many as relax_many
    from ase_nnp.workflows.batched import run_dynamics as run_dynamics


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"ase_nnp.{name}")
    if name in _WHERE:
        value = getattr(import_module(f"ase_nnp.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ase_nnp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
