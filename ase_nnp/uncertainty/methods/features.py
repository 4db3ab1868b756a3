"""Finding a model's last linear layer, and its features for each atom and structure.

A model may name its layer with an attribute ``last_layer`` (``"head.out"``). Otherwise every
linear layer with one output is tried, the last one called first, and taken only if the energy is
shown to be linear in its weights with exactly the features found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp.errors import UncertaintyError
from ase_nnp.graph import AtomGraph
from ase_nnp.potential import Potential

__all__ = ["LastLayer", "atom_features", "find_last_layer", "radial_descriptor"]


@dataclass(frozen=True)
class LastLayer:
    """A linear read-out: ``E = scale * sum_i w . x_i + rest``.

    Attributes
    ----------
    name
        Of the submodule.
    rows
        ``"atom"`` (one or several rows per atom) or ``"structure"``.
    scale
        Of the energy against the layer's output (normalisation, mean over rows).
    mean
        Structure features are means over its atoms, not sums.
    """

    name: str
    rows: str
    scale: float
    mean: bool = False

    @contextmanager
    def watch(self, model: Potential) -> Iterator[list[Tensor]]:
        """Collect the layer's inputs of the forward calls inside the block."""
        caught: list[Tensor] = []
        layer = model.get_submodule(self.name)
        handle = layer.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
        try:
            yield caught
        finally:
            handle.remove()

    def split(self, x: Tensor, graph: AtomGraph) -> tuple[Tensor | None, Tensor]:
        """Per-atom (N, d), if there are any, and per-structure (B, d) features of an input."""
        flat = x.reshape(-1, x.shape[-1]) * self.scale
        if self.rows == "structure":
            return None, flat
        atoms = flat.reshape(graph.num_atoms, -1, flat.shape[1]).sum(dim=1)
        if self.mean:
            atoms = atoms / graph.atoms_per_structure()[graph.batch][:, None].to(atoms)
        total = atoms.new_zeros((graph.num_structures, atoms.shape[1]))
        return atoms, total.index_add(0, graph.batch, atoms)


def energy_of(model: Potential, graph: AtomGraph) -> Tensor:
    """Energies (B,) with their computation graph, as cheaply as the model allows."""
    if hasattr(model, "energies"):
        found: Any = model.energies(graph)  # type: ignore[operator]
        return found["energy"] if isinstance(found, dict) else found  # type: ignore[no-any-return]
    return model(graph)["energy"]  # type: ignore[no-any-return]


def find_last_layer(model: Potential, graph: AtomGraph) -> LastLayer:
    """Find and verify the last linear layer on a batch of structures of different sizes.

    Raises
    ------
    UncertaintyError
        No layer passes; says what to use instead.
    """
    order: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == 1:
            handles.append(
                module.register_forward_pre_hook(lambda m, args, name=name: order.append(name))
            )
    try:
        with torch.no_grad():
            energy_of(model, graph)
    finally:
        for handle in handles:
            handle.remove()
    named = getattr(model, "last_layer", None)
    candidates = [named] if named else [n for n in reversed(order) if order.count(n) == 1]
    for name in candidates:
        layer = _verify(model, graph, name)
        if layer is not None:
            return layer
    raise UncertaintyError(
        f"{model.family or type(model).__name__} has no linear last layer that its energy is "
        "linear in (the attribute last_layer may name one). Use the method 'latent', which works "
        "for every model, or an ensemble."
    )


def _verify(model: Potential, graph: AtomGraph, name: str) -> LastLayer | None:
    """Check ``dE_b/dw = scale * features_b`` and linearity, in float as the model is."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    state = weight.requires_grad
    weight.requires_grad_(True)
    try:
        with LastLayer(name, "atom", 1.0).watch(model) as caught, torch.enable_grad():
            energy = energy_of(model, graph)
        if len(caught) != 1 or not energy.requires_grad:
            return None
        slopes = torch.stack(
            [torch.autograd.grad(e, weight, retain_graph=True)[0].reshape(-1) for e in energy]
        )
    except RuntimeError:
        return None
    finally:
        weight.requires_grad_(state)
    x = caught[0].detach().reshape(-1, weight.shape[1])
    options = []
    if x.shape[0] == graph.num_structures:
        options.append(LastLayer(name, "structure", 1.0))
    if x.shape[0] % graph.num_atoms == 0:
        options += [LastLayer(name, "atom", 1.0), LastLayer(name, "atom", 1.0, mean=True)]
    tolerance = 1e-3 if x.dtype == torch.float32 else 1e-8
    for option in options:
        features = option.split(x, graph)[1]
        scale = float((slopes * features).sum() / (features**2).sum())
        if (slopes - scale * features).norm() <= tolerance * slopes.norm() and scale != 0:
            found = LastLayer(name, option.rows, scale, option.mean)
            return found if _is_linear(model, graph, weight, slopes, tolerance) else None
    return None


def _is_linear(
    model: Potential, graph: AtomGraph, weight: Tensor, slopes: Tensor, tolerance: float
) -> bool:
    with torch.no_grad():
        before = energy_of(model, graph)
        kept = weight.detach().clone()
        step = torch.linspace(-1, 1, weight.numel()).to(weight).reshape(weight.shape)
        step = step * (1 + kept.abs().max())
        try:
            weight.add_(step)
            change = energy_of(model, graph) - before
        finally:
            weight.copy_(kept)
    want = slopes @ step.reshape(-1)
    slack = tolerance * (want.abs().max() + before.abs().max())
    return bool((change - want).abs().max() <= 10 * slack)


def radial_descriptor(graph: AtomGraph, cutoff: float, width: int = 12) -> Tensor:
    """Rotation-invariant features (N, 2 width) of any batch: who is near, and how heavy.

    Smooth Gaussians of the neighbour distances up to ``cutoff``, plain and weighted with the
    neighbours' atomic numbers. For models without features of their own.
    """
    distance = graph.edge_vectors().norm(dim=1, keepdim=True)
    centres = torch.linspace(0.5, cutoff, width).to(distance)
    spacing = (cutoff - 0.5) / (width - 1)
    envelope = (0.5 * (1 + torch.cos(torch.pi * distance.clamp(max=cutoff) / cutoff))).square()
    gaussian = torch.exp(-0.5 * ((distance - centres) / spacing) ** 2) * envelope
    source, target = graph.edge_index
    weighted = gaussian * graph.atomic_numbers[source, None].to(gaussian) / 10
    rows = torch.cat([gaussian, weighted], dim=1)
    return rows.new_zeros((graph.num_atoms, 2 * width)).index_add(0, target, rows)


def atom_features(model: Potential, graph: AtomGraph) -> tuple[str, int]:
    """Name the last linear layer with one row per atom and how wide its input is.

    Any number of outputs; falls back to ``("", 0)``, which means the radial descriptor.
    """
    found: list[tuple[str, int]] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):

            def note(m: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                rows = args[0].reshape(-1, args[0].shape[-1]).shape[0]
                if rows == graph.num_atoms and args[0].shape[-1] > 1:
                    found.append((name, int(args[0].shape[-1])))

            handles.append(module.register_forward_pre_hook(note))
    try:
        model.compute(graph, ("energy",))
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, _ in found]
    unique = [(n, d) for n, d in found if names.count(n) == 1]
    return unique[-1] if unique else ("", 0)
