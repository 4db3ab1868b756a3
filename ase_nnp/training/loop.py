"""The training loop: one step, one epoch, and the state from which a run goes on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ase_nnp.errors import TrainingError
from ase_nnp.models.potential import Potential
from ase_nnp.training import sanity_checks
from ase_nnp.training.ema import Average
from ase_nnp.training.graph_loader import GraphBatch, GraphLoader
from ase_nnp.training.losses import LossFunction, combine, mean_errors
from ase_nnp.training.optimizers import make_optimizers
from ase_nnp.training.schedules import RateSchedule
from ase_nnp.training.settings import Settings

if TYPE_CHECKING:
    from ase_nnp.training.committee_heads import CommitteeHeads
    from ase_nnp.training.run_callbacks import RunCallbacks

__all__ = ["TrainingLoop"]


class TrainingLoop:
    """A potential in training.

    Whatever happens at a step follows from seed and step number, so a run that goes on from
    :meth:`position` is the run that was never interrupted.

    Parameters
    ----------
    model
        The potential; its parameters with ``requires_grad`` are trained.
    settings
        Of the run.
    loader
        Batches of this process.
    fabric
        Lightning's Fabric, launched: the device, the precision and the other processes.
    penalty
        Further term of the loss, a function of the model.
    heads
        A committee of read-outs that is trained beside the model's own.
    """

    def __init__(
        self,
        model: Potential,
        settings: Settings,
        loader: GraphLoader,
        fabric: Any,
        penalty: Any = None,
        heads: CommitteeHeads | None = None,
    ) -> None:
        self.model, self.settings, self.loader = model.to(fabric.device), settings, loader
        self.fabric, self.penalty, self.heads = fabric, penalty, heads
        self.loss = LossFunction(settings.losses)
        self.average = Average(model, settings.ema)
        self.optimizers = make_optimizers(model, settings.optimizer)
        self.step, self.steps = 0, settings.epochs * len(loader)
        self.schedule = RateSchedule(settings.schedule, self.steps)
        self._rate: float = 0.0
        self._start_counting()

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return self.loader.epoch

    def run(self, callbacks: RunCallbacks) -> None:
        """Train until the epochs are done or ``callbacks`` stop the run."""
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        before = {name: p.detach().clone() for name, p in trained.items()}
        callbacks.on_start(self)

        while self.epoch < self.settings.epochs and not callbacks.stopped:
            for batch in self.loader:
                self.take_step(batch.to(self.fabric.device))
                callbacks.on_step_end(self)
                if callbacks.stopped:
                    return
            row = self._end_epoch(before)
            before = {}  # weights that moved once will move again
            callbacks.on_epoch_end(self, row)

    def take_step(self, batch: GraphBatch) -> None:
        """Move the weights down the gradient of the loss of a batch."""
        rate = self.settings.optimizer.lr * self.schedule.factor(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.zero_grad()

        # By step and rank: dropout is the same after a resume and differs between processes.
        torch.manual_seed(hash((self.settings.seed, self.step, self.fabric.global_rank)) % 2**63)

        loss = self._loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self._sum_gradients()

        # After the sum: clipped shares would not add up to the clipped whole.
        if self.settings.optimizer.clip is not None:
            moved = [p for p in self.model.parameters() if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(moved, self.settings.optimizer.clip)

        for optimizer in self.optimizers:
            optimizer.step()
        if self.heads is not None:
            factor = self.schedule.factor(self.step)
            self.heads.take_step(batch, factor, self.fabric.world_size)
        self.step += 1
        self.average.update(self.step)
        self._rate = max(self._rate, rate)

    def _loss_of(self, batch: GraphBatch) -> Tensor:
        """Return the share of this process in the loss of the global batch."""
        compute = self.model.compute if self.heads is None else self.heads.compute
        with self.fabric.autocast():
            parts = self.loss(compute(batch.graph, self.loss.names), batch)
        counts, world = parts.counts, self.fabric.world_size
        if world > 1:  # means are over the structures of all processes
            counts = counts.clone()
            torch.distributed.all_reduce(counts)
        weights = self.loss.weights(min(1.0, self.step / max(1, self.steps)))
        loss = combine(parts.sums, counts, weights)

        value = loss.detach()
        # Looking at a number waits for a GPU; an epoch's numbers are all looked at in the end.
        if value.device.type == "cpu" or self.step % 20 == 0:
            sanity_checks.check_finite(float(value), batch, parts.sums.detach(), self.loss.names)
        self._losses.append(value)
        self._errors += parts.errors
        self._counts += parts.error_counts
        if self.penalty is not None:
            loss = loss + self.penalty(self.model) / world
        return loss

    def _sum_gradients(self) -> None:
        """Add up what the processes have, in one message."""
        # Not torch's DistributedDataParallel: it sees forward() alone, and waits for parameters
        # that a batch without labels leaves without a gradient.
        if self.fabric.world_size == 1:
            return
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for p in trained:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        flat = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
        torch.distributed.all_reduce(flat)
        parts = flat.split([p.numel() for p in trained])
        for p, part in zip(trained, parts, strict=True):
            p.grad = part.view_as(p).to(p.dtype)

    # -- epochs -----------------------------------------------------------------------------

    def _start_counting(self) -> None:
        zeros: dict[str, Any] = {"dtype": torch.float64, "device": self.fabric.device}
        self._losses: list[Tensor] = []
        self._errors = torch.zeros(len(self.loss.names), **zeros)
        self._counts = torch.zeros(len(self.loss.names), **zeros)
        self._rate = 0.0

    def _end_epoch(self, before: dict[str, Tensor]) -> dict[str, Any]:
        """Return mean loss and errors of the epoch that is over."""
        losses = torch.stack(self._losses)
        if self.fabric.world_size > 1:
            for value in (losses, self._errors, self._counts):
                torch.distributed.all_reduce(value)
        values = losses.double().tolist()
        if not all(math.isfinite(v) for v in values):
            raise TrainingError("The loss became infinite or NaN. Lower optimizer.lr.")
        if before and self._rate > 0:
            sanity_checks.check_moving(before, self.model, (min(values), max(values)), self._rate)

        errors = mean_errors(self.loss.names, self._errors, self._counts)
        row = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self._rate,
            "loss": sum(values) / len(values),
            **{f"train_{name}_mae": value for name, value in errors.items()},
        }
        self._start_counting()
        return row

    def recent_errors(self) -> dict[str, float]:
        """Return mean absolute errors of the epoch so far."""
        return mean_errors(self.loss.names, self._errors, self._counts)

    # -- state ------------------------------------------------------------------------------

    def position(self) -> dict[str, Any]:
        """Return everything that :meth:`go_to` needs, as plain values and tensors."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "loader": self.loader.state_dict(),
            # A checkpoint in the middle of an epoch carries what the epoch's means need.
            "losses": [float(v) for v in self._losses],
            "errors": self._errors.tolist(),
            "counts": self._counts.tolist(),
            "rate": self._rate,
            **({} if self.heads is None else {"heads": self.heads.state_dict()}),
        }

    def go_to(self, state: dict[str, Any]) -> None:
        """Take up a saved position, before training starts."""
        device = self.fabric.device
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.schedule.load_state_dict(state["schedule"])
        self.loader.load_state_dict(state["loader"])

        if self.heads is not None:
            self.heads.load_state_dict(state["heads"])
        self.step = state["step"]
        self._losses = [
            torch.tensor(v, dtype=torch.float64, device=device) for v in state["losses"]
        ]
        self._errors = torch.tensor(state["errors"], dtype=torch.float64, device=device)
        self._counts = torch.tensor(state["counts"], dtype=torch.float64, device=device)
        self._rate = state["rate"]
