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
        self.gates = outputs.channels - outputs.mults[0]
        self.inputs = Irreps((outputs.mults[0] + self.gates, *outputs.mults[1:]))

    def names(self) -> Names:
        """There are no weights."""
        yield from ()

    def forward(self, h: Tensor) -> Tensor:
        """Map flat rows of ``inputs`` to ``outputs``."""
        count = self.outputs.mults[0]
        scalars = SILU * F.silu(h[:, : count + self.gates])
        parts, start = [scalars[:, :count]], count
        for degree in self.outputs.degrees[1:]:
            block = h[:, self.inputs.slice(degree)].unflatten(1, (-1, 2 * degree + 1))
            stop = start + self.outputs.mults[degree]
            parts.append((block * scalars[:, start:stop, None]).flatten(1))
            start = stop
        return torch.cat(parts, dim=1)
