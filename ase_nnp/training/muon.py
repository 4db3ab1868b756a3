r"""Muon: steps of orthogonal matrices for matrices, Adam's for everything else.

K. Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024),
https://kellerjordan.github.io/posts/muon; J. Liu et al., arXiv:2502.16982. For a matrix ``W`` with
gradient ``G`` and ``r`` rows, ``c`` columns:

.. math::

    M^\tau &= \mu M^{\tau-1} + G^\tau, \qquad B^\tau = G^\tau + \mu M^\tau \\
    W^\tau &= W^{\tau-1} - \eta\, q\, \max(1, r / c)^{1/2}\, \mathrm{msign}(B^\tau)

where :math:`\mathrm{msign}(U S V^T) = U V^T` is approached by five Newton-Schulz steps
:math:`X \leftarrow a X + b (X X^T) X + c (X X^T)^2 X`: singular values end near 1, not at it.
Parameters that are no matrices take AdamW's step with the rate :math:`\eta`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError

__all__ = ["Muon", "orthogonalised"]

#: Coefficients of the published quintic, steep at zero.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return nearly the closest matrix with orthonormal rows or columns.

    Parameters
    ----------
    matrix
        (r, c); zero stays zero.
    steps
        Newton-Schulz steps; after five, singular values lie between about 0.7 and 1.2 if they were
        not below a thousandth of the norm.
    """
    a, b, c = QUINTIC
    x: Tensor = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + torch.addmm(square, square, square, beta=b, alpha=c) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices, AdamW for the rest; see the module.

    Parameters
    ----------
    params
        Parameters or groups of them.
    lr
        The rate of Adam's steps.
    ratio
        ``q``: the rate of a matrix's step over ``lr``.
    momentum
        ``mu``.
    betas, eps
        Adam's.
    weight_decay
        A step takes ``lr * weight_decay`` of each weight away.

    Raises
    ------
    ConfigError
        A setting out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-3,
        *,
        ratio: float = 4.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        fine = lr > 0 and ratio > 0 and weight_decay >= 0 and eps > 0
        if not (fine and all(0 <= b < 1 for b in (momentum, *betas))):
            raise ConfigError(
                f"Muon: lr {lr}, ratio {ratio}, eps {eps} must be positive, weight_decay "
                f"{weight_decay} not negative, momentum {momentum} and betas {betas} in [0, 1)."
            )
        defaults = {"lr": lr, "ratio": ratio, "momentum": momentum, "betas": betas}
        super().__init__(params, {**defaults, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; ``closure`` computes the loss again and gives it back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                gradient = weight.grad
                if gradient is None:
                    continue
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                if weight.ndim == 2:
                    self._matrix(weight, gradient, group)
                else:
                    self._other(weight, gradient, group)
        return loss

    def _matrix(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        mean = state["momentum"].mul_(group["momentum"]).add_(gradient)
        direction = orthogonalised(gradient.add(mean, alpha=group["momentum"]))
        rows, columns = weight.shape
        rate = group["lr"] * group["ratio"] * max(1.0, rows / columns) ** 0.5
        weight.add_(direction, alpha=-rate)

    def _other(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(weight)
            state["square"] = torch.zeros_like(weight)
        state["step"] += 1
        one, two = group["betas"]
        mean = state["mean"].lerp_(gradient, 1.0 - one)
        square = state["square"].mul_(two).addcmul_(gradient, gradient, value=1.0 - two)
        size = (square / (1.0 - two ** state["step"])).sqrt_().add_(group["eps"])
        weight.addcdiv_(mean, size, value=-group["lr"] / (1.0 - one ** state["step"]))
