"""``run.json``: what a run was made with; and whether another call continues the same run."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ase_nnp import __version__
from ase_nnp.errors import ConfigError
from ase_nnp.files.atomic import whole_file
from ase_nnp.models.potential import Potential
from ase_nnp.training.normalization import TrainingReport
from ase_nnp.training.settings import Settings

__all__ = ["check_same_run", "run_identity", "write_record"]

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


def run_identity(
    settings: Settings, weights: str, report: TrainingReport, notes: dict[str, Any]
) -> dict[str, Any]:
    """Return what a checkpoint must have been made with for a run to go on from it.

    Parameters
    ----------
    weights
        Hash of those that the run starts from.
    report
        Statistics of the labels, and what was set in the model.
    settings
        Of the run.
    notes
        What else the identity depends on.
    """
    return {
        "settings": settings.model_dump(mode="json", exclude=FREE),
        "model": weights,
        "data": report.sha256,
        "notes": json.loads(json.dumps(notes, default=str)),
    }


def check_same_run(was: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Raise ConfigError, naming what differs, where a folder holds another run."""
    # By hashes of content: paths and names may change, what is learned may not.
    different = [key for key in ("model", "data", "notes") if was.get(key) != now[key]]
    old, new = was.get("settings", {}), now["settings"]
    different += [f"settings.{k}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    if different:
        raise ConfigError(
            f"{folder} holds a run that differs in {', '.join(different)}; it cannot go on with "
            "these. Name another folder."
        )


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
