r"""Sums over neighbors for training: differentiable as often as one likes, and nothing large kept.

The sum of one degree is linear in features x, geometry g and weights w,

.. math:: z_t[u, q] = \sum_i \sum_J w[i, u, q, J] \sum_{e \to t} x_{s(e)}[i, u] \, g_e[J],

and so is each of its derivatives. Autograd would keep the moments, 35 000 numbers an atom, of every
pass; here each pass forms those of a few atoms at a time, in the processor's cache, and drops them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .places import Slice, Spaces

__all__ = ["Layout", "neighbor_sum"]


@dataclass(frozen=True)
class Layout:
    """Where the edges of a batch are."""

    source: Tensor  # (places,) int64
    slices: tuple[Slice, ...]
    spaces: Spaces = field(default_factory=Spaces)

    def features(self, name: str, x: Tensor, block: Slice) -> Tensor:
        """Features (n, k, C) of the senders."""
        rows = self.spaces(name, x, block.atoms * block.width, x.shape[1])
        torch.index_select(x, 0, self.source[block.places], out=rows)
        return rows.view(block.atoms, block.width, x.shape[1])


def neighbor_sum(x: Tensor, g: Tensor, w: Tensor, layout: Layout) -> Tensor:
    """Return z (U, Q, N) from x (N, i U), g (places, J) and w (i, U, Q, J)."""
    z: Tensor = _Sum.apply(x, g, w, layout)
    if not w.requires_grad:
        return z

    # A branch of its own: forces need no gradient of the weights, and a function of ours is never
    # told which of its gradients are asked for.
    zero: Tensor = _Weights.apply(w, (x, g), layout)
    return z + zero


def _moments(layout: Layout, block: Slice, features: Tensor, g: Tensor) -> Tensor:
    """Moments (n, i U, J) of a block, in memory that the next call uses again."""
    rows = g[block.places].view(block.atoms, block.width, g.shape[1])
    into = layout.spaces("moments", g, block.atoms, features.shape[2], g.shape[1])
    return torch.bmm(features.transpose(1, 2), rows, out=into)


def _mixed(moments: Tensor, w: Tensor) -> Tensor:
    """Products (U, Q, n) of moments (n, i U, J) with weights."""
    orders, channels = w.shape[:2]
    parts = moments.view(moments.shape[0], orders, channels, -1).permute(1, 2, 3, 0)
    mixed = torch.bmm(w[0], parts[0])
    for order in range(1, orders):
        mixed.baddbmm_(w[order], parts[order])
    return mixed


def _d_weights(total: Tensor, dz: Tensor, moments: Tensor) -> None:
    """Add to the gradient (i, U, Q, J) of the weights."""
    parts = moments.view(moments.shape[0], *total.shape[:2], -1).permute(1, 2, 0, 3)
    for into, part in zip(total, parts, strict=True):
        into.baddbmm_(dz, part)


def _d_moments(layout: Layout, block: Slice, dz: Tensor, w: Tensor) -> Tensor:
    """Gradient (i U, n, J) of the moments of a block."""
    orders, channels, _, width = w.shape
    into = layout.spaces("d_moments", w, orders, channels, block.atoms, width)
    for order in range(orders):
        torch.bmm(dz.transpose(1, 2), w[order], out=into[order])
    return into.flatten(0, 1)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, g: Tensor, w: Tensor, layout: Layout
    ) -> Tensor:
        ctx.save_for_backward(x, g, w)
        ctx.layout = layout
        parts = []
        for block in layout.slices:
            features = layout.features("features", x, block)
            parts.append(_mixed(_moments(layout, block, features, g), w))
        return torch.cat(parts, dim=2)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        wanted = (*ctx.needs_input_grad[:2], False)
        slopes: Any = _Slopes.apply(dz, *ctx.saved_tensors, ctx.layout, wanted)
        return (*slopes, None)


class _Weights(torch.autograd.Function):
    """Zeros whose gradient in the weights is that of the sum; the others reach the sum itself."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, w: Tensor, inputs: tuple[Tensor, Tensor], layout: Layout
    ) -> Tensor:
        ctx.save_for_backward(w)
        ctx.inputs, ctx.layout = inputs, layout
        return w.new_zeros(w.shape[1], w.shape[2], len(inputs[0]))

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (w,) = ctx.saved_tensors
        slopes: Any = _Slopes.apply(dz, *ctx.inputs, w, ctx.layout, (False, False, True))
        return slopes[2], None, None


