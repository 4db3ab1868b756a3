"""Optimizers by name, with rates and weight decay by layer."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch

from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential
from ase_nnp.training.settings import Optimizer

__all__ = ["make_optimizers", "muon_with_adamw"]

#: Rate of a matrix's step in Muon over that of AdamW's steps.
MUON_RATIO = 4.0


def _groups(model: Potential, settings: Optimizer) -> list[dict[str, Any]]:
    """Trained parameters by the factor of their learning rate."""
    by_factor: dict[float, list[Any]] = {}
    used: set[str] = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        fits = [p for p in settings.layer_rates if fnmatchcase(name, p)]

        # The first pattern that fits counts, in the order of the run file.
        used.update(fits[:1])
        factor = settings.layer_rates[fits[0]] if fits else 1.0
        by_factor.setdefault(factor, []).append(parameter)

    idle = [p for p in settings.layer_rates if p not in used]
    if idle:
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        raise ConfigError(
            f"optimizer.layer_rates: no trained parameter is called {idle[0]!r}. There are "
            f"{', '.join(names[:6])}, ..."
        )
    return [{"params": params, "factor": factor} for factor, params in by_factor.items()]


def make_optimizers(model: Potential, settings: Optimizer) -> list[torch.optim.Optimizer]:
    """Return the optimizers over the parameters that are trained, each once.

    Every group has a ``factor`` of the common learning rate.

    Raises
    ------
    ConfigError
        A pattern in ``layer_rates`` that fits no trained parameter.
    """
    groups = _groups(model, settings)
    lr, decay = settings.lr, settings.weight_decay
    if settings.name == "sgd":
        return [torch.optim.SGD(groups, lr=lr, weight_decay=decay, momentum=settings.momentum)]
    if settings.name == "core":
        from ase_nnp.training.core_optimizer import CoRe

        return [CoRe(groups, lr=lr, weight_decay=decay)]
    if settings.name == "muon":
        return muon_with_adamw(groups, lr, weight_decay=decay)

    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    fused = _fusible(groups)
    return [kind(groups, lr=lr, weight_decay=decay, amsgrad=settings.amsgrad, fused=fused)]


def _fusible(groups: list[dict[str, Any]]) -> bool:
    """Whether one pass over the weights may stand for one an operation: 4 times faster on a CPU."""
    return all(p.device.type in ("cpu", "cuda") for g in groups for p in g["params"])


def muon_with_adamw(
    params: Iterable[Any], lr: float, *, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices and AdamW for the rest, as far as there are any.

    Muon takes steps of orthogonal matrices (kellerjordan.github.io/posts/muon, 2024; J. Liu et al.,
    arXiv:2502.16982). Matrices move four times as far as the rest.

    Parameters
    ----------
    params
        Parameters, or groups of them with a ``factor`` of the learning rate.
    lr
        Of AdamW's steps.
    weight_decay
        A step takes ``lr * factor * weight_decay`` of each weight away.
    """
    given = list(params)
    groups: list[dict[str, Any]] = [g for g in given if isinstance(g, dict)]
    # One group for all that came alone: what an optimizer does at once, it does within a group.
    if alone := [p for p in given if not isinstance(p, dict)]:
        groups.append({"params": alone, "factor": 1.0})

    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for group in groups:
        factor = group.get("factor", 1.0)
        for wanted, part, ratio in ((True, matrices, MUON_RATIO), (False, others, 1.0)):
            chosen = [p for p in group["params"] if (p.ndim == 2) is wanted]
            if chosen:
                # Muon's steps are orthogonal matrices, so its rate is on another scale than
                # AdamW's.
                scale = ratio * factor
                part.append({"params": chosen, "factor": scale, "lr": lr * scale})

    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        from ase_nnp.training.muon import Muon  # torch has it from 2.9 on

        # Its decay is a fraction of its own, larger rate.
        decay = weight_decay / MUON_RATIO
        optimizers.append(Muon(matrices, lr=lr, weight_decay=decay))
    if others:
        optimizers.append(
            torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, fused=_fusible(others))
        )
    return optimizers
