"""``run.json``: what a run was made with; and whether another call continues the same run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ase_nnp import __version__
from ase_nnp.errors import CheckpointError, ConfigError
from ase_nnp.files.atomic import whole_file
from ase_nnp.files.identity import digest
from ase_nnp.models.checkpoints import MODEL_KEY
from ase_nnp.models.potential import Potential
from ase_nnp.models.tensors import read_sealed
from ase_nnp.training.report import TrainingReport
from ase_nnp.training.settings import Settings

__all__ = ["check_model_file", "check_same_run", "run_hash", "run_identity", "write_record"]

#: Settings that may change when a run goes on. Of them epochs alone changes what a step does: the
#: schedule of the rate is stretched to the new end.
FREE = {
    "epochs",
    "minutes",
    "patience",
    "progress",
    "workers",
    "cache_mb",
    "checkpoint_every",
    "devices",
    "nodes",
    "accelerator",
    "tensorboard",
    "keep_learnt",
}


#: Notes that are paths: files may move, what is learned from counts by its content.
PATHS = ("notes.train", "notes.finetune.replay")
#: What is compared by a hash, in words.
CONTENT = {
    "model": "the weights it starts from",
    "data": "the data of the training set",
    "validation": "the validation set",
    "trained": "which parameters are trained",
    "penalty": "the penalty",
}


def run_identity(
    settings: Settings,
    weights: str,
    model: Potential,
    data: Mapping[str, str | None],
    notes: dict[str, Any],
) -> dict[str, Any]:
    """Return what a checkpoint must have been made with for a run to go on from it.

    Parameters
    ----------
    settings
        Of the run.
    weights
        Hash of those that the run starts from.
    model
        What is trained: its parameters with ``requires_grad``.
    data
        Hashes of what is learned from and judged by, under names of :data:`CONTENT`.
    notes
        What else the identity depends on.
    """
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return {
        "settings": settings.model_dump(mode="json", exclude=FREE),
        "model": weights,
        "trained": digest(trained),
        **data,
        "notes": json.loads(json.dumps(notes, default=str)),
    }


def check_same_run(was: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Raise ConfigError, naming what differs, where a folder holds another run."""
    different = [words for key, words in CONTENT.items() if was.get(key) != now.get(key)]
    old, new = _compared(was), _compared(now)
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            different.append(f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)")
    if different:
        raise ConfigError(
            f"{folder} holds a run that differs in {', '.join(different)}; it cannot go on with "
            "these. Name another folder."
        )


def run_hash(identity: dict[str, Any]) -> str:
    """Return one hash of an identity, which stands in the files of the run."""
    parts = {key: identity.get(key) for key in CONTENT}
    return digest(parts | {"compared": _compared(identity)})


def check_model_file(folder: Path, rows: Sequence[Any], run: str) -> None:
    """Raise CheckpointError unless the best weights of a run lie beside its checkpoint.

    Parameters
    ----------
    folder
        With ``last.ckpt``, which holds the last weights and not the best ones.
    rows
        Of the epochs so far; before the first is over there need be no best weights.
    run
        Hash of the run (:func:`run_hash`).
    """
    path = folder / "model.nnp"
    if not path.exists() and not rows:
        return
    wrong = "is missing"
    if path.exists():
        content = read_sealed(path, MODEL_KEY)  # a damaged file is refused here
        if content is not None and content[0].get("provenance", {}).get("run") == run:
            return
        wrong = "is not of this run"
    raise CheckpointError(
        f"{path} {wrong}, and {folder / 'last.ckpt'} cannot go on without the best weights so far: "
        "put the file back, or name another folder."
    )


def _compared(identity: dict[str, Any]) -> dict[str, Any]:
    """Return settings and notes by dotted names, but for paths."""
    named = _flat(identity.get("settings", {})) | _flat({"notes": identity.get("notes", {})})
    return {key: value for key, value in named.items() if key not in PATHS}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def write_record(
    folder: Path,
    settings: Settings,
    model: Potential,
    report: TrainingReport,
    started_from: dict[str, Any],
    notes: dict[str, Any],
) -> None:
    """Write settings, model, data and versions to ``run.json``, whole or not at all."""
    import lightning
    import numpy

    record = {
        "settings": settings.model_dump(mode="json"),
        "model": {**model.describe(), "config": dict(model.config), "started_from": started_from},
        "data": report.as_dict(),
        "versions": {
            "ase_nnp": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "numpy": numpy.__version__,
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": notes,
    }
    with whole_file(folder / "run.json") as part:
        part.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
