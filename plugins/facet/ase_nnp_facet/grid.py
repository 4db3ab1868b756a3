"""Functions on the sphere sampled at points: quadratures, transforms, and the MLP at each point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ase_nnp.errors import ConfigError

from .angular import Harmonics
from .irreps import Blocks, Irreps
from .layers import MLP, EquivariantLinear, Names

__all__ = ["BLOCK", "ScalarMixer", "SphereMixer", "in_blocks", "quadrature"]

#: Values on the grid (atoms x points x channels) held at once; more are done in blocks.
BLOCK = 2_000_000


def quadrature(options: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return points (P, 3) on the unit sphere and weights (P,) that sum to one, float64.

    ``soft`` and ``gausslegendre`` are products of ``res_beta`` latitudes and ``res_alpha``
    longitudes around the second axis, the first with the weights of Kostelec and Rockmore (2008).
    ``lebedev`` integrates polynomials up to ``degree`` exactly with the fewest points, treats the
    three axes alike and maps onto itself under inversion.
    """
    kind = options["quadrature"]
    if kind == "lebedev":
        from scipy.integrate import lebedev_rule

        try:
            points, weights = lebedev_rule(int(options["degree"]))
        except NotImplementedError as error:
            raise ConfigError(f"There is no Lebedev grid of degree {options['degree']}.") from error
        return np.ascontiguousarray(points.T), weights / weights.sum()
    beta, alpha = int(options["res_beta"]), int(options["res_alpha"])
    if kind == "soft":
        if beta % 2:
            raise ConfigError(f"quadrature 'soft' needs an even res_beta, not {beta}.")
        odd = 2 * np.arange(beta) + 1
        y = -np.cos(odd * math.pi / (2 * beta))
        k = np.arange(beta // 2)
        sines = np.sin(np.outer(odd, 2 * k + 1) * math.pi / (2 * beta)) / (2 * k + 1)
        latitude = 2.0 / beta * np.sin(math.pi * odd / (2 * beta)) * sines.sum(axis=1)
    elif kind == "gausslegendre":
        y, latitude = np.polynomial.legendre.leggauss(beta)
        latitude = latitude / 2.0
    else:
        raise ConfigError(
            f"s2_grid.quadrature must be lebedev, soft or gausslegendre, not {kind!r}."
        )
    angle = 2.0 * math.pi * np.arange(alpha) / alpha
    ring = np.sqrt(1.0 - y * y)[:, None]
    height = np.broadcast_to(y[:, None], (beta, alpha))
    grid = np.stack([ring * np.sin(angle), height, ring * np.cos(angle)], axis=-1)
    return grid.reshape(-1, 3), np.repeat(latitude / alpha, alpha)


def in_blocks(function: Callable[..., Tensor], size: int | None, *rows: Tensor) -> Tensor:
    """Apply ``function`` to ``size`` rows at a time and forget what it computes on its way.

    The backward pass computes it again. With ``size`` None it is a plain call.
    """
    if size is None or rows[0].shape[0] <= size:
        return function(*rows)
    parts = zip(*(r.split(size) for r in rows), strict=True)
    return torch.cat(
        [checkpoint(function, *p, use_reentrant=False, preserve_rng_state=False) for p in parts]
    )


class SphereMixer(nn.Module):
    """Channels become functions on the sphere; one small MLP mixes them at every point.

    The nonlinearity makes degrees above those kept; what of them the grid confuses with lower ones
    is the layer's only departure from exact rotation symmetry, and shrinks with the grid.
    """

    to_grid: Tensor
    from_grid: Tensor

    def __init__(self, irreps: Irreps, grid: Mapping[str, Any], mlp: Mapping[str, Any]) -> None:
        super().__init__()
        self.irreps = irreps
        self.width = max(irreps.mults[1:])
        self.heads = int(mlp["num_heads"])
        if self.width % self.heads:
            raise ConfigError(f"num_heads={self.heads} does not divide {self.width} channels.")

        self.spread = Irreps(tuple(self.width if m else 0 for m in irreps.mults))
        joined = (irreps.mults[0] + self.width, *self.spread.mults[1:])
        self.proj_up = EquivariantLinear(irreps, self.spread)
        self.proj_down = EquivariantLinear(Irreps(joined), irreps)
        each = self.width // self.heads
        self.mlp = MLP([each, *mlp["inner_dims"], each], mlp)

        points, weights = (torch.from_numpy(a) for a in quadrature(grid))
        keep = [i for k in irreps.degrees for i in range(k * k, (k + 1) ** 2)]
        y = Harmonics(irreps.lmax)(points)[:, keep]
        self.register_buffer("to_grid", y.contiguous(), persistent=False)
        self.register_buffer("from_grid", (y * weights[:, None]).T.contiguous(), persistent=False)

    def names(self) -> Names:
        """Published names."""
        for part in ("proj_up", "mlp", "proj_down"):
            for name, parameter in getattr(self, part).names():
                yield f"{part}/{name}", parameter

    def on_grid(self, c: Tensor) -> Tensor:
        """Coefficients (N, C, U) through the grid and back; C counts the (l, m)."""
        f = (self.to_grid @ c).unflatten(2, (self.heads, -1))  # (N, P, heads, U / heads)
        q: Tensor = self.from_grid @ self.mlp(f).flatten(2)
        return q

    def forward(self, h: Blocks, recompute: bool = False, record: Any = None) -> Blocks:
        """Map blocks (N, 2 l + 1, M_l) to the same irreps.

        ``recompute`` drops the values on the grid after use and makes them again in the backward
        pass, a block of atoms at a time.
        """
        up = self.proj_up(h)
        c = torch.cat([up[k] for k in self.spread.degrees], dim=1)
        size = max(1, BLOCK // (self.width * self.to_grid.shape[0]))
        q = in_blocks(self.on_grid, size if recompute else None, c)
        parts = q.split([2 * k + 1 for k in self.spread.degrees], dim=1)
        blocks = dict(zip(self.spread.degrees, parts, strict=True))
        blocks[0] = torch.cat([h[0], blocks[0]], dim=2)
        down: Blocks = self.proj_down(blocks)
        if record is not None:
            record["/proj_up"], record["/proj_down"] = self.spread.flat(up), self.irreps.flat(down)
        return down


class ScalarMixer(nn.Module):
    """The self-connection of the last layer, which has scalars only: a plain MLP."""

    def __init__(self, irreps: Irreps, mlp: Mapping[str, Any]) -> None:
        super().__init__()
        width = irreps.mults[0]
        self.mlp = MLP([width] * 4, mlp, mlp["final_activation"])

    def names(self) -> Names:
        """Published names."""
        for name, parameter in self.mlp.names():
            yield f"LazyInMLP_0/{name}", parameter

    def forward(self, h: Blocks, recompute: bool = False, record: Any = None) -> Blocks:
        """Map scalars (N, 1, M) to as many."""
        return {0: self.mlp(h[0])}
