"""Fine-tuning: change a trained model for other data without spoiling what it knows.

Parts are frozen by name; low-rank additions (LoRA, arXiv:2106.09685) train few numbers and are
merged before saving; old data is replayed; weights are kept close to where they started, evenly or
by their importance (EWC, arXiv:1612.00796). Replay and such penalties are the rehearsal and the
parameter regularization of lifelong potentials (arXiv:2303.05911), to which the CoRe optimizer
(:mod:`ase_nnp.training.core_optimizer`) belongs. Reference energies are shifted where labels come
from another functional (:mod:`ase_nnp.training.references`); elements are added in
:mod:`ase_nnp.training.new_elements`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.potential import Potential

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.training.graph_loader import GraphBatch
    from ase_nnp.training.losses import LossFunction

__all__ = [
    "LowRank",
    "add_low_rank",
    "freeze_parts",
    "importance",
    "keep_close",
    "merge_low_rank",
    "mix",
    "plain",
]


def freeze_parts(model: Potential, patterns: Sequence[str]) -> list[str]:
    """Keep parameters as they are; returns their names.

    Parameters
    ----------
    patterns
        Of parameter names, as in a shell: ``"embedding*"``, ``"layers.0.*"``.
    model
        Changed in place.

    Raises
    ------
    ConfigError
        A pattern that fits no parameter, or nothing left to train.
    """
    model.train()
    named = dict(model.named_parameters())
    frozen: list[str] = []
    for pattern in patterns:
        fits = [name for name in named if fnmatchcase(name, pattern)]
        if not fits:
            raise ConfigError(
                f"finetune.freeze: no parameter is called {pattern!r}. There are "
                f"{', '.join(list(named)[:8])}, ..."
            )
        frozen += fits

    for name in frozen:
        named[name].requires_grad_(False)
    if not any(p.requires_grad for p in named.values()):
        raise ConfigError("finetune.freeze leaves no parameter to train.")
    return sorted(set(frozen))


class LowRank(nn.Linear):
    r"""A linear layer with weight ``W + (alpha / rank) B A``; B is zero at the start.

    Hu et al. 2021, arXiv:2106.09685, Eq. 3. :meth:`change` and :meth:`merge` turn a layer in place
    into this kind and back, so that whoever holds or reads the layer sees the changed weight.
    """

    scale: float

    @staticmethod
    def change(layer: nn.Linear, rank: int, alpha: float) -> None:
        """Give a layer its additions."""
        weight = layer._parameters.pop("weight")
        assert weight is not None
        like: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        rows, columns = weight.shape

        # The class changes and the module stays: models find their layers by identity and name.
        layer.__class__ = LowRank
        layer.register_parameter("base", weight)

        # B is zero, so the model starts as it was; A must not be, or no gradient would ever reach B
        # (Hu et al. 2021, arXiv:2106.09685).
        a = torch.randn(rank, columns, **like) / math.sqrt(columns)
        layer.register_parameter("a", nn.Parameter(a))
        layer.register_parameter("b", nn.Parameter(torch.zeros(rows, rank, **like)))
        layer.scale = alpha / rank  # type: ignore[assignment]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The changed weight (out, in)."""
        return self.base + self.scale * (self.b @ self.a)  # type: ignore[operator]

    def merge(self) -> None:
        """Become a plain layer with the changed weight."""
        weight = nn.Parameter(self.weight.detach().clone())
        for name in ("base", "a", "b"):
            del self._parameters[name]
        self.__class__ = nn.Linear  # type: ignore[assignment]
        self.register_parameter("weight", weight)


