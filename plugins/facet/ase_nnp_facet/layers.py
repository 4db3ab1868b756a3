"""Building blocks on flat feature rows: equivariant linear map, layer norm, dense layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ase_nnp.errors import ConfigError

from .irreps import Irreps

__all__ = [
    "MLP",
    "EquivariantLinear",
    "LayerNorm",
    "Names",
    "activation",
    "glorot_",
    "learn_or_keep",
    "pad_truncate",
]

#: Pairs of a parameter's name in the published weights and the parameter.
Names = Iterator[tuple[str, nn.Parameter]]


def glorot_(weight: Tensor) -> Tensor:
    """Fill a (fan-in, fan-out) matrix from a normal, cut at two widths, variance 2 / (in + out)."""
    width = math.sqrt(2.0 / (weight.shape[0] + weight.shape[1])) / 0.87962566103423978
    return nn.init.trunc_normal_(weight, std=width, a=-2 * width, b=2 * width)


def learn_or_keep(module: nn.Module, name: str, value: Tensor, learn: bool) -> None:
    """Give ``module`` a tensor: a parameter if it is to learn, else a constant in the weights."""
    if learn:
        module.register_parameter(name, nn.Parameter(value.float()))
    else:
        module.register_buffer(name, value.double())


def _identity(x: Tensor) -> Tensor:
    return x


def activation(name: str) -> Any:
    """Return the function behind a configured name."""
    known = {"silu": F.silu, "tanh": torch.tanh, "gelu": F.gelu, "relu": F.relu}
    if name.lower() == "identity":
        return _identity
    if name.lower() not in known:
        raise ConfigError(f"Unknown activation {name!r}; known: identity, {', '.join(known)}.")
    return known[name.lower()]


class EquivariantLinear(nn.Module):
    r"""Mix the channels of each degree, :math:`h^l_w = M_l^{-1/2} \sum_u W^l_{uw} x^l_u`.

    A degree that the input lacks comes out as zeros.
    """

    def __init__(self, inputs: Irreps, outputs: Irreps) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weights = nn.ParameterDict(
            {
                str(degree): nn.Parameter(torch.randn(inputs.mult(degree), outputs.mult(degree)))
                for degree in outputs.degrees
                if inputs.mult(degree)
            }
        )

    def names(self) -> Names:
        """Published names: block numbers and irreps on both sides."""
        for key, weight in self.weights.items():
            degree = int(key)
            i, o = self.inputs.degrees.index(degree), self.outputs.degrees.index(degree)
            yield f"w[{i},{o}] {weight.shape[0]}x{degree}e,{weight.shape[1]}x{degree}e", weight

    def block(self, x: Tensor, degree: int) -> Tensor:
        """Map one degree: channels (N, M, 2l + 1) to (N, M_out, 2l + 1)."""
        weight = self.weights[str(degree)] * self.inputs.mult(degree) ** -0.5
        # Rows times one matrix: backward passes taken together (vmap) then never repeat it.
        rows = x.transpose(1, 2).reshape(-1, x.shape[1]) @ weight
        mixed: Tensor = rows.unflatten(0, (-1, 2 * degree + 1))
        return mixed.transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map flat rows (N, inputs.dim) to (N, outputs.dim)."""
        return self.join(self.inputs.split(x), x)

    def join(self, blocks: Mapping[int, Tensor], like: Tensor) -> Tensor:
        """Map blocks (N, M_l, 2l + 1) by degree to flat rows (N, outputs.dim)."""
        parts = []
        for degree in self.outputs.degrees:
            if str(degree) in self.weights:
                parts.append(self.block(blocks[degree], degree).flatten(1))
            else:
                width = self.outputs.mult(degree) * (2 * degree + 1)
                parts.append(like.new_zeros(like.shape[0], width))
        return torch.cat(parts, dim=1)


