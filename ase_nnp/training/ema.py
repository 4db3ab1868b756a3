"""The exponential average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ase_nnp.potential import Potential

__all__ = ["Average"]


class Average:
    """A second model whose weights follow those of the first.

    ``mean <- d mean + (1 - d) weight`` with ``d = min(decay, step / (step + 10))``, so that the
    random start is soon forgotten. Buffers are copied.

    Parameters
    ----------
    model
        The model in training.
    decay
        0 for no average: :attr:`model` is then the model itself.
    """

    def __init__(self, model: Potential, decay: float) -> None:
        self.decay = decay
        self.source = model
        self.model = copy.deepcopy(model) if decay else model
        if decay:
            self.model.requires_grad_(False)
            self.model.eval()

    def update(self, step: int) -> None:
        """Take up the weights after ``step`` steps."""
        if not self.decay:
            return
        decay = min(self.decay, step / (step + 10))
        means, now = self._pairs()
        with torch.no_grad():
            torch._foreach_lerp_(means, now, 1.0 - decay)
            for mean, value in zip(self.model.buffers(), self.source.buffers(), strict=True):
                mean.copy_(value)

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        return (
            [p.detach() for p in self.model.parameters()],
            [p.detach() for p in self.source.parameters()],
        )
