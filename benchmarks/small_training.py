"""One step of training and an average of weights: what the scripts beside this one share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def set_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate, times what each group of parameters asks for."""
    for group in (g for optimizer in optimizers for g in optimizer.param_groups):
        group["lr"] = group["factor"] * rate


def take_step(
    model, optimizers, graph, energy: Tensor, forces: Tensor, weight: float, compute=None
) -> float:
    """Learn from one batch: squares of force components, and of energies per atom times weight.

    ``compute`` stands in for the model's own, for what is trained beside it.
    """
    out = (compute or model.compute)(graph, ("energy", "forces"))
    missed = (out["energy"] - energy) / graph.atoms_per_structure()
    loss = (out["forces"] - forces).square().mean() + weight * missed.square().mean()
    model.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def follow(averaged, model, step: int, decay: float) -> None:
    """Move averaged weights towards the model's; the first steps count less than later ones."""
    weight = 1 - min(decay, step / (step + 10))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), weight)
