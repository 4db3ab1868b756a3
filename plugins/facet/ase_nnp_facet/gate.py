"""The gate of SevenNet-style variants: scalars decide how much of each higher channel passes."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from .irreps import Blocks, Irreps
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

    def forward(self, blocks: Blocks) -> Blocks:
        """Map blocks (N, 2 l + 1, M_l) of ``inputs`` to ``outputs``."""
        scalars = SILU * F.silu(blocks[0])
        first, *gates = scalars.split(self.outputs.mults[:1] + self._gated(), dim=2)
        pairs = zip(self.outputs.degrees[1:], gates, strict=True)
        return {0: first, **{degree: blocks[degree] * gate for degree, gate in pairs}}

    def _gated(self) -> tuple[int, ...]:
        return tuple(self.outputs.mults[k] for k in self.outputs.degrees[1:])
