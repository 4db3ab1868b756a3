"""The polynomial mixer of an evaluation, a block of atoms at a time, with its pullback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .irreps import Blocks
from .pullback import Pullback

if TYPE_CHECKING:
    from .polynomial import PolynomialMixer

__all__ = ["mix_with_pullback"]

#: Values on the grid at once: they stay in the processor's cache.
VALUES = 90_000


def mix_with_pullback(mixer: PolynomialMixer, h: Blocks) -> tuple[Blocks, Pullback]:
    """Return ``mixer(h)`` and its pullback; values on the grid are made again, not kept."""
    up, pull_up = mixer.proj_up.with_pullback(h)
    degrees, sizes = mixer.spread.degrees, [2 * k + 1 for k in mixer.spread.degrees]
    c = torch.cat([up[k] for k in degrees], dim=1)
    count = c.shape[1] * c.shape[2]
    mean_square = torch.linalg.vector_norm(c, dim=(1, 2), keepdim=True).square() / count
    scale = (mean_square + mixer.small).rsqrt()
    c = c.mul_(scale)

    h0 = h[0][:, 0]
    half = torch.sigmoid(h0 @ mixer.gate)
    gates, before = 2.0 * half, h0 @ mixer.scalar
    size = max(1, VALUES // (c.shape[2] * mixer.to_grid.shape[0]))
    atoms = [slice(k, k + size) for k in range(0, c.shape[0], size)]
    q = c.new_empty(c.shape[0], c.shape[1], mixer.width)
    for some in atoms:
        functions, brackets = _brackets(mixer, c[some], gates[some])
        z = functions[0] * brackets[0] if brackets else functions[0]
        torch.matmul(mixer.from_grid, z, out=q[some])

    joined = dict(zip(degrees, q.split(sizes, dim=1), strict=True))
    joined[0] = torch.cat([F.silu(before)[:, None], joined[0]], dim=2)
    down, pull_down = mixer.proj_down.with_pullback(joined)

    def pullback(gradients: Blocks) -> Blocks:
        d_joined, scalars = pull_down(gradients), before.shape[1]
        d_before = d_joined[0][:, 0, :scalars]
        d_joined[0] = d_joined[0][:, :, scalars:]
        dq = torch.cat([d_joined[k] for k in degrees], dim=1)
        dc, d_gates = torch.empty_like(c), torch.empty_like(gates)
        for some in atoms:
            d_functions = _gradient(mixer, c[some], gates[some], dq[some], d_gates[some])
            torch.matmul(mixer.to_grid.T, d_functions, out=dc[some])

        # With c' = c s and s = (mean c^2 + small)^(-1/2): dc = s (dc' - c' mean(dc' c')).
        along = (dc * c).sum(dim=(1, 2), keepdim=True)
        dc = dc.addcmul_(c, along, value=-1.0 / count).mul_(scale)
        dh = pull_up(dict(zip(degrees, dc.split(sizes, dim=1), strict=True)))
        slope = torch.ops.aten.silu_backward(d_before, before)
        dh0 = slope @ mixer.scalar.T + (2.0 * d_gates * half * (1.0 - half)) @ mixer.gate.T
        return {**dh, 0: dh[0] + dh0[:, None]}

    return down, pullback


def _brackets(
    mixer: PolynomialMixer, c: Tensor, gates: Tensor
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """Functions (n, P, width) on the grid, and ``g_1 + f_2 (g_2 + ...)`` with all it contains."""
    functions = (mixer.to_grid @ c).split(mixer.width, dim=2)
    brackets: list[Tensor] = []
    for k in reversed(range(mixer.order - 1)):
        gate = gates[:, None, k * mixer.width : (k + 1) * mixer.width]
        inner = functions[k + 1]
        brackets.insert(0, torch.addcmul(gate, inner, brackets[0]) if brackets else gate + inner)
    return functions, brackets


def _gradient(
    mixer: PolynomialMixer, c: Tensor, gates: Tensor, dq: Tensor, d_gates: Tensor
) -> Tensor:
    """Gradient in all functions (n, P, order width); that in the gates is written into theirs."""
    functions, brackets = _brackets(mixer, c, gates)
    gradients = c.new_empty(c.shape[0], mixer.to_grid.shape[0], c.shape[2])
    parts = gradients.split(mixer.width, dim=2)
    dz: Tensor = mixer.from_grid.T @ dq
    for k, bracket in enumerate(brackets):
        torch.mul(dz, bracket, out=parts[k])

        # The innermost bracket is a gate plus the last function, which so gets the same gradient.
        dz = torch.mul(dz, functions[k], out=parts[-1] if k == len(brackets) - 1 else None)
        torch.sum(dz, dim=1, out=d_gates[:, k * mixer.width : (k + 1) * mixer.width])
    if not brackets:
        parts[-1].copy_(dz)
    return gradients
