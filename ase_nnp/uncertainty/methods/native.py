"""Uncertainties that a model states itself, under the canonical names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.base import UncertainPotential

__all__ = ["NativeUncertainty", "confidence_to_std", "to_canonical"]


def confidence_to_std(confidence: Tensor, largest: float = 0.4) -> Tensor:
    """Force std (N, 3) from class probabilities or logits (N, bins) of the force error.

    Bins share ``[0, largest]`` eV/Angstrom evenly; the expected error of an atom is the mean of
    the bins' centers, and its component std that over sqrt(3). Errors beyond the last bin were
    not told apart in training: large values are lower bounds.
    """
    rows = confidence.double()
    positive = bool((rows >= 0).all()) and torch.allclose(
        rows.sum(dim=1), torch.ones(len(rows), dtype=rows.dtype, device=rows.device), atol=1e-3
    )
    # Some models give logits, others have taken the softmax themselves.
    chance = rows if positive else torch.softmax(rows, dim=1)
    width = largest / rows.shape[1]
    centers = width * (torch.arange(rows.shape[1], device=rows.device) + 0.5)
    size = (chance * centers).sum(dim=1, keepdim=True) / 3**0.5
    return size.expand(-1, 3).to(confidence.dtype)


def _root(value: Tensor) -> Tensor:
    return value.clamp(min=0).sqrt()


def _log_variance(value: Tensor) -> Tensor:
    return (value / 2).exp()


def _spread(value: Tensor) -> Tensor:
    return value.std(dim=-1)


_SAME: Callable[[Tensor], Tensor] = lambda value: value  # noqa: E731

#: What a model may call it, what it is here, and how one becomes the other.
NAMES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "energy_std": ("energy_std", _SAME),
    "energy_uncertainty": ("energy_std", _SAME),
    "energy_var": ("energy_std", _root),
    "energy_variance": ("energy_std", _root),
    "energy_log_var": ("energy_std", _log_variance),
    "energy_ensemble": ("energy_std", _spread),  # (B, M)
    "forces_std": ("forces_std", _SAME),
    "forces_uncertainty": ("forces_std", _SAME),
    "forces_var": ("forces_std", _root),
    "forces_variance": ("forces_std", _root),
    "forces_log_var": ("forces_std", _log_variance),
    "forces_ensemble": ("forces_std", _spread),  # (N, 3, M)
    "confidence": ("forces_std", confidence_to_std),
}


def to_canonical(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stds under canonical names from whatever a model calls them; the first name found wins."""
    stds: dict[str, Tensor] = {}
    for theirs, (ours, convert) in NAMES.items():
        if theirs in outputs and ours not in stds:
            value = convert(outputs[theirs])
            if ours == "forces_std" and value.ndim == 1:
                value = value[:, None].expand(-1, 3)
            stds[ours] = value
    return stds


class NativeUncertainty(UncertainPotential):
    """Mean-variance heads, confidence heads and built-in committees of a model."""

    method = "native"

    def __init__(self, members: Sequence[Potential], **options: Any) -> None:
        super().__init__(members, **options)
        theirs = [k for k in self.base.outputs if k in NAMES]
        if not theirs:
            raise UncertaintyError(
                f"{self.base.family or type(self.base).__name__} states no uncertainty among its "
                f"outputs ({', '.join(self.base.outputs)})."
            )
        ours = {NAMES[k][0] for k in theirs}
        norm = ["forces_std_norm"] if "forces_std" in ours else []
        self.outputs = (*(k for k in self.base.outputs if k not in ours), *sorted(ours), *norm)

    def spread(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """The model's outputs with its stds renamed."""
        result = dict(self.base.compute(graph, self.base.outputs))
        return result | to_canonical(result)
