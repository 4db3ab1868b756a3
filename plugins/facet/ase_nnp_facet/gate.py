"""The gate of SevenNet-style variants: scalars decide how much of each higher channel passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .irreps import Irreps
from .layers import Names

__all__ = ["Gate"]

#: 1 / rms of silu under a standard normal.
SILU = 1.676532


class Gate(nn.Module):
    """``silu`` for the scalars, and for one more scalar per higher channel, which multiplies it."""

    def __init__(self, outputs: Irreps) -> None:
        super().__init__()
        self.outputs = outputs
        self.inputs = Irreps((outputs.channels, *outputs.mults[1:]))

    def names(self) -> Names:
        """There are no weights."""
        yield from ()

    def forward(self, h: Tensor) -> Tensor:
        """Map flat rows of ``inputs`` to ``outputs``."""
        blocks = self.inputs.split(h)
        scalars = SILU * F.silu(blocks[0])
        first, *gates = scalars.split(self.outputs.mults[:1] + self._gated(), dim=1)
        parts = [first.squeeze(2)]
        for degree, gate in zip(self.outputs.degrees[1:], gates, strict=True):
            parts.append((blocks[degree] * gate).flatten(1))
        return torch.cat(parts, dim=1)

    def _gated(self) -> tuple[int, ...]:
        return tuple(self.outputs.mults[k] for k in self.outputs.degrees[1:])
