r"""Samplers as torch optimizers: ``loss.backward()`` then ``step()``, but the steps are random.

The gradient must be that of the potential energy of the whole posterior,

.. math:: U(\theta) = -\log p(\theta) - \frac{N}{n}\sum_{i \in \mathrm{batch}} \log p(d_i|\theta),

and the target is :math:`\exp(-U / T)`. ``temperature`` below 1 gives a cold posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ase_nnp.errors import UncertaintyError

__all__ = ["BAOA", "SGHMC", "SGLD", "Sampler", "pSGLD"]


class Sampler(Optimizer):
    """Common ground: reproducible noise, refusal of a gradient that is not finite.

    Parameters
    ----------
    params
        As for any torch optimizer.
    lr
        Step size h.
    temperature
        T of the target ``exp(-U / T)``; 0 gives plain optimization.
    seed
        Of this sampler's own noise; torch's global generator is left alone.
    defaults
        Options of each parameter group.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, temperature: float, seed: int, **defaults: Any
    ) -> None:
        if lr <= 0 or temperature < 0:
            raise UncertaintyError(
                f"Needs lr > 0 and temperature >= 0; found {lr} and {temperature}."
            )
        super().__init__(params, {"lr": lr, "temperature": temperature, **defaults})
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def _noise(self, like: Tensor) -> Tensor:
        if like.device not in self._generators:
            generator = torch.Generator(device=like.device)
            generator.manual_seed(self._seed)
            self._generators[like.device] = generator
        return torch.randn(
            like.shape,
            dtype=like.dtype,
            device=like.device,
            generator=self._generators[like.device],
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step from the gradients at hand."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not torch.isfinite(p.grad).all():
                    raise UncertaintyError(
                        "The gradient is not finite: the chain has diverged. Use a smaller step."
                    )
                self._move(p, p.grad, group)
        return loss

    def _move(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError


class SGLD(Sampler):
    r"""Stochastic-gradient Langevin dynamics (Welling and Teh 2011).

    .. math:: \theta \leftarrow \theta - h\,\nabla U + \sqrt{2 h T}\,\xi

    Unadjusted: a Gaussian direction of curvature lam comes out with its variance multiplied by
    ``1 / (1 - h lam / 2)``, and diverges from ``h = 2 / lam`` on.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, temperature: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(params, lr, temperature, seed)

    def _move(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        h, t = group["lr"], group["temperature"]
        p.add_(grad, alpha=-h).add_(self._noise(p), alpha=math.sqrt(2 * h * t))


class pSGLD(Sampler):
    r"""SGLD with the preconditioner of RMSprop (Li et al. 2016, arXiv:1512.07666).

    .. math:: V \leftarrow a V + (1 - a)\,\bar g^2, \quad G = 1 / (\lambda + \sqrt V), \quad
              \theta \leftarrow \theta - \tfrac h2 G\,\nabla U + \sqrt{h T G}\,\xi

    with :math:`\bar g = \nabla U / N`, the gradient per datum. The term with the derivative of G
    is left out, as there.

    Parameters
    ----------
    num_data
        N.
    alpha, eps
        a and lambda.
    params, lr, temperature, seed
        As in :class:`Sampler`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        num_data: int,
        temperature: float = 1.0,
        alpha: float = 0.99,
        eps: float = 1e-5,
        seed: int = 0,
    ) -> None:
        if num_data < 1 or not 0 <= alpha < 1 or eps <= 0:
            raise UncertaintyError("Needs num_data >= 1, 0 <= alpha < 1 and eps > 0.")
        super().__init__(params, lr, temperature, seed, num_data=num_data, alpha=alpha, eps=eps)

    def _move(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        h, t, a = group["lr"], group["temperature"], group["alpha"]
        per_datum = 1 / group["num_data"] ** 2
        state = self.state[p]
        if "square" not in state:  # start at the first gradient: no bias towards small V
            state["square"] = grad.square() * per_datum
        square = state["square"].mul_(a).addcmul_(grad, grad, value=(1 - a) * per_datum)
        scale = square.sqrt().add_(group["eps"]).reciprocal_()
        p.addcmul_(scale, grad, value=-h / 2)
        p.addcmul_(scale.sqrt_(), self._noise(p), value=math.sqrt(h * t))


class SGHMC(Sampler):
    r"""Stochastic-gradient Hamiltonian Monte Carlo (Chen, Fox and Guestrin 2014), unit mass.

    .. math:: p \leftarrow (1 - h\gamma)\,p - h\,\nabla U + \sqrt{2\gamma T h}\,\xi, \quad
              \theta \leftarrow \theta + h\,p

    Its variances are biased by the step, as those of SGLD; :class:`BAOA`'s are not.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        temperature: float = 1.0,
        friction: float = 1.0,
        seed: int = 0,
    ) -> None:
        if friction <= 0 or lr * friction >= 1:
            raise UncertaintyError("Needs friction > 0 and lr * friction < 1.")
        super().__init__(params, lr, temperature, seed, friction=friction)

    def _move(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        h, t, gamma = group["lr"], group["temperature"], group["friction"]
        momentum = _momentum(self, p, t)
        momentum.mul_(1 - h * gamma).add_(grad, alpha=-h)
        momentum.add_(self._noise(p), alpha=math.sqrt(2 * gamma * t * h))
        p.add_(momentum, alpha=h)


class BAOA(Sampler):
    r"""Langevin dynamics by the BAOA splitting (Leimkuhler and Matthews 2013), unit mass.

    Kick by the whole step, drift by half, exact Ornstein-Uhlenbeck, drift by half:

    .. math:: p \leftarrow p - h\,\nabla U, \quad \theta \leftarrow \theta + \tfrac h2 p, \quad
              p \leftarrow e^{-\gamma h} p + \sqrt{T (1 - e^{-2\gamma h})}\,\xi, \quad
              \theta \leftarrow \theta + \tfrac h2 p

    With the full gradient the positions of a Gaussian target have the exact variance for every
    stable step, ``h < 2 / sqrt(lam)``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        temperature: float = 1.0,
        friction: float = 1.0,
        seed: int = 0,
    ) -> None:
        if friction <= 0:
            raise UncertaintyError("Needs friction > 0.")
        super().__init__(params, lr, temperature, seed, friction=friction)

    def _move(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        h, t = group["lr"], group["temperature"]
        decay = math.exp(-group["friction"] * h)
        momentum = _momentum(self, p, t)
        momentum.add_(grad, alpha=-h)
        p.add_(momentum, alpha=h / 2)
        momentum.mul_(decay).add_(self._noise(p), alpha=math.sqrt(t * (1 - decay**2)))
        p.add_(momentum, alpha=h / 2)


def _momentum(sampler: Sampler, p: Tensor, temperature: float) -> Tensor:
    """Momentum of a parameter, drawn from its own equilibrium the first time."""
    state = sampler.state[p]
    if "momentum" not in state:
        state["momentum"] = math.sqrt(temperature) * sampler._noise(p)
    value: Tensor = state["momentum"]
    return value
