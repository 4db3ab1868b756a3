"""All layers of one evaluation, with one gradient and no autograd graph of what is between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layer import Layer
from .moments import fill
from .places import sort_edges
from .pullback import Evaluation

__all__ = ["evaluate"]


def evaluate(
    layers: Sequence[Layer],
    embedded: Tensor,
    edge_index: Tensor,
    basis: Tensor,
    harmonics: Tensor,
) -> Tensor:
    """Return the features of the last layer (N, outs), differentiable once in the geometry.

    Parameters
    ----------
    layers
        Whose convolutions are linear in the basis.
    embedded
        Features (N, M) that the first layer gets; no gradient is returned for them.
    edge_index
        Senders and receivers (2, E).
    basis, harmonics
        Functions (E, K) and (E, J) of the edges.
    """
    source, target = edge_index
    places = sort_edges(source, target, embedded.shape[0], basis.dtype)
    order = places.order
    back = None if order is None else torch.argsort(order)

    def run(basis: Tensor, harmonics: Tensor) -> tuple[Tensor, object]:
        edges = fill(places, basis, harmonics)
        rows = embedded.detach() if order is None else embedded.detach()[order]
        x, pullbacks = {0: rows[:, None]}, []
        for layer in layers:
            x, pull = layer.with_pullback(x, edges)
            pullbacks.append(pull)
        last = x[0][:, 0]

        def pullback(gradient: Tensor) -> tuple[Tensor, Tensor]:
            d = {0: (gradient if order is None else gradient[order])[:, None]}
            for number in reversed(range(len(pullbacks))):
                d = pullbacks[number](d, number > 0)
            d_basis, d_harmonics = edges.gradient()
            place = places.place
            return d_basis.index_select(0, place), d_harmonics.index_select(0, place)

        return last if back is None else last[back], pullback

    features: Tensor = Evaluation.apply(run, basis, harmonics)
    return features
