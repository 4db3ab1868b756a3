"""Values with pullbacks: the gradient of one evaluation without an autograd graph of its parts.

An evaluation differentiates once, in the positions, with fixed weights. Autograd then keeps every
intermediate result and copies what it splits and joins. A part that has a method
``with_pullback(blocks) -> (value, pullback)`` keeps what its own derivative needs; any other part
is differentiated by autograd here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .irreps import Blocks

__all__ = ["Evaluation", "Pullback", "with_pullback"]

#: From the gradient of a scalar in the outputs to its gradient in the inputs.
Pullback = Callable[[Blocks], Blocks]


def with_pullback(part: Callable[[Blocks], Blocks], blocks: Blocks) -> tuple[Blocks, Pullback]:
    """Return ``part(blocks)`` with its pullback, by the part's own method where it has one."""
    own: Any = getattr(part, "with_pullback", None)
    if own is not None:
        value, pull = own(blocks)
        return value, pull

    leaves = {degree: block.detach().requires_grad_() for degree, block in blocks.items()}
    with torch.enable_grad():
        outputs = part(leaves)

    def pullback(gradients: Blocks) -> Blocks:
        degrees = [degree for degree in outputs if outputs[degree].requires_grad]
        parts = torch.autograd.grad(
            [outputs[degree] for degree in degrees],
            list(leaves.values()),
            [gradients[degree] for degree in degrees],
            allow_unused=True,
        )
        pairs = zip(leaves.items(), parts, strict=True)
        return {k: torch.zeros_like(leaf) if p is None else p for (k, leaf), p in pairs}

    return {degree: block.detach() for degree, block in outputs.items()}, pullback


class Evaluation(torch.autograd.Function):
    """A network that is run once, ``run(*inputs) -> (value, pullback)``; first derivatives only."""

    @staticmethod
    def forward(ctx: Any, run: Any, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        """Return the value and keep the pullback."""
        value, ctx.pullback = run(*inputs)
        ctx.save_for_backward(*inputs)
        return value  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """Return the gradients of the inputs."""
        with torch.no_grad():
            slopes = ctx.pullback(gradient)

        # torch's once_differentiable raises only on paths to the incoming gradient, and a second
        # derivative in the inputs would lack its terms without a word.
        return (None, *(_Once.apply(s, gradient, *ctx.saved_tensors) for s in slopes))


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: Tensor, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        return slope.view_as(slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(
            "energies_once() is differentiable once; for a second derivative call energies(), or "
            "set model.differentiable = True before compute()."
        )
