"""Checks that stop a training which would only waste time or spoil a model, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ase_nnp.errors import TrainingError
from ase_nnp.models.potential import Potential
from ase_nnp.training.graph_loader import GraphBatch
from ase_nnp.training.losses import LossFunction, combine

__all__ = ["check_finite", "check_moving", "check_start_kept", "first_step"]


def first_step(model: Potential, loss: LossFunction, batch: GraphBatch) -> list[str]:
    """Try one step without taking it; returns the parameters that no gradient reaches.

    Raises
    ------
    TrainingError
        The loss is exactly zero or not finite, or no parameter has a gradient.
    """
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise TrainingError("Every parameter is frozen: there is nothing to train.")

    model.train()
    batch = batch.to(model.device)

    # The trial must leave no trace: dropout of the first true step stays what the seed says.
    with torch.random.fork_rng(devices=[]):
        parts = loss(model.compute(batch.graph, loss.names), batch)
    total = combine(parts.sums, parts.counts, loss.weights(1.0))
    value = float(total.detach())
    check_finite(value, batch, parts.sums.detach(), loss.names)

    if value == 0.0 and bool((parts.counts > 0).any()):
        raise TrainingError(
            "The loss of the first batch is exactly 0: the labels are what the model gives already "
            "(all zero?), or all weights are zero. Look at them with `ase-nnp data stats`."
        )
    if not total.requires_grad:
        raise TrainingError("The loss does not depend on any parameter that is trained.")

    total.backward()
    without = [name for name, p in named if p.grad is None]
    moving = any(p.grad is not None and bool((p.grad != 0).any()) for _, p in named)
    for _, p in named:
        p.grad = None
    # Statistics that layers keep of what they saw must not count this batch twice.
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    if not moving:
        raise TrainingError("The gradient of the loss is zero in every parameter.")
    return without


def check_finite(value: float, batch: GraphBatch, sums: Tensor, names: tuple[str, ...]) -> None:
    """Raise TrainingError, naming terms and structures, where a loss is not finite."""
    if math.isfinite(value):
        return
    bad = [n for n, s in zip(names, sums.tolist(), strict=True) if not math.isfinite(s)]
    where = ", ".join(map(str, batch.index.tolist()[:10]))
    raise TrainingError(
        f"The loss is {value} ({', '.join(bad) or 'weights of the model'}) at structures {where} "
        "of the training set. Lower optimizer.lr, keep optimizer.clip, or look at these labels."
    )


def check_moving(
    before: Mapping[str, Tensor], model: Potential, losses: tuple[float, float], rate: float
) -> None:
    """Raise TrainingError where an epoch changed no weight at all.

    Parameters
    ----------
    before
        Trained parameters when the epoch began.
    losses
        Least and largest loss of a batch, for the message.
    rate
        The largest learning rate of the epoch.
    model
        The model in training.
    """
    now = dict(model.named_parameters())
    if any(not torch.equal(value, now[name]) for name, value in before.items()):
        return
    raise TrainingError(
        f"No weight changed in a whole epoch (loss {losses[0]:.3g} to {losses[1]:.3g}, learning "
        f"rate up to {rate:.3g}): the rate is too small for the precision, or gradients vanish."
    )


def check_start_kept(untouched: Mapping[str, float], trained: Mapping[str, float]) -> None:
    """Raise TrainingError where the first epoch made a trained model much worse than it was.

    Parameters
    ----------
    untouched, trained
        Validation before the first step and after the first epoch, as from
        :func:`ase_nnp.training.validation.validate`: ``valid_loss`` and errors by term.
    """
    terms = [key for key in untouched if key.endswith("_mae")]
    # Energies swing by more than their error in the first steps and come back; forces do not.
    judge = "valid_forces_mae" if "valid_forces_mae" in terms else terms[0]
    before, after = untouched[judge], trained[judge]
    if trained["valid_loss"] > untouched["valid_loss"] and after > 2 * before:
        raise TrainingError(
            "The first epoch made the model much worse than it was untouched: mean absolute error "
            f"of {judge[6:-4]} {before:.4g} -> {after:.4g} (eV, Å). What it had learned is "
            "being lost: lower optimizer.lr, replay old data (finetune.replay) or keep the weights "
            "close (finetune.ewc). Set keep_learnt to false to train on all the same."
        )
