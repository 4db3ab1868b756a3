"""``fit``: from a potential and labelled structures to a trained model in a folder."""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ase_nnp import __version__
from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.files.atomic import whole_file
from ase_nnp.models.files import load_model
from ase_nnp.models.potential import Potential
from ase_nnp.models.tensors import tensor_hash
from ase_nnp.training.normalization import TrainingReport, fit_scales, set_scales
from ase_nnp.training.settings import Batch, Settings

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["FitResult", "fit"]

#: Settings that may change when a run goes on: none changes what a step does.
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
}


@dataclass
class FitResult:
    """A trained model and how it went.

    ``history`` has a row an epoch: losses, and mean absolute errors of energies (eV an atom),
    forces (eV/Angstrom) and stress (eV/Angstrom^3). ``model`` has the averaged weights of
    ``best_epoch``, as in ``folder/model.nnp``.
    """

    model: Potential
    folder: Path
    report: TrainingReport
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = ""
    without_gradient: list[str] = field(default_factory=list)


def fit(
    model: Potential,
    train: Sequence[Atoms],
    valid: Sequence[Atoms] | None = None,
    settings: Settings | None = None,
    *,
    folder: str | Path,
    resume: bool = True,
    penalty: Callable[[Potential], torch.Tensor] | None = None,
    notes: dict[str, Any] | None = None,
) -> FitResult:
    """Train a potential.

    Parameters
    ----------
    model
        From :func:`~ase_nnp.build_model` or :func:`~ase_nnp.load_model`; trained in place.
    train, valid
        An AtomsDataset, or Atoms with results of a calculator. The validation set chooses the
        weights that are kept; without it the last ones are.
    settings
        Losses, batches, optimiser, schedule; defaults where None.
    folder
        For ``model.nnp``, ``last.ckpt``, ``log.csv`` and ``run.json``. A run that was interrupted
        there goes on, and ends bit for bit as if it had not been.
    resume
        False refuses a folder that holds a run.
    penalty
        ``penalty(model)``, added to the loss at every step.
    notes
        Plain values saved in ``run.json`` and with the model: data, licence.

    Returns
    -------
    FitResult

    Raises
    ------
    ConfigError
        Settings that the model or the data contradict, or a folder with another run.
    DatasetError
        No structures, or no labels of a kind.
    TrainingError
        The loss is zero, not finite, or nothing moves.

    Examples
    --------
    >>> from ase_nnp.training import Settings, fit  # doctest: +SKIP
    >>> settings = Settings(epochs=50, batch={"structures": 8})  # doctest: +SKIP
    >>> fit(model, frames[:90], frames[90:], settings, folder="run").history[-1]  # doctest: +SKIP
    """
    try:
        import lightning  # noqa: F401
    except ImportError as error:
        raise ConfigError("Training needs Lightning: pip install ase_nnp[train]") from error
    settings = Settings() if settings is None else settings
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder for the run.")
    if not resume and (folder / "last.ckpt").exists():
        raise ConfigError(f"{folder} holds a run already; name another folder, or let it go on.")
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(), _quiet():
        return _fit(model, train, valid, settings, folder, penalty, dict(notes or {}))


