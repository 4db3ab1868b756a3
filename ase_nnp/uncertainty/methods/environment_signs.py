"""Signs of how wrong a model is: distances of atoms, those of their neighbors, spreads."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ase_nnp.models.graph import AtomGraph
from ase_nnp.uncertainty.methods.latent import FAR, reduce_atoms

__all__ = [
    "FLOOR",
    "atom_signs",
    "edge_lengths",
    "neighbor_mean",
    "neighbor_weights",
    "score_table",
    "structure_signs",
]

FLOOR = 1e-12


def edge_lengths(graph: AtomGraph) -> Tensor:
    """Lengths (E,) of edges in Angstrom, without gradient."""
    lengths: Tensor = torch.linalg.vector_norm(graph.edge_vectors().detach(), dim=1)
    return lengths


def _envelope(lengths: Tensor, cutoff: float) -> Tensor:
    """Weights (E,) before they are normalized: smooth, zero at the cutoff or 6 Angstrom; float64.

    ``((1 + cos(pi r / reach)) / 2)^2``, as the fourth power of half the angle's cosine.
    """
    # Near neighbors tell most: means over 3 Angstrom gave better error bars than over 5.
    reach = min(cutoff, 6.0)
    half = lengths.double().clamp(max=reach).mul_(torch.pi / (2 * reach))
    return half.cos_().square_().square_()


def neighbor_weights(graph: AtomGraph, cutoff: float) -> Tensor:
    """Weights (E,) of edges that sum to 1 for each atom with neighbors, near ones larger.

    They fall smoothly to zero at the cutoff, or 6 Angstrom; float64.
    """
    envelope, target = _envelope(edge_lengths(graph), cutoff), graph.edge_index[1]
    mass = envelope.new_zeros(graph.num_atoms).index_add_(0, target, envelope)
    return envelope / mass.clamp(min=FLOOR)[target]


def neighbor_mean(
    values: Tensor, graph: AtomGraph, cutoff: float, lengths: Tensor | None = None
) -> Tensor:
    """Mean (N,) of atoms' values over their neighbors; an atom without any keeps its own value.

    ``lengths`` are those of the edges, where they are known already.
    """
    source, target = graph.edge_index
    weight = _envelope(edge_lengths(graph) if lengths is None else lengths, cutoff).to(values)
    mass = values.new_zeros(len(values)).index_add_(0, target, weight)
    near = weight.mul_(values.index_select(0, source))
    total = values.new_zeros(len(values)).index_add_(0, target, near)
    return torch.where(mass > FLOOR, total / mass, values)


def atom_signs(far: Tensor, near: Tensor, forces_std: Tensor | None) -> Tensor:
    """Logarithms (N, 2 or 3): own distance, neighbors' distance, and a committee's spread."""
    columns = [far.clamp(FLOOR, FAR).log(), near.clamp(FLOOR, FAR).log()]
    if forces_std is not None:
        columns.append(forces_std.double().square().mean(dim=1).sqrt().clamp(min=1e-6).log())
    return torch.stack([c.double() for c in columns], dim=1)


def structure_signs(square: Tensor, work: Tensor, energy_std: Tensor | None) -> Tensor:
    """Logarithms (B, 2 or 3): expected force errors, an energy std, and how far these act.

    ``square`` (B,) holds the sums of the variances of atoms' forces, ``work`` those with each times
    its atom's squared distance. An energy is off by the work of force errors on the way from what
    is known, so that it grows with the root of the first and with the root of their ratio.
    """
    columns = [0.5 * square.clamp(min=FLOOR**2).log()]
    if energy_std is not None:
        columns.append(energy_std.double().clamp(min=1e-6).log())
    columns.append(0.5 * (work / square.clamp(min=FLOOR**2)).clamp(min=FLOOR**2).log())
    return torch.stack(columns, dim=1)


def score_table(
    far: Tensor,
    square: Tensor,
    batch: Tensor,
    structures: int,
    energy_std: Tensor | None,
    names: Collection[str] = ("expected", "mean", "quantile", "largest", "energy_std"),
) -> dict[str, Tensor]:
    """Scores (B,) by name, as far as they can be had; ``"energy_std"`` is over the root of N."""
    count = torch.bincount(batch, minlength=structures).to(far)
    table = {
        how: reduce_atoms(far, batch, structures, how)
        for how in ("mean", "quantile", "largest")
        if how in names
    }
    if "expected" in names:
        # An element that was never seen is infinitely far, whatever is expected of its force.
        worst = reduce_atoms(far, batch, structures, "largest")
        table["expected"] = torch.where(worst.isinf(), worst, (square / count).sqrt())
    if energy_std is not None and "energy_std" in names:
        table["energy_std"] = energy_std.double() / count.sqrt()
    return table
