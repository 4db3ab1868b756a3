"""``run``: carry out a run file, from opening the data to the trained model in its folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ase_nnp.datasets.own_labels import own_results
from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.models.corrections import (
    add_corrections,
    stored_corrections,
    with_stored_corrections,
)
from ase_nnp.models.files import build_model, load_model
from ase_nnp.models.potential import Potential
from ase_nnp.training import finetune as tuning
from ase_nnp.training.corrected_labels import without_corrections
from ase_nnp.training.fitting import FitResult, fit
from ase_nnp.training.new_elements import add_elements, train_new_elements_only
from ase_nnp.training.references import refit_references
from ase_nnp.training.runfile import RunFile, write_run_file

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["run"]


def run(config: RunFile) -> FitResult:
    """Do a run; one that was interrupted in its folder goes on.

    ``run.yaml`` in the folder is the whole of it, defaults included.

    Raises
    ------
    ConfigError, DatasetError, CheckpointError, TrainingError
    """
    train, valid = _data(config)
    if config.data.test is not None:
        _open(config.data.test)  # what is not there is said now, and not after the last epoch
    settings = config.settings()
    if config.data.isolated_atoms is not None:
        free = _free_atoms(config.data.isolated_atoms)
        settings = settings.model_copy(update={"references": free})

    if config.finetune.new_elements_only:  # else all references might be shifted
        settings = settings.model_copy(update={"references": "keep"})
    folder = Path(config.output)
    notes: dict[str, Any] = {"train": config.data.train, "finetune": config.finetune.model_dump()}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)

        # The seed is set before fresh weights are drawn, so that a run file alone decides them.
        whole = add_corrections(_model(config), config.corrections)
        stored, model = stored_corrections(whole), whole.unwrapped
        known = model.elements
        model = add_elements(model, config.finetune.add_elements)
        # References are compared with the labels as they are, so with the corrections on.
        whole = with_stored_corrections(model, stored)
        _fit_references(config, whole, known, train, notes)
        penalty = _prepare(config, model, stored, notes)
        if config.finetune.replay is not None:
            old = _open(config.finetune.replay)
            train = tuning.mix(list(train), old, config.finetune.replay_fraction, config.seed)

        def accepted() -> None:
            # Not before: a run that is refused must leave the file of the one that is there.
            write_run_file(config, folder / "run.yaml")

        return fit(
            whole,
            train,
            valid,
            settings,
            folder=folder,
            penalty=penalty,
            notes=notes,
            on_start=accepted,
        )


def _open(path: str) -> Sequence[Atoms]:
    from ase_nnp.datasets import open_dataset

    if not Path(path).exists():
        raise DatasetError(
            f"there is no such file or folder; paths in a run file are relative to where the "
            f"command is run, {Path.cwd()}",
            path=path,
        )
    return open_dataset(path)


def _data(config: RunFile) -> tuple[Sequence[Atoms], Sequence[Atoms] | None]:
    train: Any = _open(config.data.train)
    if config.data.valid is not None:
        return train, _open(config.data.valid)
    held = round(config.data.valid_fraction * len(train))
    if not held:
        return train, None

    # By the run's seed: a resumed run holds back the same structures.
    order = np.random.default_rng(config.seed).permutation(len(train))
    return train[np.sort(order[held:])], train[np.sort(order[:held])]


def _free_atoms(path: str) -> dict[str, float]:
    energies: dict[str, float] = {}
    for atoms in _open(path):
        energy = own_results(atoms).get("energy")
        if len(atoms) != 1 or energy is None:
            raise DatasetError("isolated_atoms must hold single atoms with energies", path=path)

        # The last of several would win without a word: spin states, or another program.
        symbol = atoms.get_chemical_symbols()[0]
        if symbol in energies:
            raise DatasetError(f"isolated_atoms holds {symbol} more than once", path=path)
        energies[symbol] = float(energy)
    return energies


def _model(config: RunFile) -> Potential:
    part = config.model
    if part.start is not None:
        if part.config:
            raise ConfigError("model.start brings its own configuration; leave model.config out.")
        if part.family is None:
            return load_model(part.start, dtype=part.dtype, uncertainty=False)
        return load_model(part.family, checkpoint=part.start, dtype=part.dtype, uncertainty=False)
    if part.family is None:
        raise ConfigError("model needs a family, or start: a model file to go on from.")
    return build_model(part.family, part.config, seed=config.seed, dtype=part.dtype)


def _fit_references(
    config: RunFile,
    model: Potential,
    known: frozenset[int] | None,
    train: Sequence[Atoms],
    notes: dict[str, Any],
) -> None:
    """Shift references to the labels: all of them if asked for, those of new elements always."""
    grown = known is not None and model.elements != known
    if not (grown or config.finetune.refit_references):
        return
    new = model.elements - known if grown and model.elements and known else None
    report = refit_references(
        model, train, elements=None if config.finetune.refit_references else new
    )
    notes["references"] = report.as_dict()
    if config.progress:
        print("\n".join(report.lines()), file=sys.stderr)


def _prepare(
    config: RunFile, model: Potential, stored: list[dict[str, Any]], notes: dict[str, Any]
) -> Any:
    """Apply what the run file says under finetune; returns the penalty."""
    tune = config.finetune
    if tune.lora_rank is not None and (tune.freeze or tune.ewc):
        raise ConfigError(
            "finetune.lora_rank leaves all weights as they are and trains additions to them; leave "
            "finetune.freeze and finetune.ewc out."
        )
    if tune.new_elements_only and config.optimizer.weight_decay:
        raise ConfigError(
            "finetune.new_elements_only keeps the other weights as they are, which "
            "optimizer.weight_decay would shrink; leave one of them out."
        )

    if tune.freeze:
        notes["frozen"] = tuning.freeze_parts(model, tune.freeze)
    if tune.new_elements_only:
        notes["trained"] = train_new_elements_only(model)
    weights = _importance(config, model, stored) if tune.ewc else None
    if tune.lora_rank is not None:
        tuning.add_low_rank(model, tune.lora_rank, tune.lora_alpha, tune.lora_on)
    if tune.ewc:
        return tuning.keep_close(model, tune.ewc, weights)
    return tuning.keep_close(model, tune.keep_close) if tune.keep_close else None


def _importance(config: RunFile, model: Potential, stored: list[dict[str, Any]]) -> Any:
    from ase_nnp.training.graph_loader import AtomGraphDataset
    from ase_nnp.training.losses import LossFunction

    if config.finetune.replay is None:
        raise ConfigError("finetune.ewc weighs by the old data: name it with finetune.replay.")
    old = _open(config.finetune.replay)
    names = config.settings().wanted()
    some = np.random.default_rng(config.seed).permutation(len(old))[:100]
    drawn = without_corrections([old[int(k)] for k in some], stored, names)
    data = AtomGraphDataset(drawn, model=model, labels=names)
    return tuning.importance(
        model, LossFunction(config.losses), [data[k] for k in range(len(data))]
    )