class _Slopes(torch.autograd.Function):
    """Gradients of <dz, z> in x, g and w."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, dz: Tensor, x: Tensor, g: Tensor, w: Tensor, layout: Layout, wanted: Any
    ) -> tuple[Tensor | None, ...]:
        # It comes with channels last, for which torch multiplies matrix by matrix, copying each.
        dz = dz.contiguous()
        ctx.save_for_backward(dz, x, g, w)
        ctx.layout = layout
        ctx.set_materialize_grads(False)
        dx = torch.zeros_like(x) if wanted[0] else None
        dg = torch.empty_like(g) if wanted[1] else None
        dw = torch.zeros_like(w) if wanted[2] else None
        for block in layout.slices:
            places, own = block.places, dz[:, :, block.first : block.last]
            features = layout.features("features", x, block)
            if dw is not None:
                _d_weights(dw, own, _moments(layout, block, features, g))
            if dx is None and dg is None:
                continue

            d_moments = _d_moments(layout, block, own, w)
            if dg is not None:
                into = dg[places].view(block.atoms, block.width, g.shape[1])
                torch.bmm(features, d_moments.transpose(0, 1), out=into)
            if dx is not None:
                _send(dx, layout, block, g, d_moments)
        return dx, dg, dw

    @staticmethod
    def backward(ctx: Any, a: Any, b: Any, c: Any) -> tuple[Any, ...]:  # type: ignore[override]
        dz, x, g, w = ctx.saved_tensors
        layout = ctx.layout
        if torch.is_grad_enabled() or c is not None:
            return (*_composed(dz, (x, g, w), (a, b, c), layout), None, None)
        return (*_once(dz, (x, g, w), (a, b), layout), None, None)


def _send(dx: Tensor, layout: Layout, block: Slice, g: Tensor, d_moments: Tensor) -> None:
    """Add each edge's part to the gradient of its sender's features."""
    rows = g[block.places].view(block.atoms, block.width, g.shape[1])
    into = layout.spaces("sent", g, block.atoms, block.width, dx.shape[1])
    sent = torch.bmm(rows, d_moments.permute(1, 2, 0), out=into)
    dx.index_add_(0, layout.source[block.places], sent.flatten(0, 1))


def _once(
    dz: Tensor, inputs: tuple[Tensor, Tensor, Tensor], changes: Any, layout: Layout
) -> tuple[Tensor | None, ...]:
    """Derivatives of <a, dx> + <b, dg> in dz, x, g and w, in one pass."""
    (x, g, w), (a, b) = inputs, changes
    ddz, dw = torch.zeros_like(dz), torch.zeros_like(w)
    dx = None if b is None else torch.zeros_like(x)
    dg = None if a is None else torch.empty_like(g)
    b = None if b is None else b.contiguous()

    for block in layout.slices:
        atoms, places = slice(block.first, block.last), block.places
        own, total = dz[:, :, atoms], None
        d_moments = _d_moments(layout, block, own, w)
        if a is not None and dg is not None:
            change = layout.features("changes", a, block)
            total = _moments(layout, block, change, g)
            into = dg[places].view(block.atoms, block.width, g.shape[1])
            torch.bmm(change, d_moments.transpose(0, 1), out=into)

        if b is not None and dx is not None:
            features = layout.features("features", x, block)
            if total is None:
                total = _moments(layout, block, features, b)
            else:
                rows = b[places].view(block.atoms, block.width, g.shape[1])
                total.baddbmm_(features.transpose(1, 2), rows)
            _send(dx, layout, block, b, d_moments)

        if total is not None:
            ddz[:, :, atoms] = _mixed(total, w)
            _d_weights(dw, own, total)

    return ddz, dx, dg, dw


def _composed(
    dz: Tensor, inputs: tuple[Tensor, Tensor, Tensor], changes: Any, layout: Layout
) -> tuple[Tensor | None, ...]:
    """As :func:`_once`, of functions that can be differentiated again."""
    totals: list[Tensor | None] = [None] * 4
    for place, change in enumerate(changes):
        if change is None:
            continue
        at: list[Tensor] = [*inputs[:place], change, *inputs[place + 1 :]]
        wanted = [k != place for k in range(3)]
        slopes: Any = _Slopes.apply(dz, *at, layout, wanted)
        x, g, w = at
        for k, term in enumerate((neighbor_sum(x, g, w, layout), *slopes)):
            if term is not None:
                totals[k] = term if totals[k] is None else totals[k] + term
    return tuple(totals)
