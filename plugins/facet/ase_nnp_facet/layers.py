"""Building blocks on features by degree: equivariant linear map, layer norm, dense layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ase_nnp.errors import ConfigError

from .irreps import Blocks, Irreps
from .pullback import Pullback

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

    def forward(self, blocks: Blocks) -> Blocks:
        """Map blocks (N, 2 l + 1, M_l) by degree to those of the outputs."""
        mapped = {}
        for degree in self.outputs.degrees:
            if str(degree) not in self.weights:
                mapped[degree] = self._zeros(blocks, degree)
                continue

            # Rows times one matrix: backward passes taken together (vmap) then never repeat it.
            weight = self.weights[str(degree)] * self.inputs.mult(degree) ** -0.5
            rows = blocks[degree].reshape(-1, weight.shape[0]) @ weight
            mapped[degree] = rows.unflatten(0, (-1, 2 * degree + 1))
        return mapped

    def with_pullback(self, blocks: Blocks) -> tuple[Blocks, Pullback]:
        """As :meth:`forward`, and the pullback."""
        present = [k for k in self.outputs.degrees if str(k) in self.weights]
        mapped = {k: self._zeros(blocks, k) for k in self.outputs.degrees if k not in present}
        for degree in present:
            mapped[degree] = self._times(blocks[degree], degree, self.weights[str(degree)])

        def pullback(gradients: Blocks) -> Blocks:
            return {k: self._times(gradients[k], k, self.weights[str(k)].T) for k in present}

        return mapped, pullback

    def _times(self, block: Tensor, degree: int, matrix: Tensor) -> Tensor:
        # The factor is part of the product: a scaled copy of the weights would be made each time.
        scale = self.inputs.mult(degree) ** -0.5
        rows = block.reshape(-1, block.shape[2])
        product = torch.addmm(matrix[0, 0], rows, matrix, beta=0.0, alpha=scale)
        return product.view(block.shape[0], block.shape[1], matrix.shape[1])

    def _zeros(self, blocks: Blocks, degree: int) -> Tensor:
        like = next(iter(blocks.values()))
        return like.new_zeros(like.shape[0], 2 * degree + 1, self.outputs.mult(degree))


class LayerNorm(nn.Module):
    """Scale scalars, and all higher degrees together, to unit size; one learned factor a channel.

    ``eps`` is added under the root and behind it, as published (there 1e-6). It decides how small a
    feature may become before it fades: a large one keeps the energy from turning sharply where the
    last neighbor of an atom leaves.
    """

    def __init__(self, irreps: Irreps, init: str, eps: float) -> None:
        super().__init__()
        self.eps = eps
        if init not in ("zeros", "ones"):
            raise ConfigError(f"resid_init must be 'zeros' or 'ones', not {init!r}.")
        self.irreps = irreps
        start = torch.zeros if init == "zeros" else torch.ones
        self.ln_scale = nn.Parameter(start(irreps.channels))

    def names(self) -> Names:
        """Published name."""
        yield "ln_scale", self.ln_scale

    def forward(self, blocks: Blocks) -> Blocks:
        """Normalize blocks (N, 2 l + 1, M_l)."""
        scalars = blocks[0] - blocks[0].mean(dim=2, keepdim=True)
        factors = {0: self._inverse(scalars.square().mean(dim=2, keepdim=True))}
        higher = self.irreps.degrees[1:]
        if higher:
            squares = [blocks[k].square().sum(dim=(1, 2), keepdim=True) for k in higher]
            total = torch.stack(squares).sum(dim=0)
            rest = self._inverse(total / (self.irreps.dim - self.irreps.mults[0]))
            factors |= dict.fromkeys(higher, rest)

        centered = {**blocks, 0: scalars}
        scales = self._scales()
        return {k: centered[k] * factors[k] * scales[k] for k in self.irreps.degrees}

    def with_pullback(self, blocks: Blocks) -> tuple[Blocks, Pullback]:
        """As :meth:`forward`, and the pullback."""
        scales, higher = self._scales(), self.irreps.degrees[1:]
        centered = {**blocks, 0: blocks[0] - blocks[0].mean(dim=2, keepdim=True)}
        counts = {0: self.irreps.mults[0], 1: self.irreps.dim - self.irreps.mults[0]}
        group = {k: min(k, 1) for k in self.irreps.degrees}

        def over(rows: Iterator[tuple[int, Tensor]]) -> dict[int, Tensor]:
            total: dict[int, Tensor] = {}
            for k, row in rows:
                row = row.sum(dim=(1, 2), keepdim=True)
                total[group[k]] = total[group[k]] + row if group[k] in total else row
            return total

        squares = over((k, centered[k].square()) for k in (0, *higher))
        roots = {g: (s / counts[g] + self.eps).sqrt() for g, s in squares.items()}
        factors = {g: 1.0 / (root + self.eps) for g, root in roots.items()}
        out = {k: centered[k] * factors[group[k]] * scales[k] for k in self.irreps.degrees}

        def pullback(gradients: Blocks) -> Blocks:
            scaled = {k: gradients[k] * scales[k] for k in self.irreps.degrees}
            along = over((k, scaled[k] * centered[k]) for k in self.irreps.degrees)

            # d(factor)/dx = -factor^2 x / (root count).
            back = {g: along[g] * factors[g] ** 2 / (roots[g] * counts[g]) for g in along}
            d = {k: scaled[k] * factors[group[k]] - centered[k] * back[group[k]] for k in scaled}
            return {**d, 0: d[0] - d[0].mean(dim=2, keepdim=True)}

        return out, pullback

    def _scales(self) -> dict[int, Tensor]:
        mults = [self.irreps.mult(k) for k in self.irreps.degrees]
        return dict(zip(self.irreps.degrees, self.ln_scale.split(mults), strict=True))

    def _inverse(self, mean_square: Tensor) -> Tensor:
        return 1.0 / ((mean_square + self.eps).sqrt() + self.eps)


def pad_truncate(blocks: Blocks, inputs: Irreps, outputs: Irreps) -> Blocks:
    """Carry the first channels of each degree over; missing ones become zero."""
    if inputs == outputs:
        return blocks
    like, carried = blocks[0], {}
    for degree in outputs.degrees:
        width = outputs.mult(degree)
        if inputs.mult(degree):
            block = blocks[degree][..., :width]
            carried[degree] = F.pad(block, (0, width - block.shape[2]))
        else:
            carried[degree] = like.new_zeros(like.shape[0], 2 * degree + 1, width)
    return carried


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
