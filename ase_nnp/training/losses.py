"""The loss of a batch, as sums and counts, so that any number of processes agree on the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ase_nnp.training.graph_loader import GraphBatch
from ase_nnp.training.settings import Loss, Losses

__all__ = ["LossFunction", "Parts", "weight_at"]


def weight_at(loss: Loss, progress: float) -> float:
    """Return the weight of a term at a fraction of the run from 0 to 1."""
    first, last = loss.weight, loss.final_weight
    if last is None or first == last:
        return first
    if loss.weight_schedule == "switch":
        return last if progress >= loss.switch_at else first
    if loss.weight_schedule == "geometric" and first > 0 and last > 0:
        return float(first * (last / first) ** progress)
    return first + (last - first) * progress


@dataclass
class Parts:
    """What one batch gives: per term the sum and count of its mean, and absolute errors.

    ``sums`` (T,) is differentiable; ``counts`` (T,), ``errors`` (T,) and ``error_counts`` (T,)
    are not. ``errors`` are sums of absolute errors: energy an atom in eV, force and stress
    components, scalars.
    """

    sums: Tensor
    counts: Tensor
    errors: Tensor
    error_counts: Tensor


class LossFunction:
    """Compares predictions with labels, term by term; a missing label (NaN) counts for nothing.

    Parameters
    ----------
    losses
        The terms.
    """

    def __init__(self, losses: Losses) -> None:
        terms: dict[str, Loss | None] = {
            "energy": losses.energy,
            "forces": losses.forces,
            "stress": losses.stress,
            **losses.scalars,
        }
        self.terms: dict[str, Loss] = {k: v for k, v in terms.items() if v is not None}

    @property
    def names(self) -> tuple[str, ...]:
        """Terms in the order of all arrays."""
        return tuple(self.terms)

    def weights(self, progress: float) -> list[float]:
        """Return the weights of the terms at a fraction of the run."""
        return [weight_at(term, progress) for term in self.terms.values()]

    def __call__(self, prediction: Mapping[str, Tensor], batch: GraphBatch) -> Parts:
        """Return sums and counts of every term."""
        terms = [
            _term(name, term, prediction[name], batch.targets[name], batch)
            for name, term in self.terms.items()
        ]
        sums, counts, errors, error_counts = (
            torch.stack([t[k].double() for t in terms]) for k in range(4)
        )
        return Parts(sums, counts, errors.detach(), error_counts)


def _term(
    name: str, term: Loss, predicted: Tensor, label: Tensor, batch: GraphBatch
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    known = ~torch.isnan(label)
    fixed = batch.graph.fixed
    if name == "forces" and getattr(term, "free_atoms_only", False) and fixed is not None:
        known = known & ~fixed[:, None]

    # A NaN that is only multiplied by 0 would still spoil the gradient.
    label = torch.where(known, label, 0.0)
    wide = predicted.double() if label.dtype == torch.float64 else predicted
    difference = torch.where(known, wide - label, torch.zeros((), dtype=wide.dtype))
    if name == "energy":  # reported an atom, whatever is minimized
        each = difference / batch.graph.atoms_per_structure()
        error = each.detach().abs().sum()
        difference = each if getattr(term, "per_atom", False) else difference
    else:
        error = difference.detach().abs().sum()

    rows = known.flatten(1)[:, 0] if known.ndim > 1 else known
    components = known.sum()
    if term.kind == "l2mae":
        # The norm has no slope at zero, where a masked row lies.
        flat = difference.flatten(1) if difference.ndim > 1 else difference[:, None]
        square = flat.square().sum(dim=1)
        length = torch.where(square > 0, square, 1.0).sqrt()
        return torch.where(square > 0, length, 0.0).sum(), rows.sum(), error, components
    return _rho(difference, term).sum(), components, error, components


def _rho(difference: Tensor, term: Loss) -> Tensor:
    if term.kind == "mse":
        return difference.square()
    if term.kind == "mae":
        return difference.abs()
    size, delta = difference.abs(), term.delta
    return torch.where(size <= delta, 0.5 * difference.square(), delta * (size - 0.5 * delta))


def combine(sums: Tensor, counts: Tensor, weights: list[float]) -> Tensor:
    """Return the weighted sum of means; a term without labels is left out."""
    # Counts of the global batch: the mean does not depend on how structures were dealt.
    factor = sums.new_tensor(weights) / counts.clamp(min=1)
    return (sums * factor).sum()


def mean_errors(names: tuple[str, ...], errors: Any, counts: Any) -> dict[str, float]:
    """Return mean absolute errors by term; NaN where there was no label."""
    pairs = zip(names, errors.tolist(), counts.tolist(), strict=True)
    return {n: (e / c if c else math.nan) for n, e, c in pairs}