class LayerNorm(nn.Module):
    """Scale scalars, and all higher degrees together, to unit size; one learned factor a channel.

    ``eps`` is added under the root and behind it, as published (there 1e-6). It decides how small a
    feature may become before it fades: a large one keeps the energy from turning sharply where the
    last neighbour of an atom leaves.
    """

    channel: Tensor

    def __init__(self, irreps: Irreps, init: str, eps: float) -> None:
        super().__init__()
        self.eps = eps
        if init not in ("zeros", "ones"):
            raise ConfigError(f"resid_init must be 'zeros' or 'ones', not {init!r}.")
        self.irreps = irreps
        start = torch.zeros if init == "zeros" else torch.ones
        self.ln_scale = nn.Parameter(start(irreps.channels))
        channel = torch.arange(irreps.channels)
        widths = [2 * k + 1 for k, mult in enumerate(irreps.mults) for _ in range(mult)]
        self.register_buffer(
            "channel", channel.repeat_interleave(torch.tensor(widths)), persistent=False
        )

    def names(self) -> Names:
        """Published name."""
        yield "ln_scale", self.ln_scale

    def forward(self, x: Tensor) -> Tensor:
        """Normalise flat rows (N, D)."""
        count = self.irreps.mults[0]
        scalars, rest = x.split((count, x.shape[1] - count), dim=1)
        scalars = scalars - scalars.mean(dim=1, keepdim=True)
        parts = [scalars * self._inverse(scalars)]
        if rest.shape[1]:
            parts.append(rest * self._inverse(rest))
        return torch.cat(parts, dim=1) * self.ln_scale[self.channel]

    def _inverse(self, x: Tensor) -> Tensor:
        mean_square = (x * x).mean(dim=1, keepdim=True)
        return 1.0 / ((mean_square + self.eps).sqrt() + self.eps)


def pad_truncate(x: Tensor, inputs: Irreps, outputs: Irreps) -> Tensor:
    """Carry the first channels of each degree over; missing ones become zero."""
    if inputs == outputs:
        return x
    parts = []
    for degree in outputs.degrees:
        width = outputs.mult(degree) * (2 * degree + 1)
        block = x[:, inputs.slice(degree)][:, :width] if inputs.mult(degree) else x[:, :0]
        parts.append(F.pad(block, (0, width - block.shape[1])))
    return torch.cat(parts, dim=1)


class MLP(nn.Module):
    """Dense layers on the last axis with an activation between; no bias, as published."""

    def __init__(
        self, sizes: Sequence[int], options: Mapping[str, Any], last_activation: str | None = None
    ) -> None:
        super().__init__()
        self.kernels = nn.ParameterList(
            nn.Parameter(glorot_(torch.empty(a, b))) for a, b in pairwise(sizes)
        )
        self.biases = nn.ParameterList()
        if options.get("use_bias"):
            self.biases.extend(nn.Parameter(torch.zeros(b)) for b in sizes[1:])
        self.act = activation(options["activation"])
        self.last_act = activation(last_activation or options["final_activation"])
        self.dropout = float(options.get("dropout", 0.0))
        self.residual = bool(options.get("residual")) and sizes[0] == sizes[-1]
        self.norms = nn.ModuleList()
        if str(options.get("normalization", "Identity")).lower() == "layer":
            self.norms.extend(nn.LayerNorm(b, eps=1e-6, bias=False) for b in sizes[1:-1])

    def names(self) -> Names:
        """Published names."""
        for i, kernel in enumerate(self.kernels):
            yield f"Dense_{i}/kernel", kernel
        for i, bias in enumerate(self.biases):
            yield f"Dense_{i}/bias", bias
        for i, norm in enumerate(self.norms):
            yield f"LayerNorm_{i}/scale", next(norm.parameters())

    def hidden(self, x: Tensor) -> Tensor:
        """Everything before the last dense layer."""
        for i in range(len(self.kernels) - 1):
            x = self.act(self._dense(x, i))
            if self.dropout and self.training:
                x = F.dropout(x, self.dropout)
            if len(self.norms):
                x = self.norms[i](x)
        return x

    def _dense(self, x: Tensor, i: int) -> Tensor:
        x = x @ self.kernels[i]
        return x + self.biases[i] if len(self.biases) else x

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (..., sizes[0])."""
        y: Tensor = self.last_act(self._dense(self.hidden(x), len(self.kernels) - 1))
        return x + y if self.residual else y
