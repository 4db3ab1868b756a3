"""``fit``: from a potential and labeled structures to a trained model in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ase_nnp.errors import CheckpointError, ConfigError, UnsupportedElementError
from ase_nnp.models.corrections import stored_corrections
from ase_nnp.models.files import load_model
from ase_nnp.models.potential import Potential
from ase_nnp.models.provenance import is_fresh, present_provenance
from ase_nnp.models.tensors import tensor_hash
from ase_nnp.training.corrected_labels import without_corrections
from ase_nnp.training.data_identity import HeldBack, check_sequence, look_at
from ase_nnp.training.normalization import apply_normalization, fit_normalization
from ase_nnp.training.references import adapt_references
from ase_nnp.training.report import TrainingReport
from ase_nnp.training.run_record import (
    check_model_file,
    check_same_run,
    run_hash,
    run_identity,
    write_record,
)
from ase_nnp.training.settings import Batch, Settings
from ase_nnp.training.surroundings import alone_in, quiet, reading, start_processes
from ase_nnp.uncertainty.methods.base import UncertainPotential

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.training.graph_loader import GraphLoader

__all__ = ["FitResult", "fit"]


@dataclass
class FitResult:
    """A trained model and how it went.

    ``history`` has a row an epoch: losses, and mean absolute errors of energies (eV an atom),
    forces (eV/Angstrom) and stress (eV/Angstrom^3). ``model`` has the averaged weights of
    ``best_epoch``, as in ``folder/model.nnp``; 0 is the untouched model. ``untouched`` holds loss
    and errors of a trained model before the first step. ``committee`` is the model with its heads,
    if ``settings.heads`` asks for any; it is also in ``folder/heads.uq``.
    """

    model: Potential
    folder: Path
    report: TrainingReport
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = ""
    without_gradient: list[str] = field(default_factory=list)
    untouched: dict[str, float] = field(default_factory=dict)
    committee: Potential | None = None


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
    on_start: Callable[[], None] | None = None,
) -> FitResult:
    """Train a potential.

    Parameters
    ----------
    model
        From :func:`~ase_nnp.build_model` or :func:`~ase_nnp.load_model`; trained in place. Error
        bars around it are left out: they belong to the weights as they were. Corrections of the
        model are subtracted from the labels before anything else, and saved with what is trained.
    train, valid
        An AtomsDataset, or Atoms with results of a calculator. The validation set chooses the
        weights that are kept; without it the last ones are.
    settings
        Losses, batches, optimizer, schedule; defaults where None.
    folder
        For ``model.nnp``, ``last.ckpt``, ``log.csv`` and ``run.json``. A run that was interrupted
        there goes on, and ends bit for bit as if it had not been.
    resume
        False refuses a folder that holds a run.
    penalty
        ``penalty(model)``, added to the loss at every step.
    notes
        Plain values saved in ``run.json`` and with the model: data, license.
    on_start
        Called before the first step, when it is sure that the folder holds no other run.

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
        The loss is zero, not finite, or nothing moves; or the first epoch doubled an error of a
        trained model.

    Examples
    --------
    With ``frames``, a hundred labeled structures::

        settings = Settings(epochs=50, batch={"structures": 8})
        fit(model, frames[:90], frames[90:], settings, folder="run").history[-1]
    """
    try:
        import lightning  # noqa: F401
    except ImportError as error:
        raise ConfigError("Training needs Lightning: pip install ase_nnp[train]") from error
    settings = Settings() if settings is None else settings
    check_sequence(train, "train")
    if valid is not None:
        check_sequence(valid, "valid")
    # Error bars belong to weights that are about to change.
    if isinstance(model, UncertainPotential) and len(model.members) > 1:
        raise ConfigError(
            "An ensemble is not trained as one: fit its members, then wrap them again."
        )
    stored = _corrections_of(model)
    model = model.unwrapped
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError("tensorboard is not installed: pip install tensorboard, or leave it out.")

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder for the run.")
    if not resume and (folder / "last.ckpt").exists():
        raise ConfigError(f"{folder} holds a run already; name another folder, or let it go on.")
    folder.mkdir(parents=True, exist_ok=True)

    # The seed of the run must not change what the caller draws afterwards.
    with torch.random.fork_rng(), quiet(), alone_in(folder):
        noted = dict(notes or {}) | ({"corrections": stored} if stored else {})
        with reading(settings, "taking off corrections") as progress:
            train = without_corrections(train, stored, settings.wanted(), progress)
        if valid is not None:
            valid = without_corrections(valid, stored, settings.wanted())
        return _fit(model, train, valid, settings, folder, penalty, noted, on_start)


def _corrections_of(model: Potential) -> list[dict[str, Any]]:
    try:
        return stored_corrections(model)
    except CheckpointError as error:  # a sum of models, whose labels cannot be shared out
        raise ConfigError(f"This is not trained as one model: {error}") from error


def _fit(
    model: Potential,
    train: Sequence[Atoms],
    valid: Sequence[Atoms] | None,
    settings: Settings,
    folder: Path,
    penalty: Any,
    notes: dict[str, Any],
    on_start: Callable[[], None] | None,
) -> FitResult:
    from ase_nnp.training import sanity_checks
    from ase_nnp.training.loop import TrainingLoop
    from ase_nnp.training.run_callbacks import RunCallbacks, read_checkpoint

    fresh, was = is_fresh(model), present_provenance(model)
    model.__dict__.pop("_hash", None)  # it is about to change

    # Before normalization touches it: a second call must see the same start.
    weights = tensor_hash(model.state_dict())
    held_back = None
    if valid is not None:
        with reading(settings, "reading the validation set") as progress:
            held_back = look_at(valid, settings.wanted(), settings.losses.scalars, progress)
    with reading(settings) as progress:
        report = prepare(model, train, settings, progress, held_back)

    data = {
        "data": report.sha256,
        "validation": None if held_back is None else held_back.sha256,
        "penalty": None if penalty is None else "given",
    }
    identity = run_identity(settings, weights, model, data, notes)
    checkpoint = folder / "last.ckpt"
    state = read_checkpoint(checkpoint) if checkpoint.exists() else None
    if state is not None:
        check_same_run(state["identity"], identity, folder)
        check_model_file(folder, state["rows"], run_hash(identity))
    if on_start is not None:
        on_start()

    fabric = start_processes(settings)
    _keep_elements(model, report, held_back, fresh)
    loader, held, comparison = _loaders(model, train, valid, settings)
    compare_on = comparison if settings.keep_learnt and not fresh else None
    model.train()
    heads = None
    if settings.heads > 1:
        from ase_nnp.training.committee_heads import CommitteeHeads

        if "energy" not in settings.wanted():
            raise ConfigError(f"heads: {settings.heads} needs an energy term in the loss.")
        heads = CommitteeHeads(model.to(fabric.device), train, settings.heads, settings.seed)
    loop = TrainingLoop(model, settings, loader, fabric, penalty, heads)

    first_batch = loader.data.__getitems__(loader.sampler.plan()[0])
    without = sanity_checks.first_step(model, loop.loss, first_batch)
    if without:
        report.notes.append(f"no gradient reaches {', '.join(without)}")
        if fabric.world_size > 1:  # or the sum over processes would make a gradient of zeros
            for name in without:
                model.get_parameter(name).requires_grad_(False)
    started_from = {"provenance": was, "sha256": weights}
    provenance = {
        "source": "trained",
        "data_sha256": report.sha256,
        "run": run_hash(identity),
        **notes,
    }
    if not fresh:
        provenance["started_from"] = started_from
        # What it was is no longer what it is: neither the file nor this object poses as it.
        model.provenance = dict(provenance)

    stored = notes.get("corrections", [])
    callbacks = RunCallbacks(folder, held, identity, provenance, compare_on, stored)
    if state is not None:
        loop.go_to(state["position"])
        callbacks.restore(state)
    if fabric.is_global_zero:
        write_record(folder, settings, model, report, started_from, notes)
        if settings.progress:
            print("\n".join(report.lines() + callbacks.resumed(loop)), file=sys.stderr)
    try:
        loop.run(callbacks)
    finally:
        callbacks.close()
    fabric.barrier()

    # From the file, as everybody else will get it.
    best = load_model(folder / "model.nnp", device=model.device, dtype=str(model.dtype)[6:])
    committee = None
    if heads is not None:
        from ase_nnp.uncertainty.files import save_uncertainty
        from ase_nnp.uncertainty.fitting import attach

        # The heads are read-outs of the network, beneath the corrections of the file.
        alone = heads.committee(best.unwrapped)
        committee = attach(best, alone)
        if fabric.is_global_zero:
            save_uncertainty(alone, folder / "heads.uq", trained_with=len(train))
    return FitResult(
        best,
        folder,
        report,
        callbacks.rows,
        callbacks.best_epoch,
        callbacks.stopped,
        without,
        callbacks.untouched,
        committee,
    )


def _keep_elements(
    model: Potential, report: TrainingReport, held: HeldBack | None, fresh: bool
) -> None:
    """Let a model of fresh weights answer for what it is trained on alone."""
    from ase import Atoms
    from ase.data import atomic_numbers, chemical_symbols

    if fresh and model.elements is not None:
        # What was never trained must not answer: the family may have rows for all elements.
        model.elements = model.elements & {atomic_numbers[s] for s in report.elements}
    if held is None:
        return
    known = model.elements
    if fresh and known is not None and held.elements - known:
        names = ", ".join(chemical_symbols[z] for z in sorted(held.elements - known))
        raise UnsupportedElementError(
            f"The validation set has {names}, which no structure of the training set has: a model "
            "that begins from nothing answers for what it was trained on. Put some into the "
            "training set, or take them out of the validation set."
        )
    model.check_elements([Atoms(sorted(held.elements))])


def prepare(
    model: Potential,
    train: Sequence[Atoms],
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    held: HeldBack | None = None,
) -> TrainingReport:
    """Stream the labels once and set references and units; a trained model keeps its own.

    With ``references="auto"`` those of a trained model are shifted where that halves the error of
    the energy an atom (:func:`ase_nnp.training.references.adapt_references`).
    """
    # New references would undo what the weights have learned around the old ones.
    trained = settings.references == "auto" and not is_fresh(model)
    if trained:
        settings = settings.model_copy(update={"references": "keep"})
    report = fit_normalization(train, model, settings, progress, held)
    apply_normalization(model, report)
    if trained and "energy" in settings.wanted() and report.energy_kind == "total":
        shifted = adapt_references(model, train)
        if shifted is not None:
            report.notes += shifted.lines()
    return report


def _loaders(
    model: Potential,
    train: Sequence[Atoms],
    valid: Sequence[Atoms] | None,
    settings: Settings,
) -> tuple[GraphLoader, GraphLoader | None, GraphLoader]:
    """Batches to train on, to validate on, and to compare a trained start on."""
    from ase_nnp.training.graph_loader import AtomGraphDataset, GraphLoader

    def graphs(structures: Sequence[Atoms]) -> AtomGraphDataset:
        names = settings.wanted()
        return AtomGraphDataset(structures, model=model, labels=names, cache_mb=settings.cache_mb)

    def unshuffled(structures: Sequence[Atoms]) -> GraphLoader:
        return GraphLoader(graphs(structures), settings.batch.validation_atoms, shuffle=False)

    data, options = graphs(train), _batch_options(settings.batch)
    loader = GraphLoader(data, seed=settings.seed, workers=settings.workers, **options)
    if valid is None:
        return loader, None, unshuffled(train[:200])
    held = unshuffled(valid)
    return loader, held, held


def _batch_options(batch: Batch) -> dict[str, Any]:
    """Options of the loader; without a measure, batches of 5 structures."""
    given = [name for name in ("structures", "atoms", "edges") if getattr(batch, name)]
    if len(given) > 1:
        raise ConfigError(f"batch has {' and '.join(given)}; give one of them.")
    if given in ([], ["structures"]):
        return {"max_structures": batch.structures or 5}
    return {"budget": getattr(batch, given[0]), "unit": given[0]}
