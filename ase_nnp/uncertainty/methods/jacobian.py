"""Derivatives of last-layer features in positions and strain, by batched backward passes."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.energy_gradients import with_strain
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.features import LastLayer, ParameterLayer, energy_of

__all__ = ["FeatureJacobian", "feature_jacobian", "plain_features"]

#: Backward passes taken together on a CPU: at most so many, and no more than keep so many edges in
#: flight, as larger temporaries leave the cache and get fresh pages at every operation.
ROWS, EDGES, FEWEST = 17, 8192, 4


@dataclass(frozen=True)
class FeatureJacobian:
    """Results of a model with features and their derivatives along K directions.

    Attributes
    ----------
    result
        The model's own outputs.
    atoms, total
        Features of atoms (N, d), if any, and of structures (B, d).
    forces
        (K, N, 3) ``-d(Phi . v_k)/dx``.
    stress
        (K, B, 3, 3) ``d(Phi . v_k)/d strain / volume``, if asked for.
    """

    result: dict[str, Tensor]
    atoms: Tensor | None
    total: Tensor
    forces: Tensor
    stress: Tensor | None


def feature_jacobian(
    model: Potential,
    layer: LastLayer | ParameterLayer,
    graph: AtomGraph,
    properties: Collection[str],
    directions: Tensor | None,
    *,
    stress: bool,
) -> FeatureJacobian:
    """Differentiate the features along ``directions`` (d, K), or along each feature.

    A conservative model's own forces and stress are one more row of the same backward pass.
    """
    joint = isinstance(model, Conservative) and set(properties) <= {"energy", "forces", "stress"}
    # Outputs beside energy and its gradients come from a pass of their own.
    result: dict[str, Tensor] = {} if joint else dict(model.compute(graph, properties))
    wanted = [graph.positions.detach().requires_grad_(True)]

    with layer.watch(model) as caught, torch.enable_grad():
        moved = graph.replace(positions=wanted[0])
        if stress:
            moved, strain = with_strain(graph, wanted[0])
            wanted.append(strain)
        energy = energy_of(model, moved)
        atoms, total = layer.read(caught, moved, energy, differentiable=True)
        if not total.requires_grad:
            raise UncertaintyError(
                "The features do not depend on positions differentiably; use force_std='none'."
            )
        rows = total.sum(dim=0)
        if directions is not None:
            rows = rows @ directions.to(rows)
        outputs = torch.cat([rows, energy.sum()[None]]) if joint else rows
        values = _backward(outputs, wanted, graph.num_edges)

    forces = -values[0]
    tensor = None
    if stress:
        volume = torch.linalg.det(graph.cell).abs()[:, None, None]
        # A molecule has no volume, and a stress of zero instead of NaN.
        safe = torch.where(volume > 0, volume, torch.ones_like(volume))
        tensor = torch.where(volume > 0, values[1] / safe, torch.zeros_like(values[1]))

    # The last row is the model's own.
    if joint:
        result["energy"] = energy.detach()
        result["forces"] = forces[-1]
        forces = forces[:-1]
        if tensor is not None:
            result["stress"], tensor = tensor[-1], tensor[:-1]
    return FeatureJacobian(result, atoms, total, forces, tensor)


def _backward(outputs: Tensor, wanted: list[Tensor], edges: int) -> list[Tensor]:
    """Derivatives (K, ...) of K outputs in each tensor, several rows in one backward pass."""
    rows = len(outputs)
    size = rows
    if not outputs.is_cuda:
        most = max(FEWEST, min(ROWS, EDGES // max(edges, 1)))
        size = math.ceil(rows / math.ceil(rows / most))  # parts of equal size

    parts = torch.eye(rows, dtype=outputs.dtype, device=outputs.device).split(size)
    derivatives = []
    for number, seed in enumerate(parts, start=1):
        # The energy of a single atom depends on no position: such gradients are None.
        grads = torch.autograd.grad(
            outputs,
            wanted,
            seed,
            is_grads_batched=True,
            allow_unused=True,
            retain_graph=number < len(parts),
        )
        derivatives.append(
            [
                w.new_zeros((len(seed), *w.shape)) if g is None else g
                for w, g in zip(wanted, grads, strict=True)
            ]
        )
    return [torch.cat(group) for group in zip(*derivatives, strict=True)]


def plain_features(
    model: Potential,
    layer: LastLayer | ParameterLayer,
    graph: AtomGraph,
    properties: Collection[str],
) -> tuple[dict[str, Tensor], Tensor | None, Tensor]:
    """Results of a model with features of atoms, if any, and structures, without derivatives."""
    if isinstance(layer, LastLayer):
        with layer.watch(model) as caught:
            result = dict(model.compute(graph, properties))
        return result, *layer.read(caught, graph, result["energy"], differentiable=False)

    if isinstance(model, Conservative) and set(properties) <= {"energy", "forces"}:
        # One forward for all: the energy's own graph is differentiated twice.
        positions = graph.positions.detach().requires_grad_("forces" in properties)
        with layer.watch(model) as caught, torch.enable_grad():
            energy = energy_of(model, graph.replace(positions=positions))
            _, total = layer.read(caught, graph, energy, differentiable=False)
            result = {"energy": energy.detach()}
            if "forces" in properties:
                result["forces"] = -torch.autograd.grad(energy.sum(), positions)[0]
        return result, None, total

    # Stress, and forces that are no gradient, come from the model itself: a second forward.
    result = dict(model.compute(graph, properties))
    with layer.watch(model) as caught, torch.enable_grad():
        energy = energy_of(model, graph)
        _, total = layer.read(caught, graph, energy, differentiable=False)
    return result, None, total
