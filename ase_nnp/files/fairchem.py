"""Checkpoints of fairchem's trainers, of both generations, as plain numpy arrays and numbers.

The trainers of fairchem 1 (and of ocp before it) write ``state_dict`` and ``config``; those of
fairchem 2 write ``model_state_dict`` and ``model_config`` for inference. Both keep the moving
average of the weights, with which they evaluate: the first as a list without names, in the order of
the parameters; the second under the names. What a model makes of it is its family's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.errors import CheckpointError
from ase_nnp.files.unpickle import load_torch

__all__ = ["InferenceCheckpoint", "Task", "TrainerCheckpoint", "read_fairchem"]

Arrays = dict[str, np.ndarray[Any, Any]]
Scale = dict[str, float]
#: Names of what is learned in the older files, by the later ones.
LATER = {"target": "energy", "grad_target": "forces"}


@dataclass(frozen=True)
class TrainerCheckpoint:
    """What fairchem 1 or ocp wrote, for training or for inference.

    Attributes
    ----------
    path
        The file, for errors.
    model
        Name of the model in the trainer's registry, None if the file does not say.
    attributes
        Hyper-parameters of the model.
    config
        The whole configuration of the run.
    weights
        By name, in the order of the file, without the ``module.`` of distributed training.
    averages
        Moving averages of the parameters, without names; None where the file has none.
    normalizers
        ``{"energy": {"mean", "std"}, "forces": ...}`` in the labels' units.
    element_references
        Energies by atomic number, in the labels' units, or None.
    dataset
        The configuration of the training data.
    progress
        ``epoch`` and ``step``, as far as they are known.
    """

    path: Path
    model: str | None
    attributes: dict[str, Any]
    config: Mapping[str, Any]
    weights: Arrays
    averages: Sequence[np.ndarray[Any, Any]] | None
    normalizers: dict[str, Scale]
    element_references: list[float] | None
    dataset: dict[str, Any]
    progress: dict[str, float]

    def averaged(self, is_parameter: Callable[[str], bool]) -> Arrays:
        """Return the averages under their names.

        Parameters
        ----------
        is_parameter
            Whether the weight of that name is a parameter: only these are averaged, in order.

        Raises
        ------
        CheckpointError
            Number or shapes do not fit the parameters.
        """
        # The file gives averages no names: they stand in the order of the parameters.
        names = [name for name in self.weights if is_parameter(name)]
        averages = self.averages or ()
        if len(names) != len(averages):
            raise CheckpointError(
                f"{self.path}: {len(averages)} averaged tensors do not match {len(names)} "
                "parameters. ema=False takes the last weights instead."
            )

        for name, value in zip(names, averages, strict=True):
            if np.shape(value) != self.weights[name].shape:
                raise CheckpointError(
                    f"{self.path}: the average of {name} has shape {np.shape(value)} where "
                    f"{self.weights[name].shape} is expected. ema=False takes the last weights "
                    "instead."
                )
        return dict(zip(names, averages, strict=True))


@dataclass(frozen=True)
class Task:
    """How one property is made from what the network gives: ``std * output + mean``, and more."""

    datasets: tuple[str, ...]
    normalizer: Scale | None
    element_references: list[float] | None


@dataclass(frozen=True)
class InferenceCheckpoint:
    """What fairchem 2 wrote for inference.

    Attributes
    ----------
    path
        The file, for errors.
    backbone
        Hyper-parameters, ``model`` among them.
    heads
        Configuration of each head, by name.
    weights, averages
        By name, without the ``module.`` in front; no averages: None.
    tasks
        What the file says of each property and data set.
    """

    path: Path
    backbone: dict[str, Any]
    heads: dict[str, Mapping[str, Any]]
    weights: Arrays
    averages: Arrays | None
    tasks: Sequence[Mapping[str, Any]]

    @property
    def model(self) -> str | None:
        """Class of the backbone, as the file names it."""
        return None if "model" not in self.backbone else str(self.backbone["model"])

    def task(self, name: str, dataset: str | None = None) -> Task | None:
        """Return what the file says of a property (``energy``), None if nothing.

        Raises
        ------
        CheckpointError
            Several data sets have it, and none was chosen.
        """
        fits = [task for task in self.tasks if task.get("property") == name]
        if dataset is not None:
            fits = [task for task in fits if dataset in (task.get("datasets") or ())]
        if len(fits) > 1:
            sets = sorted({str(d) for t in fits for d in t.get("datasets") or ()})
            raise CheckpointError(
                f"{self.path} was trained on several data sets; choose one with task=: "
                f"{', '.join(sets)}."
            )
        if not fits:
            return None

        given = fits[0].get("normalizer")
        return Task(
            datasets=tuple(str(d) for d in fits[0].get("datasets") or ()),
            normalizer=_scale(given, self.path) if given else None,
            element_references=_references(fits[0].get("element_references"), self.path),
        )


def read_fairchem(path: str | Path) -> TrainerCheckpoint | InferenceCheckpoint:
    """Read a checkpoint of either generation, without running anything in it.

    Raises
    ------
    CheckpointError
        It is damaged, or of another kind; UnsafeFileError if it asks for code.
    """
    path, content = Path(path), load_torch(path)
    plain = content if isinstance(content, Mapping) else getattr(content, "__dict__", {})
    try:
        if "model_config" in plain and "model_state_dict" in plain:
            return _inference(path, plain)
        if "state_dict" in plain and isinstance(plain.get("config"), Mapping):
            return _trainer(path, plain)
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}.") from error
    raise CheckpointError(
        f"{path} is neither a checkpoint of fairchem 1 ('state_dict' and 'config') nor one of "
        f"fairchem 2 for inference. It holds: {', '.join(map(str, list(plain)[:6])) or 'nothing'}. "
        "Weights alone can be loaded with config= and weights=."
    )


def _trainer(path: Path, content: Mapping[str, Any]) -> TrainerCheckpoint:
    config = content["config"]
    model = config.get("model")
    if isinstance(model, Mapping):
        name, attributes = model.get("name"), dict(model)
    else:
        name, attributes = model, dict(config.get("model_attributes") or {})

    dataset = config.get("dataset") or {}
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        dataset = dataset[0] if dataset else {}
    if isinstance(dataset, Mapping) and isinstance(dataset.get("train"), Mapping):
        dataset = dataset["train"]
    dataset = dict(dataset) if isinstance(dataset, Mapping) else {}

    references = content.get("elementrefs") or {}
    average = content.get("ema")
    return TrainerCheckpoint(
        path=path,
        model=name if isinstance(name, str) else None,
        attributes=attributes,
        config=config,
        weights=_unwrapped(content["state_dict"], path),
        averages=(average.get("shadow_params") or None) if isinstance(average, Mapping) else None,
        normalizers=_normalizers(content.get("normalizers") or {}, dataset, path),
        element_references=_references(
            references.get("energy", next(iter(references.values()), None)), path
        ),
        dataset=dataset,
        progress={
            name: _number(content[name], path)
            for name in ("epoch", "step")
            if np.size(content.get(name, ())) == 1
        },
    )


def _inference(path: Path, content: Mapping[str, Any]) -> InferenceCheckpoint:
    average = content.get("ema_state_dict")
    model = content["model_config"]
    return InferenceCheckpoint(
        path=path,
        backbone=dict(model.get("backbone", {})),
        heads=dict(model.get("heads", {})),
        weights=_unwrapped(content["model_state_dict"], path),
        averages=_unwrapped(average, path) if average else None,
        tasks=[dict(task) for task in content.get("tasks_config") or ()],
    )


def _unwrapped(state: Any, path: Path) -> Arrays:
    """Return weights without the ``module.`` that each wrapper of a parallel run put in front."""
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path}: the state_dict is empty.")
    arrays = {str(k): v for k, v in state.items() if k != "n_averaged"}
    strange = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if strange:
        raise CheckpointError(f"{path}: '{strange[0]}' in the state_dict is no tensor.")
    prefix = "module." * next(iter(arrays), "").split(".").count("module")
    return {name.removeprefix(prefix): value for name, value in arrays.items()}


def _normalizers(
    given: Mapping[str, Any], dataset: Mapping[str, Any], path: Path
) -> dict[str, Scale]:
    scales = {LATER.get(name, str(name)): _scale(value, path) for name, value in given.items()}
    # Files of ocp may keep them only beside the data.
    if not given and dataset.get("normalize_labels", True):
        for old, name in LATER.items():
            if f"{old}_std" in dataset:
                mean = dataset.get(f"{old}_mean", 0.0)
                scales[name] = _scale({"mean": mean, "std": dataset[f"{old}_std"]}, path)
    return scales


def _scale(given: Mapping[str, Any], path: Path) -> Scale:
    spread = next((given[key] for key in ("rmsd", "std", "stdev") if key in given), 1.0)
    return {"mean": _number(given.get("mean", 0.0), path), "std": _number(spread, path)}


def _number(value: Any, path: Path) -> float:
    try:
        return float(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{path}: {type(value).__name__} stands where a number is wanted."
        ) from None


def _references(given: Any, path: Path) -> list[float] | None:
    """Return energies by atomic number, out of the constructor arguments they are wrapped in."""
    for _ in range(8):
        if not isinstance(given, Mapping):
            break
        given = given["_args_"][0] if "_args_" in given else given.get("element_references")
    if given is None:
        return None
    try:
        return [float(v) for v in np.asarray(given, dtype=np.float64).ravel()]
    except (TypeError, ValueError):
        raise CheckpointError(f"{path}: the energies of the elements are no numbers.") from None
