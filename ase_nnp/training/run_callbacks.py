"""What happens around the steps: validation, logs, checkpoints, progress, and the end of a run."""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ase_nnp.errors import CheckpointError
from ase_nnp.files.atomic import read_checked, whole_file, write_checked
from ase_nnp.models.corrections import with_stored_corrections
from ase_nnp.models.files import save_model
from ase_nnp.training import sanity_checks
from ase_nnp.training.finetune import plain
from ase_nnp.training.references import FOREIGN
from ase_nnp.training.validation import validate

if TYPE_CHECKING:
    from ase_nnp.training.graph_loader import GraphLoader
    from ase_nnp.training.loop import TrainingLoop

__all__ = ["RunCallbacks", "read_checkpoint"]

#: Of checkpoints; a number for each layout.
FORMAT = 2
#: What is worth showing, in thousandths, with its unit.
UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code.

    Raises
    ------
    CheckpointError
        It is damaged or no checkpoint of a training.
    """
    try:
        content = io.BytesIO(read_checked(path))

        # weights_only: a checkpoint is a pickle, and may be a stranger's.
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(state, dict) or "position" not in state:
        raise CheckpointError(f"{path} is no checkpoint of a training")
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of ase_nnp (format {state.get('format')}, not "
            f"{FORMAT}) and cannot go on here. model.nnp beside it can be read: name it as "
            "model.start of a new run."
        )
    return state


class RunCallbacks:
    """Validates, logs, saves and stops.

    Files in the folder: ``log.csv`` (a row an epoch), ``last.ckpt`` (to go on from), ``model.nnp``
    (the best weights by validation loss, the last ones without a validation set).

    Parameters
    ----------
    folder
        Where to.
    valid
        Batches to validate on, or None.
    identity
        What a checkpoint must have been made with.
    provenance
        Saved with the model.
    compare_on
        Batches on which a trained start is compared with what the first epoch made of it; None for
        fresh weights. Those of ``valid`` where there are any.
    corrections
        Saved with the model, which was trained without them.
    """

    def __init__(
        self,
        folder: Path,
        valid: GraphLoader | None,
        identity: dict[str, Any],
        provenance: dict[str, Any],
        compare_on: GraphLoader | None = None,
        corrections: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.folder, self.valid, self.compare_on = folder, valid, compare_on
        self.identity, self.provenance = identity, provenance
        self.corrections = corrections
        self.rows: list[dict[str, Any]] = []
        self.untouched: dict[str, float] = {}
        self.best, self.best_epoch = math.inf, 0
        self.stopped = ""
        self.started = time.monotonic()
        self._progress: Any = None

    # -- called by the loop -----------------------------------------------------------------

    def on_start(self, loop: TrainingLoop) -> None:
        """Measure a trained start, the best model so far; open the progress bar."""
        if loop.step:
            self._stop_early(loop)  # or a run that patience ended would do an epoch more each call
        if self.compare_on is not None and loop.step == 0:
            self.untouched = self._validate(loop, self.compare_on)
            if self.valid is not None:
                self.best = self.untouched["valid_loss"]
            if loop.fabric.is_global_zero:
                self._save_model(loop, {"epoch": 0, **self.untouched})
                if loop.settings.progress:
                    # Without a validation set on structures that it is about to learn.
                    where = "train" if self.valid is None else "valid"
                    words = self._words(_errors(self.untouched, "valid_"))
                    print(f"untouched model: MAE {where}: {words}", file=sys.stderr)
                    self._warn_of_another_zero()
        if not loop.fabric.is_global_zero:
            return
        if loop.settings.progress and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            bar = Progress(*columns, console=Console(stderr=True))
            bar.start()
            task = bar.add_task("training", total=loop.steps, completed=loop.step)
            self._progress = (bar, task)

    def _warn_of_another_zero(self) -> None:
        off = self.untouched.get("valid_energy_mae", 0.0)
        if off > FOREIGN:
            said = f"warning: energies are {off:.3g} eV an atom off, as of another functional or "
            said += "zero, which training does not remove: let `references` be auto or fit"
            print(said, file=sys.stderr)

    def on_step_end(self, loop: TrainingLoop) -> None:
        """Show errors; in the middle of long epochs save and look at the clock."""
        if self._progress is not None and loop.step % 10 == 0:
            bar, task = self._progress
            errors = self._words(loop.recent_errors())
            text = f"epoch {loop.epoch + 1}  {errors}"
            bar.update(task, completed=loop.step, description=text)
        every = loop.settings.checkpoint_every
        if every is not None and loop.step % every == 0:
            self._save(loop)
            self._look_at_the_clock(loop)

    def on_epoch_end(self, loop: TrainingLoop, row: dict[str, Any]) -> None:
        """Validate, log, save, and decide whether to go on."""
        settings, first = loop.settings, not self.rows and bool(self.untouched)
        last = loop.epoch >= settings.epochs
        if self.valid is not None and (last or first or loop.epoch % settings.validate_every == 0):
            row |= self._validate(loop, self.valid)
            loop.schedule.validated(row["valid_loss"])
        row["seconds"] = round(time.monotonic() - self.started, 2)
        self.rows.append(row)
        if loop.fabric.is_global_zero:
            self._log()
            if settings.tensorboard:
                self._write_tensorboard(row)
            self._tell(loop, row)

        if first and self.compare_on is not None:
            # Before the checkpoint is written: a second try must not go on from spoilt weights.
            now = row if self.valid is not None else self._validate(loop, self.compare_on)
            sanity_checks.check_start_kept(self.untouched, now)
        self._keep_best(loop, row)
        self._stop_early(loop)
        self._look_at_the_clock(loop)
        self._save(loop)

    def close(self) -> None:
        """Close the progress bar."""
        if self._progress is not None:
            self._progress[0].stop()
            self._progress = None

    # -- pieces -----------------------------------------------------------------------------

    def _validate(self, loop: TrainingLoop, batches: GraphLoader) -> dict[str, float]:
        fabric = loop.fabric
        return validate(loop.average.model, loop.loss, batches, fabric.device, fabric.world_size)

    def _keep_best(self, loop: TrainingLoop, row: dict[str, Any]) -> None:
        if self.valid is not None:
            if not row.get("valid_loss", math.inf) < self.best:
                return
            self.best = row["valid_loss"]
        self.best_epoch = loop.epoch
        if loop.fabric.is_global_zero:
            self._save_model(loop, row)

    def _save_model(self, loop: TrainingLoop, row: dict[str, Any]) -> None:
        errors = {k: v for k, v in row.items() if k.endswith(("_mae", "loss", "epoch"))}
        errors = {k: v if math.isfinite(v) else None for k, v in errors.items()}
        model = with_stored_corrections(plain(loop.average.model), self.corrections)
        save_model(model, self.folder / "model.nnp", **self.provenance, training=errors)

    def _stop_early(self, loop: TrainingLoop) -> None:
        patience = loop.settings.patience
        if patience is None or self.valid is None:
            return
        if loop.epoch - self.best_epoch >= patience:
            self.stopped = f"no better validation loss in {patience} epochs"

    def _look_at_the_clock(self, loop: TrainingLoop) -> None:
        minutes = loop.settings.minutes
        out = minutes is not None and time.monotonic() - self.started > 60 * minutes
        if loop.fabric.world_size > 1:  # all must agree
            out = bool(loop.fabric.broadcast(out))
        if not out:
            return
        self.stopped = f"{minutes:g} minutes are over"
        if loop.fabric.is_global_zero and not (self.folder / "model.nnp").exists():
            self._save_model(loop, {})

    def _save(self, loop: TrainingLoop) -> None:
        if not loop.fabric.is_global_zero:
            return
        state = {
            "format": FORMAT,
            "position": loop.position(),
            "identity": self.identity,
            "rows": self.rows,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "untouched": self.untouched,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_checked(self.folder / "last.ckpt", content.getvalue())

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint says of the past."""
        self.rows = list(state["rows"])
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.untouched = state["untouched"]

    def resumed(self, loop: TrainingLoop) -> list[str]:
        """Return what there is to say of a run that goes on; nothing for one that begins."""
        if not loop.step:
            return []
        if loop.epoch >= loop.settings.epochs:
            return [
                f"the run in {self.folder} is over: {loop.epoch} epochs are done and "
                f"{loop.settings.epochs} were asked for; more epochs go on from there"
            ]
        return [f"goes on in {self.folder} after step {loop.step} of {loop.steps}"]

    # -- logs -------------------------------------------------------------------------------

    def _log(self) -> None:
        # Written anew each time: later rows may have columns (validation) that the first had not.
        names = list(dict.fromkeys(name for r in self.rows for name in r))
        with whole_file(self.folder / "log.csv") as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def _write_tensorboard(self, row: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder / "tensorboard")) as board:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    board.add_scalar(name, value, row["step"])

    def _tell(self, loop: TrainingLoop, row: dict[str, Any]) -> None:
        if not loop.settings.progress:
            return
        line = f"epoch {row['epoch']}: loss {row['loss']:.4g}"
        line += f"; MAE train: {self._words(_errors(row, 'train_'))}"
        if valid := _errors(row, "valid_"):
            line += f"; valid: {self._words(valid)}"
        if self._progress is not None:
            self._progress[0].console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr)

    @staticmethod
    def _words(errors: dict[str, float]) -> str:
        parts = []
        for name, value in errors.items():
            unit = UNITS.get(name)
            shown = f"{1e3 * value:.1f} {unit}" if unit else f"{value:.4g}"
            parts.append(f"{name} {shown}")
        return ", ".join(parts)


def _errors(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return mean absolute errors of a row by label."""
    named = {k: v for k, v in row.items() if k.startswith(prefix) and k.endswith("_mae")}
    return {k.removeprefix(prefix).removesuffix("_mae"): v for k, v in named.items()}
