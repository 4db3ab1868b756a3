"""Forces and stress: gradients of an energy in positions and strain, from one backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ase_nnp.errors import PredictionError
from ase_nnp.models.graph import AtomGraph

__all__ = ["gradients", "with_strain"]


def with_strain(graph: AtomGraph, positions: Tensor) -> tuple[AtomGraph, Tensor]:
    """Return the graph at ``positions`` under a strain that is zero, and the strain (B, 3, 3).

    An energy of that graph can be differentiated in both. Only the symmetric part acts: a turn of
    the cell is no stress (Knuth et al. 2015, doi:10.1016/j.cpc.2015.01.003).
    """
    strain = torch.zeros_like(graph.cell, requires_grad=True)
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    moved = positions + torch.einsum("nc,ncd->nd", positions, symmetric[graph.batch])
    return graph.replace(positions=moved, cell=graph.cell + graph.cell @ symmetric), strain


def gradients(
    energies: Any, graph: AtomGraph, *, forces: bool, stress: bool, keep: bool
) -> dict[str, Tensor]:
    """Energy with its derivatives in positions and strain, from a single backward pass."""
    wanted: list[Tensor] = []
    positions, cell = graph.positions, graph.cell
    if forces:
        # Detached first: a leaf of its own, so that the caller's tensor gets no gradient by the
        # way.
        if not positions.requires_grad:
            positions = positions.detach().requires_grad_(True)
        wanted.append(positions)

    if stress:
        graph, strain = with_strain(graph, positions)
        wanted.append(strain)
    elif forces:
        graph = graph.replace(positions=positions)

    result = energies(graph)
    result = dict(result) if isinstance(result, dict) else {"energy": result}
    _check_energy(result.get("energy"), needed=bool(wanted))
    if not wanted:
        return result

    # One backward pass of the sum serves a whole batch: no energy depends on another structure's
    # atoms.
    energy = result["energy"]
    if energy.requires_grad:
        grads = torch.autograd.grad(
            energy.sum(), wanted, create_graph=keep, retain_graph=keep, allow_unused=True
        )
    else:  # no atom saw another: the energy is constant
        grads = tuple(torch.zeros_like(w) for w in wanted)
    values = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, wanted, strict=True)]

    if forces:
        result["forces"] = -values[0]
    if stress:
        # sigma = dE/d(strain) / V (positive under tension, as in ASE). A molecule's cell may have
        # no volume: then the stress is zero and not a division by it.
        normal = torch.linalg.cross(cell[:, 1], cell[:, 2])
        volume = (cell[:, 0] * normal).sum(1).abs()[:, None, None]
        safe = torch.where(volume > 0, volume, torch.ones_like(volume))
        result["stress"] = torch.where(volume > 0, values[-1] / safe, torch.zeros_like(values[-1]))
    return result


def _check_energy(energy: Any, needed: bool) -> None:
    """Refuse what has no gradient or would be summed over more than structures."""
    if energy is None and not needed:
        return
    if isinstance(energy, Tensor) and energy.ndim == 1 and energy.is_floating_point():
        return
    found = type(energy).__name__
    if isinstance(energy, Tensor):
        found = f"a tensor of shape {tuple(energy.shape)} and {energy.dtype}"
    raise PredictionError(
        f"energies(graph) gave {found}; wanted: a floating-point tensor (B,) with an energy for "
        "each structure, or a dictionary with that as 'energy'."
    )
