"""A mixer on the sphere that is exactly equivariant on a small grid. Not in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ase_nnp.errors import ConfigError

from .angular import Harmonics
from .grid import BLOCK, in_blocks, quadrature
from .irreps import Blocks, Irreps
from .layers import EquivariantLinear, Names, glorot_
from .products import mix_with_pullback
from .pullback import Pullback

__all__ = ["PolynomialMixer"]

#: Added to the mean square of an atom's coefficients before its root: keeps the energy smooth.
SMALL = 1e-2
#: Degrees for which Lebedev grids exist and have positive weights, as far as they are needed here.
LEBEDEV = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29, 31, 35, 41, 47, 53)


class PolynomialMixer(nn.Module):
    r"""Products of functions on the sphere, gated by scalars.

    At every point :math:`z = f_1 (g_1 + f_2 (g_2 + f_3 ...))` with ``order`` functions of degree up
    to ``lmax`` and one gate :math:`g = 2\,\sigma(h^0 G)` a channel that does not depend on the
    point. What is projected back is a polynomial of degree ``(order + 1) lmax`` at most, which
    a Lebedev grid of that degree integrates exactly: unlike an MLP on any grid, this keeps
    rotations and, with natural parities, inversion to rounding, with 38 points for ``lmax = 2`` and
    order 3.
    """

    to_grid: Tensor
    from_grid: Tensor

    def __init__(self, irreps: Irreps, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.irreps, self.small = irreps, SMALL
        self.order, self.width = int(options["order"]), int(options["channels"])
        if self.order < 1 or self.width < 1:
            raise ConfigError("self_connection.polynomial needs order >= 1 and channels >= 1.")

        total, scalars = self.order * self.width, irreps.mults[0]
        self.spread = Irreps(tuple(total if m else 0 for m in irreps.mults))
        joined = (scalars + self.width, *(self.width if m else 0 for m in irreps.mults[1:]))
        self.proj_up = EquivariantLinear(irreps, self.spread)
        self.proj_down = EquivariantLinear(Irreps(joined), irreps)
        self.gate = nn.Parameter(glorot_(torch.empty(scalars, total - self.width)))
        self.scalar = nn.Parameter(glorot_(torch.empty(scalars, scalars)))

        # Exact for a product of `order` functions, projected back on degrees up to lmax.
        needed = (self.order + 1) * irreps.lmax
        degree = next((k for k in LEBEDEV if k >= needed), None)
        if degree is None:
            raise ConfigError(
                f"order {self.order} with degrees up to {irreps.lmax} needs a grid of degree "
                f"{needed}; there is none above {LEBEDEV[-1]}. Lower "
                "self_connection.polynomial.order."
            )

        arrays = quadrature({"quadrature": "lebedev", "degree": degree})
        points, weights = (torch.from_numpy(a) for a in arrays)
        keep = [i for k in irreps.degrees for i in range(k * k, (k + 1) ** 2)]
        y = Harmonics(irreps.lmax)(points)[:, keep]
        self.register_buffer("to_grid", y.contiguous(), persistent=False)
        self.register_buffer("from_grid", (y * weights[:, None]).T.contiguous(), persistent=False)

    def names(self) -> Names:
        """There are no published names; our own."""
        yield from self.named_parameters()

    def on_grid(self, c: Tensor, gates: Tensor) -> Tensor:
        """Coefficients (N, C, order width) and gates (N, (order - 1) width) to (N, C, width)."""
        functions = (self.to_grid @ c).split(self.width, dim=2)
        z = functions[-1]
        if self.order > 1:
            factors = gates[:, None, :].split(self.width, dim=2)
            for function, gate in zip(functions[-2::-1], factors[::-1], strict=True):
                z = function * (gate + z)
        q: Tensor = self.from_grid @ z
        return q

    def forward(self, h: Blocks, recompute: bool = False, record: Any = None) -> Blocks:
        """Map blocks to the same irreps; ``recompute`` as in :class:`SphereMixer`."""
        up = self.proj_up(h)
        c = torch.cat([up[k] for k in self.spread.degrees], dim=1)
        c = c * (c.square().mean(dim=(1, 2), keepdim=True) + self.small).rsqrt()
        h0 = h[0][:, 0]
        gates = 2.0 * torch.sigmoid(h0 @ self.gate)
        size = max(1, BLOCK // (c.shape[2] * self.to_grid.shape[0]))
        q = in_blocks(self.on_grid, size if recompute else None, c, gates)
        parts = q.split([2 * k + 1 for k in self.spread.degrees], dim=1)
        blocks = dict(zip(self.spread.degrees, parts, strict=True))
        blocks[0] = torch.cat([F.silu(h0 @ self.scalar)[:, None], blocks[0]], dim=2)
        down: Blocks = self.proj_down(blocks)
        if record is not None:
            record["/proj_up"], record["/proj_down"] = self.spread.flat(up), self.irreps.flat(down)
        return down

    def with_pullback(self, h: Blocks) -> tuple[Blocks, Pullback]:
        """As :meth:`forward`, and the pullback."""
        return mix_with_pullback(self, h)
