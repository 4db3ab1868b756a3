"""Features of atoms for distances: a layer of the model, or neighbors' distances."""

from __future__ import annotations

from typing import Any

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential

__all__ = ["atom_features", "radial_descriptor"]


def radial_descriptor(graph: AtomGraph, cutoff: float, width: int = 12) -> Tensor:
    """Rotation-invariant features (N, 2 width) of any batch: who is near, and how heavy.

    Smooth Gaussians of the neighbor distances up to ``cutoff``, plain and weighted with the
    neighbors' atomic numbers. For models without features of their own.
    """
    distance = graph.edge_vectors().norm(dim=1, keepdim=True)
    centers = torch.linspace(0.5, cutoff, width).to(distance)
    spacing = (cutoff - 0.5) / (width - 1)
    # Zero with its slope at the cutoff, so that an atom that comes in changes nothing at once.
    envelope = (0.5 * (1 + torch.cos(torch.pi * distance.clamp(max=cutoff) / cutoff))).square()
    gaussian = torch.exp(-0.5 * ((distance - centers) / spacing) ** 2) * envelope

    # Over ten: heavy neighbors must not drown the plain sums.
    source, target = graph.edge_index
    weighted = gaussian * graph.atomic_numbers[source, None].to(gaussian) / 10
    rows = torch.cat([gaussian, weighted], dim=1)
    return rows.new_zeros((graph.num_atoms, 2 * width)).index_add(0, target, rows)


def _inputs(model: Potential, graph: AtomGraph) -> dict[str, Tensor]:
    """Per-atom rows that modules are called with, by name, in the order of the calls."""
    candidates: dict[str, Tensor] = {}
    twice: set[str] = set()
    handles = []
    for name, module in model.named_modules():
        if not name:
            continue

        def note(m: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            x = args[0] if args else None
            if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1 and x.shape[-1] > 1:
                rows = x.detach().reshape(-1, x.shape[-1])
                if rows.shape[0] == graph.num_atoms:
                    # A module that is called twice has two inputs; none of them is the features.
                    if name in candidates:
                        twice.add(name)
                    candidates[name] = rows

        handles.append(module.register_forward_pre_hook(note))
    try:
        model.compute(graph, ("energy",))
    finally:
        for handle in handles:
            handle.remove()
    return {name: rows for name, rows in candidates.items() if name not in twice}


def atom_features(model: Potential, graph: AtomGraph) -> str:
    """Name the last module whose input has one row per atom and does not turn with the structure.

    A model that is not exactly equivariant has none; there the last linear layer is taken. ``""``
    means that nothing fits but the radial descriptor.
    """
    first = _inputs(model, graph)
    turn = torch.as_tensor(Rotation.from_rotvec([0.4, -0.9, 1.3]).as_matrix()).to(graph.positions)
    turned = graph.replace(positions=graph.positions @ turn.T, cell=graph.cell @ turn.T)
    second = _inputs(model, turned)

    # From the last one back: later layers have seen more of the surroundings.
    for name in reversed(first):
        rows = first[name]
        fixed = name in second and (rows - second[name]).norm() <= 1e-3 * rows.norm()
        # Rows that are all alike tell no atoms apart.
        if fixed and float((rows - rows.mean(dim=0)).norm()) > 1e-6 * float(rows.norm()):
            return name
    layers = [n for n in first if isinstance(model.get_submodule(n), nn.Linear)]
    return layers[-1] if layers else ""
