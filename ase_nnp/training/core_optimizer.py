r"""The CoRe (Continual Resilient) optimizer of Eckhoff and Reiher.

Lifelong Machine Learning Potentials, J. Chem. Theory Comput. 2023, doi:10.1021/acs.jctc.3c00279
(arXiv:2303.05911), and CoRe optimizer: an all-in-one solution for machine learning, 2024,
arXiv:2307.15663. Every weight has a step size of its own, which grows while its averaged gradient
keeps its sign and shrinks when that changes, as in RPROP; the direction is Adam's; and weights that
mattered most so far may be held, so that they do not forget. For the gradient :math:`G^\tau`:

.. math::

    \beta_1^\tau &= \beta_1^b + (\beta_1^a - \beta_1^b) e^{-[(\tau - 1) / \beta_1^c]^2} \\
    g^\tau &= \beta_1^\tau g^{\tau-1} + (1 - \beta_1^\tau) G^\tau, \quad
    h^\tau = \beta_2 h^{\tau-1} + (1 - \beta_2) (G^\tau)^2 \\
    u^\tau &= \frac{g^\tau / (1 - (\beta_1^\tau)^\tau)}
                   {[h^\tau / (1 - \beta_2^\tau)]^{1/2} + \epsilon} \\
    s^\tau &= \min(\eta_+ s^{\tau-1}, s_{max}) \text{ where } g^{\tau-1} g^\tau P^\tau > 0, \quad
              \max(\eta_- s^{\tau-1}, s_{min}) \text{ where it is} < 0, \quad
              s^{\tau-1} \text{ else} \\
    S^\tau &= S^{\tau-1} + g^\tau u^\tau P^\tau s^\tau / t_{hist}
              \quad (\tau \le t_{hist}), \qquad
    S^\tau = (1 - 1 / t_{hist}) S^{\tau-1} + g^\tau u^\tau P^\tau s^\tau / t_{hist}
              \quad \text{after} \\
    w^\tau &= (1 - d |u^\tau| P^\tau s^\tau) w^{\tau-1} - u^\tau P^\tau s^\tau

with :math:`s^0` the learning rate and :math:`P^\tau = 0` for the fraction of weights of a tensor
with the highest :math:`S^{\tau-1}` once :math:`\tau > t_{hist}`, else 1. The equations were taken
from the two papers' algorithm as the documentation of the authors' package (BSD-3-Clause) states
it; the step below was checked against that package and is tested against these lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError

__all__ = ["CoRe"]


class CoRe(torch.optim.Optimizer):
    """Step sizes by weight, Adam's direction, and plasticity; see the module.

    Parameters
    ----------
    params
        Parameters or groups of them.
    lr
        The first step size; what a scheduler does to ``lr`` later has no effect.
    step_sizes
        The least and the largest.
    etas
        Factors of a step size where the sign of the averaged gradient changes and where it stays.
    betas
        ``beta_1^a, beta_1^b, beta_1^c, beta_2``.
    eps
        Keeps the division finite.
    weight_decay
        ``d``.
    score_history
        ``t_hist``: steps that the score needs before weights are held; 0 holds none.
    frozen
        Fraction of the weights of each tensor that is held.

    Raises
    ------
    ConfigError
        A setting out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        step_sizes: tuple[float, float] = (1e-6, 1e-2),
        etas: tuple[float, float] = (0.7375, 1.2),
        betas: tuple[float, float, float, float] = (0.7375, 0.8125, 250.0, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        score_history: int = 0,
        frozen: float = 0.0,
    ) -> None:
        wrong = None
        if not 0 < step_sizes[0] <= step_sizes[1]:
            wrong = f"step_sizes {step_sizes}: two positive numbers, the smaller first"
        elif not 0 < etas[0] <= 1 <= etas[1]:
            wrong = f"etas {etas}: one up to 1, one from 1"
        elif not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and betas[2] > 0 and 0 <= betas[3] < 1):
            wrong = f"betas {betas}: the third a number of steps, the others in [0, 1)"
        elif lr <= 0 or eps < 0 or weight_decay < 0 or score_history < 0 or not 0 <= frozen < 1:
            wrong = f"lr {lr}, eps {eps}, weight_decay {weight_decay}, frozen {frozen}"
        if wrong:
            raise ConfigError(f"CoRe: {wrong}.")

        defaults = {
            "lr": lr,
            "first": lr,
            "step_sizes": step_sizes,
            "etas": etas,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "score_history": score_history,
            "frozen": frozen,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; returns what ``closure`` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._one(parameter, parameter.grad, group)
        return loss

    def _one(self, w: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[w]
        if not state:
            state["step"] = 0
            state["g"], state["h"] = torch.zeros_like(w), torch.zeros_like(w)
            state["s"] = torch.full_like(w, group["first"] * group.get("factor", 1.0))
            if group["score_history"]:
                state["score"] = torch.zeros_like(w)

        state["step"] += 1
        t, g, h, s = state["step"], state["g"], state["h"], state["s"]
        start, end, fall, beta2 = group["betas"]

        # The decay rate of the first moment goes from its first to its second value within some
        # beta3 steps.
        beta1 = end + (start - end) * math.exp(-(((t - 1) / fall) ** 2))
        before = g.clone()
        g.mul_(beta1).add_(gradient, alpha=1 - beta1)
        h.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)

        free = self._free(state, group)

        # Resilient step sizes: each weight's own grows while its mean gradient keeps its sign and
        # shrinks where it turns.
        sign = before * g if free is None else before * g * free
        down, up = group["etas"]
        s.copy_(
            torch.where(
                sign > 0,
                (s * up).clamp(max=group["step_sizes"][1]),
                torch.where(sign < 0, (s * down).clamp(min=group["step_sizes"][0]), s),
            )
        )

        u = (g / (1 - beta1**t)) / ((h / (1 - beta2**t)).sqrt() + group["eps"])
        move = u * s if free is None else u * s * free
        history = group["score_history"]
        if history:
            keep = 1.0 if t <= history else 1.0 - 1.0 / history
            state["score"].mul_(keep).add_(g * move, alpha=1.0 / history)
        w.mul_(1 - group["weight_decay"] * move.abs()).sub_(move)

    @staticmethod
    def _free(state: dict[str, Any], group: dict[str, Any]) -> Tensor | None:
        """The plasticity factor P, None where all are 1."""
        history = group["score_history"]
        if not history or state["step"] <= history:
            return None
        score = state["score"]
        held = int(group["frozen"] * score.numel())
        if not held:
            return None
        free = torch.ones_like(score).flatten()
        free[torch.topk(score.flatten(), held).indices] = 0.0
        return free.view_as(score)
