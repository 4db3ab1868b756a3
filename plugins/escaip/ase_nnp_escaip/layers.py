"""Small parts that both generations are made of, under the names that their files use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ase_nnp_escaip.config import Settings

__all__ = [
    "Activated",
    "Activation",
    "Constants",
    "DistanceBasis",
    "OutputLayer",
    "ResidualBlock",
    "add_part",
    "feed_forward",
    "legendre",
    "normalization",
    "part",
]

#: Every distance basis is twice as wide as the spacing of its centers.
WIDTH = 2.0


class Constants:
    """Exact tensors in float64, handed out in the precision and on the device of another tensor.

    Buffers would stay rounded once a model has been in single precision.
    """

    def __init__(self, *exact: Tensor) -> None:
        self.exact = exact
        self._ready: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def like(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors as ``x`` is."""
        key = (x.device, x.dtype)
        if key not in self._ready:
            self._ready[key] = tuple(t.to(x.device, x.dtype) for t in self.exact)
        return self._ready[key]


class Activation(nn.Module):
    """One of the named activations, then dropout while training."""

    def __init__(self, name: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.name, self.dropout = name, dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated array, of the same shape."""
        if self.name == "gelu":
            x = functional.gelu(x)
        elif self.name == "relu":
            x = functional.relu(x)
        elif self.name == "leaky_relu":
            x = functional.leaky_relu(x, 0.01)
        elif self.name == "squared_relu":
            x = functional.relu(x).square()
        elif self.name == "star_relu":
            x = 0.8944 * functional.relu(x).square() - 0.4472
        else:  # smelu: a parabola between two straight lines
            parabola = (x + 2).square() / 8
            x = torch.where(x.abs() <= 2, parabola, functional.relu(x))
        return functional.dropout(x, self.dropout) if self.training and self.dropout else x


class ResidualBlock(nn.Module):
    """A block whose changes are added to its input, each dropped at random while training.

    The drop is stochastic depth (Huang et al. 2016, arXiv:1603.09382), a row at a time.
    """

    depth: float

    def _drop(self, x: Tensor) -> Tensor:
        if not self.training or not self.depth:
            return x
        keep = torch.rand(len(x), 1, device=x.device, dtype=x.dtype) >= self.depth
        return x * keep / (1.0 - self.depth)

    def _changed_edges(
        self, edges: list[Tensor], changes: list[Tensor], update: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Return edges with the attention's changes and then their own update added."""
        new_edges = []
        for k in range(len(changes)):
            edge = edges[k] + self._drop(changes[k])
            # Edges are the largest arrays there are: the old ones are let go of at once.
            edges[k] = changes[k] = edge.new_empty(0)
            new_edges.append(edge + self._drop(update(edge)))
        return new_edges


class RMSNorm(nn.RMSNorm):
    """RMS norm in the precision of its weight, also where autocast hands it less."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized array."""
        return super().forward(x.to(self.weight.dtype))


class Activated(nn.Sequential):
    """Linear and activation; the weights are called ``0.weight`` and ``0.bias``."""

    def __init__(self, settings: Settings, inputs: int, outputs: int) -> None:
        activation = Activation(settings.activation, settings.mlp_dropout)
        super().__init__(nn.Linear(inputs, outputs), activation)

    @property
    def linear(self) -> nn.Linear:
        """The linear layer."""
        layer = self[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def activate(self, x: Tensor) -> Tensor:
        """Apply the activation alone."""
        result: Tensor = self[1](x)
        return result


def feed_forward(settings: Settings, multiplier: int) -> nn.Sequential:
    """Two linear layers with an activation between, ``0.0.*`` and ``1.0.*``; 0 is one layer."""
    size = settings.hidden_size
    if multiplier == 0:
        return nn.Sequential(nn.Linear(size, size))
    return nn.Sequential(
        Activated(settings, size, multiplier * size),
        nn.Sequential(nn.Linear(multiplier * size, size)),
    )


def normalization(settings: Settings) -> nn.Module:
    """RMS norm (its epsilon is that of the precision), layer norm, or nothing."""
    if settings.normalization == "rmsnorm":
        return RMSNorm(settings.hidden_size, eps=None)
    if settings.normalization == "layernorm":
        return nn.LayerNorm(settings.hidden_size, eps=1e-5)
    return nn.Identity()


class OutputLayer(nn.Module):
    """Feed-forward network and a last linear layer without bias."""

    def __init__(self, settings: Settings, outputs: int) -> None:
        super().__init__()
        self.ffn = feed_forward(settings, settings.output_hidden_layer_multiplier)
        self.final_output = nn.Sequential(nn.Linear(settings.hidden_size, outputs, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs) from (..., H)."""
        result: Tensor = self.final_output(self.ffn(x))
        return result


class DistanceBasis(nn.Module):
    """Values of a distance on equally spaced centers from 0 to the cutoff.

    ``published`` keeps the centers in single precision and in the state dict, as generation 1
    does; otherwise they are exact and no part of the weights.
    """

    def __init__(self, settings: Settings, *, published: bool) -> None:
        super().__init__()
        centers = np.linspace(0.0, settings.max_radius, settings.edge_distance_expansion_size)
        if published:
            single = centers.astype(np.float32)
            self.register_buffer("offset", torch.from_numpy(single))
            self.step = float(single[1] - single[0])
        else:
            self.offset = None
            self.step = float(centers[1] - centers[0])
        self.centers = Constants(torch.from_numpy(centers))
        self.function = settings.distance_function.replace("linears", "linear_s")

    def forward(self, distance: Tensor) -> Tensor:
        """Return (R, G) from distances (R,) in Angstrom."""
        offset = self.centers.like(distance)[0] if self.offset is None else self.offset
        x = distance[:, None] - offset
        if self.function == "gaussian":
            return torch.exp(x.square().mul_(-0.5 / (WIDTH * self.step) ** 2))
        x = x * (WIDTH / self.step)
        if self.function == "linear_sigmoid":
            return torch.sigmoid(x) + 0.001 * x
        return torch.sigmoid(x)


def legendre(cosine: Tensor, order: int, unit: Tensor | float = 1.0) -> list[Tensor]:
    """Return the Legendre polynomials of degree 0 to ``order``.

    ``unit`` is the product of the squared lengths of the two directions: with 0 for a pair that
    has no direction, every degree above 0 vanishes there.
    """
    polynomials = [torch.ones_like(cosine), cosine]
    for degree in range(2, order + 1):
        first = (2 * degree - 1) / degree * cosine * polynomials[-1]
        polynomials.append(first - (degree - 1) / degree * unit * polynomials[-2])
    return polynomials[: order + 1]


def part(layer: nn.Linear, first: int, last: int, x: Tensor) -> Tensor:
    """Apply the columns ``first:last`` of a linear layer, without its bias.

    A layer on joined inputs is the sum of such parts, and a part that only depends on the atom is
    computed once per atom instead of once per neighbor.
    """
    return functional.linear(x, layer.weight[:, first:last])


def add_part(total: Tensor, layer: nn.Linear, first: int, last: int, x: Tensor) -> Tensor:
    """Add :func:`part` to ``total`` in place, which must be a fresh array."""
    weight = layer.weight[:, first:last]
    if total.dtype == x.dtype == weight.dtype:
        return total.addmm_(x, weight.t())
    return total.add_(functional.linear(x, weight))