def _fit(
    model: Potential,
    train: Sequence[Atoms],
    valid: Sequence[Atoms] | None,
    settings: Settings,
    folder: Path,
    penalty: Any,
    notes: dict[str, Any],
) -> FitResult:
    from ase_nnp.training import sanity_checks
    from ase_nnp.training.data import LabelledGraphs, make_loader
    from ase_nnp.training.module import TrainingModule
    from ase_nnp.training.run_callbacks import Course, read_checkpoint

    fresh = model.provenance.get("source") == "fresh weights"
    model.__dict__.pop("_hash", None)  # it is about to change
    started_from = tensor_hash(model.state_dict())
    with _reading(settings) as progress:
        report = prepare(model, train, settings, progress)
    identity = {
        "settings": settings.model_dump(mode="json", exclude=FREE),
        "model": started_from,
        "data": report.sha256,
        "notes": json.loads(json.dumps(notes, default=str)),
    }
    checkpoint = folder / "last.ckpt"
    state = read_checkpoint(checkpoint) if checkpoint.exists() else None
    if state is not None:
        _same_run(state["identity"], identity, folder)

    trainer = _trainer(settings, 0 if state is None else state["position"]["epoch"])
    rank, world = trainer.global_rank, trainer.world_size
    wanted = settings.wanted()
    data = LabelledGraphs(train, model, wanted, settings.cache_mb)
    batches = make_loader(
        data, settings.batch, seed=settings.seed, workers=settings.workers, rank=rank, world=world
    )
    held = None
    if valid is not None:
        if not len(valid):
            raise DatasetError("the validation set is empty; say None for none")
        size = Batch(atoms=settings.batch.validation_atoms)
        held_data = LabelledGraphs(valid, model, wanted, settings.cache_mb)
        held = make_loader(held_data, size, seed=None, rank=rank, world=world)

    if settings.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError("tensorboard is not installed: pip install tensorboard, or leave it out.")
    if fresh and model.elements is not None:
        from ase.data import atomic_numbers

        model.elements = model.elements & {atomic_numbers[s] for s in report.elements}
    model.train()
    steps = settings.epochs * len(batches.sampler)
    module = TrainingModule(model, settings, batches, steps, penalty)
    without = sanity_checks.first_step(
        model, module.loss, data.__getitems__(batches.sampler.plan()[0])
    )
    if without:
        report.notes.append(f"no gradient reaches {', '.join(without)}")
        if world > 1:  # data-parallel training would wait for them
            for name in without:
                model.get_parameter(name).requires_grad_(False)
    provenance = {"source": "trained", "data_sha256": report.sha256, **notes}
    course = Course(folder, held, identity, provenance)
    module.after_step = course.after_step
    if state is not None:
        module.go_to(state["position"])
        course.restore(state)
    if trainer.is_global_zero:
        _write_record(folder, settings, model, report, started_from, notes)
        course.say(report.lines(), settings)
    if module.epoch < settings.epochs:
        trainer.callbacks.append(course)
        _run(trainer, module, batches)
    trainer.strategy.barrier()
    best = load_model(folder / "model.nnp", device=model.device, dtype=str(model.dtype)[6:])
    return FitResult(best, folder, report, course.rows, course.best_epoch, course.stopped, without)


def prepare(
    model: Potential,
    train: Sequence[Atoms],
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingReport:
    """Stream the labels once and set references and scales; a trained model keeps its own."""
    fresh = model.provenance.get("source") == "fresh weights"
    if settings.references == "auto" and not fresh:
        settings = settings.model_copy(update={"references": "keep"})
    report = fit_scales(train, model, settings, progress)
    set_scales(model, report)
    return report


def _trainer(settings: Settings, done: int) -> Any:
    import lightning

    accelerator = settings.accelerator
    if accelerator == "auto":  # Lightning would take others that have no float64
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    return lightning.Trainer(
        accelerator=accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        max_epochs=max(0, settings.epochs - done),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice on workers, loggers and evaluation mode does not apply here."""
    import logging

    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _reading(settings: Settings) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar over the pass through the training set, on a terminal."""
    if not settings.progress or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the training set")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _run(trainer: Any, module: Any, batches: Any) -> None:
    try:
        trainer.fit(module, train_dataloaders=batches)
    except SystemExit:
        if getattr(trainer, "interrupted", False):
            raise KeyboardInterrupt from None
        raise


def _same_run(was: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    different = [key for key in ("model", "data", "notes") if was.get(key) != now[key]]
    old, new = was.get("settings", {}), now["settings"]
    different += [f"settings.{k}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    if different:
        raise ConfigError(
            f"{folder} holds a run that differs in {', '.join(different)}; it cannot go on with "
            "these. Name another folder."
        )


def _write_record(
    folder: Path,
    settings: Settings,
    model: Potential,
    report: TrainingReport,
    started_from: str,
    notes: dict[str, Any],
) -> None:
    import lightning
    import numpy

    record = {
        "settings": settings.model_dump(mode="json"),
        "model": {**model.describe(), "config": dict(model.config), "sha256_before": started_from},
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
    with whole_file(folder / "run.json") as beside:
        beside.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
