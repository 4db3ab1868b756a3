"""Errors of a model over a loader, pooled over batches and processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ase_nnp.models.potential import Potential
from ase_nnp.training.graph_loader import GraphBatch
from ase_nnp.training.losses import LossFunction, combine, mean_errors

__all__ = ["validate"]


def validate(
    model: Potential,
    loss: LossFunction,
    batches: Iterable[GraphBatch],
    device: torch.device,
    world: int = 1,
) -> dict[str, float]:
    """Return ``valid_loss``, with the weights of the end of the run, and mean absolute errors.

    Parameters
    ----------
    model
        Put into evaluation mode, and back as it was.
    loss
        The terms.
    batches
        Those of this process.
    device
        Where to compute.
    world
        Processes that pool their sums.
    """
    training = model.training
    model.eval()
    # Sums and counts are pooled, not means: batches and processes differ in size.
    totals = torch.zeros(4, len(loss.names), dtype=torch.float64, device=device)
    with torch.no_grad():
        for batch in batches:
            parts = loss(model.compute(batch.to(device).graph, loss.names), batch.to(device))
            totals += torch.stack([parts.sums, parts.counts, parts.errors, parts.error_counts])
    if training:
        model.train()
    if world > 1:
        torch.distributed.all_reduce(totals)

    row: dict[str, Any] = {"valid_loss": float(combine(totals[0], totals[1], loss.weights(1.0)))}
    errors = mean_errors(loss.names, totals[2], totals[3])
    return row | {f"valid_{name}_mae": value for name, value in errors.items()}
