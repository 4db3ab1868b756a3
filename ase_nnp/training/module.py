"""The Lightning module: one step, its learning rate and weights, and the state to go on from."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor

from ase_nnp.errors import TrainingError
from ase_nnp.models.potential import Potential
from ase_nnp.training import sanity_checks
from ase_nnp.training.data import EpochBatches
from ase_nnp.training.ema import Average
from ase_nnp.training.loading import GraphBatch
from ase_nnp.training.losses import LossFunction, combine, mean_errors
from ase_nnp.training.optimizers import make_optimizer, rate_factors
from ase_nnp.training.schedules import RateSchedule
from ase_nnp.training.settings import Settings

__all__ = ["TrainingModule"]


class TrainingModule(lightning.LightningModule):
    """A potential in training.

    Whatever happens at a step follows from seed and step number, so a run that goes on from
    :meth:`position` is the run that was never interrupted.

    Parameters
    ----------
    model
        The potential; its parameters with ``requires_grad`` are trained.
    settings
        Of the run.
    train
        Batches of this process.
    steps
        Of the whole run, for the schedules.
    penalty
        Further term of the loss, a function of the model.
    """

    def __init__(
        self,
        model: Potential,
        settings: Settings,
        train: EpochBatches,
        steps: int,
        penalty: Any = None,
    ) -> None:
        super().__init__()
        self.model, self.settings, self.batches = model, settings, train
        self.loss = LossFunction(settings.losses)
        self.schedule = RateSchedule(settings.schedule, steps)
        self.steps, self.penalty = steps, penalty
        # In a tuple, so that it is no submodule: nothing moves, wraps or switches it.
        self._average = (Average(model, settings.ema),)
        self.step, self.epoch, self.done = 0, 0, 0
        self.optimizer_state: dict[str, Any] | None = None
        self.after_step: Any = None
        self._losses: list[Tensor] = []
        self._errors: Tensor = torch.zeros(0)
        self._counts: Tensor = torch.zeros(0)
        self._rate: float = 0.0
        self._before: dict[str, Tensor] = {}
        self._reset()

    @property
    def average(self) -> Average:
        """The averaged weights."""
        return self._average[0]

    # -- one step ---------------------------------------------------------------------------

    def transfer_batch_to_device(
        self, batch: GraphBatch, device: torch.device, dataloader_idx: int
    ) -> GraphBatch:
        """Move a batch, where it is not there already."""
        return batch if device.type == "cpu" else batch.to(device)

    def on_train_batch_start(self, batch: GraphBatch, batch_idx: int) -> None:
        """Set rates and the random generator from the number of the step."""
        factor = self.schedule.factor(self.step)
        for group in self._plain().param_groups:
            group["lr"] = self.settings.optimizer.lr * factor * group["factor"]
        self._rate = max(self._rate, self.settings.optimizer.lr * factor)
        torch.manual_seed(hash((self.settings.seed, self.step, self.global_rank)) % 2**63)

    def training_step(self, batch: GraphBatch, batch_idx: int) -> Tensor:
        """Return the loss of the global batch, as this process sees it."""
        parts = self.loss(self.model.compute(batch.graph, self.loss.names), batch)
        counts, world = parts.counts, self.trainer.world_size
        if world > 1:  # gradients will be averaged, so every mean is over all processes
            counts = counts.clone()
            torch.distributed.all_reduce(counts)
        weights = self.loss.weights(min(1.0, self.step / max(1, self.steps)))
        loss = combine(parts.sums, counts, weights) * world
        value = loss.detach()
        if self.device.type == "cpu" or self.step % 20 == 0:
            sanity_checks.check_finite(float(value), batch, parts.sums.detach(), self.loss.names)
        self._losses.append(value)
        self._errors += parts.errors
        self._counts += parts.error_counts
        if self.penalty is not None:
            loss = loss + self.penalty(self.model)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Bound the norm of the whole gradient."""
        if self.settings.optimizer.clip is not None:
            trained = [p for p in self.model.parameters() if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(trained, self.settings.optimizer.clip)

    def on_train_batch_end(self, outputs: Any, batch: GraphBatch, batch_idx: int) -> None:
        """Count the step and let the average follow."""
        self.step += 1
        self.done += 1
        self.average.update(self.step)
        if self.after_step is not None:
            self.after_step(self.trainer, self)

    # -- epochs -----------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Bring the average to the device; remember the weights for the first guard."""
        self.average.to(self.device)
        self._errors = self._errors.to(self.device)
        self._counts = self._counts.to(self.device)
        self._before = {
            name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad
        }

    def _reset(self) -> None:
        terms = len(self.loss.names)
        self._losses = []
        self._errors = torch.zeros(terms, dtype=torch.float64)
        self._counts = torch.zeros(terms, dtype=torch.float64)
        self._rate, self._before = 0.0, {}

    def end_epoch(self) -> dict[str, Any]:
        """Close an epoch: returns its mean loss and errors, and makes ready for the next."""
        device = self.device
        losses = torch.stack(self._losses) if self._losses else torch.zeros(1, device=device)
        if self.trainer.world_size > 1:
            for value in (losses, self._errors, self._counts):
                torch.distributed.all_reduce(value)
            losses /= self.trainer.world_size
        values = losses.double().tolist()
        if not all(math.isfinite(v) for v in values):
            raise TrainingError("The loss became infinite or NaN. Lower optimizer.lr.")
        if self._before and self._rate > 0:
            sanity_checks.check_moving(
                self._before, self.model, (min(values), max(values)), self._rate
            )
        row = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self._rate,
            "loss": sum(values) / len(values),
            **{
                f"train_{name}_mae": value
                for name, value in mean_errors(self.loss.names, self._errors, self._counts).items()
            },
        }
        self._reset()
        self._errors, self._counts = self._errors.to(device), self._counts.to(device)
        self.epoch, self.done = self.epoch + 1, 0
        self.batches.at(self.epoch)
        return row

    def recent_errors(self) -> dict[str, float]:
        """Return mean absolute errors of the epoch so far."""
        return mean_errors(self.loss.names, self._errors, self._counts)

    # -- optimiser and state ----------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser, in the state to go on from."""
        optimizer = make_optimizer(self.model, self.settings.optimizer)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
            for group, factor in zip(
                optimizer.param_groups,
                rate_factors(self.model, self.settings.optimizer),
                strict=True,
            ):
                group["factor"] = factor
        return optimizer

    def _plain(self) -> torch.optim.Optimizer:
        found = self.optimizers(use_pl_optimizer=False)
        assert isinstance(found, torch.optim.Optimizer)
        return found

    def position(self) -> dict[str, Any]:
        """Return everything that :meth:`go_to` needs, as plain values and tensors."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._plain().state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "done": self.done,
            "losses": [float(v) for v in self._losses],
            "errors": self._errors.tolist(),
            "counts": self._counts.tolist(),
            "rate": self._rate,
        }

    def go_to(self, state: dict[str, Any]) -> None:
        """Take up a saved position, before training starts."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer_state = state["optimizer"]
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.epoch, self.done = state["step"], state["epoch"], state["done"]
        self._losses = [torch.tensor(v, dtype=torch.float64) for v in state["losses"]]
        self._errors = torch.tensor(state["errors"], dtype=torch.float64)
        self._counts = torch.tensor(state["counts"], dtype=torch.float64)
        self._rate = state["rate"]
        self.batches.at(self.epoch, self.done)
