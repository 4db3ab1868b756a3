"""Muon with all matrices of one shape orthogonalized at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon"]


class Muon(torch.optim.Muon):
    """torch's Muon, its settings and its state, in a few calls of torch in place of thousands.

    Matrices that are equal up to a transposition share the products of their Newton-Schulz
    steps. On a CPU these are in the gradients' precision, where torch's are in bfloat16, which
    costs more there and leaves 1e-2 of a step to rounding; elsewhere they are in bfloat16 too.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._move(group, params)
        return loss

    def _move(self, group: dict[str, Any], params: list[Tensor]) -> None:
        grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
        states = [self.state[p] for p in params]
        for state, grad in zip(states, grads, strict=True):
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(grad)
        means = [state["momentum_buffer"] for state in states]
        momentum, lr = group["momentum"], float(group["lr"])
        torch._foreach_lerp_(means, grads, 1 - momentum)
        wanted: Sequence[Tensor] = means
        if group["nesterov"]:
            wanted = torch._foreach_lerp(grads, means, momentum)

        updates = _orthogonal(wanted, group["ns_coefficients"], group["ns_steps"], group["eps"])
        # Original scaling of the rate: a tall matrix turns a row of inputs into a longer row.
        tall = [math.sqrt(max(1.0, p.shape[0] / p.shape[1])) for p in params]
        torch._foreach_mul_(updates, [-lr * factor for factor in tall])
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_add_(params, updates)


def _orthogonal(
    matrices: Sequence[Tensor], coefficients: tuple[float, float, float], steps: int, eps: float
) -> list[Tensor]:
    """Return the matrices with all singular values near 1."""
    alike: dict[Any, list[int]] = {}
    for number, matrix in enumerate(matrices):
        rows, columns = sorted(matrix.shape)
        alike.setdefault((rows, columns, matrix.dtype, matrix.device), []).append(number)

    found = list(matrices)
    for numbers in alike.values():
        # Lying matrices: their products with themselves are the smaller ones.
        lying = [m.mT if m.shape[0] > m.shape[1] else m for m in (matrices[k] for k in numbers)]
        made_of_all = newton_schulz(torch.stack(lying), coefficients, steps, eps)
        for k, made in zip(numbers, made_of_all, strict=True):
            found[k] = made.mT if matrices[k].shape[0] > matrices[k].shape[1] else made
    return found


def newton_schulz(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Iterate ``x <- a x + (b g + c g^2) x`` with ``g = x x^T`` on matrices (B, m, n), m <= n."""
    a, b, c = coefficients
    x = matrices if matrices.device.type == "cpu" else matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)