def add_low_rank(
    model: Potential, rank: int, alpha: float = 1.0, patterns: Sequence[str] = ("*",)
) -> list[str]:
    """Train low-rank additions to linear layers instead of the weights; returns the layers.

    Every other parameter is frozen. :func:`merge_low_rank` makes a plain model of it again.

    Parameters
    ----------
    rank, alpha
        Of the additions.
    patterns
        Of the names of the layers (``torch.nn.Linear``) that get one.
    model
        Changed in place.

    Raises
    ------
    ConfigError
        No linear layer has such a name.
    """
    layers = [
        (name, part)
        for name, part in model.named_modules()
        # Subclasses compute in ways of their own, which an addition to the weight would miss.
        if type(part) is nn.Linear and any(fnmatchcase(name, p) for p in patterns)
    ]
    if not layers:
        linear = [n for n, part in model.named_modules() if isinstance(part, nn.Linear)]
        have = f"There are {', '.join(linear[:6])}, ..." if linear else "This model has none."
        raise ConfigError(f"No linear layer is called {' or '.join(patterns)}. {have}")

    model.train()
    model.requires_grad_(False)
    for _, part in layers:
        LowRank.change(part, rank, alpha)
    return [name for name, _ in layers]


def merge_low_rank(model: nn.Module) -> None:
    """Put the additions into the weights; the model is then of the plain kind."""
    for part in list(model.modules()):
        if isinstance(part, LowRank):
            part.merge()


def plain(model: Potential) -> Potential:
    """Return the model without low-rank additions: itself, or a copy that has them merged."""
    if not any(isinstance(part, LowRank) for part in model.modules()):
        return model

    # Training goes on with the additions apart; only what is saved is merged.
    merged = copy.deepcopy(model)
    merge_low_rank(merged)
    return merged


def mix(new: Sequence[Atoms], old: Sequence[Atoms], fraction: float, seed: int = 0) -> list[Atoms]:
    """Return the new structures with as many old ones that they make up ``fraction`` of all.

    Old structures are drawn without repetition; all of them where there are not enough.
    """
    # From fraction = old / (new + old).
    wanted = min(len(old), round(len(new) * fraction / (1.0 - fraction)))
    drawn = np.random.default_rng(seed).choice(len(old), size=wanted, replace=False)
    return [*new, *(old[int(k)] for k in np.sort(drawn))]


def keep_close(
    model: Potential, strength: float, weights: dict[str, Tensor] | None = None
) -> Callable[[Potential], Tensor]:
    r"""Return a penalty :math:`\frac{\lambda}{2} \sum_k I_k (w_k - w_k^0)^2`.

    Parameters
    ----------
    model
        Its weights now are :math:`w^0`.
    strength
        :math:`\lambda`.
    weights
        :math:`I` by parameter, as from :func:`importance` (elastic weight consolidation,
        Kirkpatrick et al. 2017, arXiv:1612.00796, Eq. 3); 1 everywhere without.
    """
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def penalty(now: Potential) -> Tensor:
        total: Tensor = torch.zeros((), device=now.device, dtype=now.dtype)
        for name, parameter in now.named_parameters():
            if name in start:
                square = (parameter - start[name].to(parameter.device)).square()
                if weights is not None:
                    square = square * weights[name].to(parameter.device)
                total = total + square.sum()
        return 0.5 * strength * total

    return penalty


def importance(
    model: Potential, loss: LossFunction, batches: Sequence[GraphBatch]
) -> dict[str, Tensor]:
    """Return the mean squared gradient of the loss of each parameter over batches.

    The diagonal of the empirical Fisher matrix, up to the scale of the loss, on the data the model
    was trained on.
    """
    from ase_nnp.training.losses import combine

    model.train()  # or forces would come without their graph
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    total = {n: torch.zeros_like(p) for n, p in named.items()}
    count = 0

    for batch in batches:
        parts = loss(model.compute(batch.to(model.device).graph, loss.names), batch)
        value = combine(parts.sums, parts.counts, loss.weights(1.0))

        grads = torch.autograd.grad(value, list(named.values()), allow_unused=True)
        for (name, _), grad in zip(named.items(), grads, strict=True):
            if grad is not None:
                # The diagonal of the empirical Fisher matrix (Kirkpatrick et al. 2017,
                # doi:10.1073/pnas.1611835114).
                total[name] += grad.square()
        count += 1
    return {n: v / max(1, count) for n, v in total.items()}
