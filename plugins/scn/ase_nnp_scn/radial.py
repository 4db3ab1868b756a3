"""Functions of the distance that describe an edge."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError

KINDS = ("gaussian", "sigmoid", "linearsigmoid", "silu")


class DistanceBasis(nn.Module):
    """``size`` functions of the distance, centered evenly from 0 to the cutoff; no envelope.

    ``gaussian``: ``exp(-(d - o)^2 / 2 s^2)``; ``sigmoid`` and ``linearsigmoid``: logistic steps of
    ``(d - o) / s'``, the latter plus a thousandth of its argument; ``silu``: a learned layer.
    """

    offset: Tensor

    def __init__(self, kind: str, cutoff: float, size: int, scale: float) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"distance_function must be one of {', '.join(KINDS)}, not {kind!r}.")

        self.kind, self.size = kind, size
        if kind == "silu":
            self.fc1 = nn.Linear(2, size)
            return

        if size < 2:
            raise ConfigError(
                f"cutoff {cutoff} and distance_resolution give {size} distance functions; "
                "at least 2 are needed."
            )

        offset = torch.linspace(0.0, cutoff, size, dtype=torch.float32)
        self.register_buffer("offset", offset)
        # In float32 like the offsets, which are part of the published weights.
        spacing = offset[1] - offset[0]
        self.factor = float(scale * spacing if kind == "gaussian" else scale / spacing)

    def forward(self, distance: Tensor) -> Tensor:
        """Return (..., size) for distances (...) in Angstrom."""
        distance = distance[..., None]
        if self.kind == "silu":
            both = torch.cat([distance, torch.ones_like(distance)], dim=-1)
            return nn.functional.silu(self.fc1(both))
        apart = distance - self.offset
        if self.kind == "gaussian":
            values = torch.exp(-0.5 / self.factor**2 * apart.square())
            # Subnormal numbers count for nothing and make the products that follow slow.
            return nn.functional.threshold(values, torch.finfo(values.dtype).tiny, 0.0)
        steps = apart * self.factor
        step = torch.sigmoid(steps)
        return step + 0.001 * steps if self.kind == "linearsigmoid" else step
