"""What happens around the steps: validation, logs, checkpoints, progress, and the end of a run."""

from __future__ import annotations

import csv
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch

from ase_nnp.errors import CheckpointError
from ase_nnp.files.atomic import whole_file
from ase_nnp.models.files import save_model
from ase_nnp.training.finetune import plain
from ase_nnp.training.validation import validate

if TYPE_CHECKING:
    from ase_nnp.training.data import EpochBatches
    from ase_nnp.training.module import TrainingModule

__all__ = ["Course", "read_checkpoint"]

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
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(state, dict) or "position" not in state:
        raise CheckpointError(f"{path} is no checkpoint of a training")
    return state


class Course(lightning.Callback):
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
    """

    def __init__(
        self,
        folder: Path,
        valid: EpochBatches | None,
        identity: dict[str, Any],
        provenance: dict[str, Any],
    ) -> None:
        self.folder, self.valid = folder, valid
        self.identity, self.provenance = identity, provenance
        self.rows: list[dict[str, Any]] = []
        self.best, self.best_epoch = math.inf, 0
        self.stopped = ""
        self.started = time.monotonic()
        self._show: Any = None
        self._due = False

    # -- hooks of Lightning -----------------------------------------------------------------

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Open the progress bar."""
        settings = module.settings
        if trainer.is_global_zero and settings.progress and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            bar = Progress(*columns, console=Console(stderr=True))
            bar.start()
            self._show = (bar, bar.add_task("training", total=module.steps, completed=module.step))

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show errors; in the middle of long epochs save and look at the clock."""
        # Called before the module counts the step.
        step = module.step + 1
        if self._show is not None and step % 10 == 0:
            bar, task = self._show
            told = self._words(module.recent_errors(), "")
            bar.update(task, completed=step, description=f"epoch {module.epoch + 1}  {told}")
        every = module.settings.checkpoint_every
        self._due = every is not None and step % every == 0

    def after_step(self, trainer: Any, module: TrainingModule) -> None:
        """Save in the middle of an epoch, when that is due."""
        if self._due:
            self._due = False
            self._save(trainer, module)
            self._look_at_the_clock(trainer, module)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Validate, log, save, and decide whether to go on."""
        if trainer.should_stop and module.done and self.stopped:
            return  # stopped within the epoch, which is not over
        row = module.end_epoch()
        settings = module.settings
        last = module.epoch >= settings.epochs
        if self.valid is not None and (last or module.epoch % settings.validate_every == 0):
            row |= validate(
                module.average.model, module.loss, self.valid, module.device, trainer.world_size
            )
            module.schedule.validated(row["valid_loss"])
        row["seconds"] = round(time.monotonic() - self.started, 2)
        self.rows.append(row)
        self._keep_best(trainer, module, row)
        self._early(trainer, module)
        self._look_at_the_clock(trainer, module)
        self._save(trainer, module)
        if trainer.is_global_zero:
            self._log(row)
            if settings.tensorboard:
                self._board(row)
            self._tell(module, row)

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        """Close the progress bar."""
        if self._show is not None:
            self._show[0].stop()
            self._show = None

    # -- pieces -----------------------------------------------------------------------------

    def _keep_best(self, trainer: Any, module: TrainingModule, row: dict[str, Any]) -> None:
        if self.valid is not None:
            if not row.get("valid_loss", math.inf) < self.best:
                return
            self.best = row["valid_loss"]
        self.best_epoch = module.epoch
        if trainer.is_global_zero:
            errors = {k: v for k, v in row.items() if k.endswith(("_mae", "loss", "epoch"))}
            errors = {k: v if math.isfinite(v) else None for k, v in errors.items()}
            model = module.average.model
            save_model(plain(model), self.folder / "model.nnp", **self.provenance, training=errors)

    def _early(self, trainer: Any, module: TrainingModule) -> None:
        patience = module.settings.patience
        if patience is None or self.valid is None:
            return
        if module.epoch - self.best_epoch >= patience:
            self.stopped = f"no better validation loss in {patience} epochs"
            trainer.should_stop = True

    def _look_at_the_clock(self, trainer: Any, module: TrainingModule) -> None:
        minutes = module.settings.minutes
        out = minutes is not None and time.monotonic() - self.started > 60 * minutes
        if trainer.world_size > 1:  # all must agree
            out = bool(trainer.strategy.broadcast(out))
        if out and trainer.is_global_zero and not (self.folder / "model.nnp").exists():
            save_model(plain(module.average.model), self.folder / "model.nnp", **self.provenance)
        if out:
            self.stopped = f"{minutes:g} minutes are over"
            trainer.should_stop = True

    def _save(self, trainer: Any, module: TrainingModule) -> None:
        if not trainer.is_global_zero:
            return
        state = {
            "position": module.position(),
            "identity": self.identity,
            "rows": self.rows,
            "best": self.best,
            "best_epoch": self.best_epoch,
        }
        with whole_file(self.folder / "last.ckpt") as beside:
            torch.save(state, beside)

    def say(self, lines: list[str], settings: Any) -> None:
        """Print lines to stderr, unless progress is off."""
        if settings.progress:
            print("\n".join(lines), file=sys.stderr)

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint says of the past."""
        self.rows = list(state["rows"])
        self.best, self.best_epoch = state["best"], state["best_epoch"]

    def _log(self, row: dict[str, Any]) -> None:
        names = list(dict.fromkeys(name for r in self.rows for name in r))
        with whole_file(self.folder / "log.csv") as beside, open(beside, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def _board(self, row: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder / "tensorboard")) as board:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    board.add_scalar(name, value, row["step"])

    def _tell(self, module: TrainingModule, row: dict[str, Any]) -> None:
        if not module.settings.progress:
            return
        train = {k[6:-4]: v for k, v in row.items() if k.startswith("train_")}
        valid = {k[6:-4]: v for k, v in row.items() if k.startswith("valid_") and k != "valid_loss"}
        line = f"epoch {row['epoch']}: loss {row['loss']:.4g}  {self._words(train, 'train ')}"
        if valid:
            line += f"  {self._words(valid, 'valid ')}"
        if self._show is not None:
            self._show[0].console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr)

    @staticmethod
    def _words(errors: dict[str, float], prefix: str) -> str:
        parts = []
        for name, value in errors.items():
            unit = UNITS.get(name)
            shown = f"{1e3 * value:.1f} {unit}" if unit else f"{value:.4g}"
            parts.append(f"{name} {shown}")
        return prefix + ", ".join(parts)
