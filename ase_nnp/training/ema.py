"""The exponential average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ase_nnp.models.potential import Potential

__all__ = ["Average"]


#: Parameters with at most so many numbers are averaged in float64.
SMALL = 4096


class Average:
    """A second model whose weights follow those of the first.

    ``mean <- d mean + (1 - d) weight`` with ``d = min(decay, step / (step + 10))``, so that the
    random start is soon forgotten. Buffers are copied. Means of small parameters are kept in
    float64: among them are reference energies, and in float32 the mean of one of 1000 eV takes no
    step below 3e-5 eV, which leaves it up to 0.03 eV behind with a decay of 0.999.

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
        self._means: dict[str, Tensor] = {}
        if decay:
            self.model.requires_grad_(False)
            self.model.eval()
            self._means = {
                name: p.detach().double()
                for name, p in self.model.named_parameters()
                if p.numel() <= SMALL and p.dtype != torch.float64
            }

    def update(self, step: int) -> None:
        """Take up the weights after ``step`` steps."""
        if not self.decay:
            return
        # The first steps move far, and the random start must not stay in the mean.
        new = 1.0 - min(self.decay, step / (step + 10))
        pairs = zip(self.model.named_parameters(), self.source.parameters(), strict=True)
        small: list[tuple[Tensor, Tensor]] = []
        large: list[tuple[Tensor, Tensor]] = []
        for (name, mean), value in pairs:
            pair = (mean.detach(), value.detach())
            (small if name in self._means else large).append(pair)

        with torch.no_grad():
            if small:
                shown, now = zip(*small, strict=True)
                means = list(self._means.values())
                torch._foreach_lerp_(means, [v.double() for v in now], new)
                torch._foreach_copy_(list(shown), means)
            if large:
                shown, now = zip(*large, strict=True)
                torch._foreach_lerp_(list(shown), list(now), new)
            for kept, held in zip(self.model.buffers(), self.source.buffers(), strict=True):
                kept.copy_(held)

    def to(self, device: torch.device) -> None:
        """Move the means."""
        if self.decay:
            self.model.to(device)
            self._means = {name: mean.to(device) for name, mean in self._means.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and the exact means; empty without an average."""
        if not self.decay:
            return {}
        return {"model": self.model.state_dict(), "means": self._means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        if not self.decay:
            return
        self.model.load_state_dict(state["model"])
        for name, mean in self._means.items():
            mean.copy_(state["means"][name])
