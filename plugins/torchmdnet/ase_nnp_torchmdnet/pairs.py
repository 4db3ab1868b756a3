"""Sums over pairs of atoms that the terms of torchmd-net share."""

from __future__ import annotations

import torch
from torch import Tensor

from ase_nnp.errors import StructureError
from ase_nnp.models.graph import AtomGraph

__all__ = ["LONGEST", "add_up", "all_pairs", "universal_screening"]

#: Angstrom. Beyond, lists of pairs outgrow memory: a number in a stranger's file must not do that.
LONGEST = 60.0
#: The universal screening function of Ziegler, Biersack and Littmark (1985): sum of c exp(-d x).
SCREENING = ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4029), (0.02817, 0.2016))


def universal_screening(x: Tensor) -> Tensor:
    """Return what is left of the nuclei's repulsion at ``x`` screening lengths."""
    return torch.stack([c * torch.exp(-d * x) for c, d in SCREENING]).sum(0)


def add_up(graph: AtomGraph, center: Tensor, halves: Tensor) -> dict[str, Tensor]:
    """Return ``energy`` (B,) and ``energies`` (N,) of halves of pairs (P,), in float64."""
    shares = halves.new_zeros(graph.num_atoms, dtype=torch.float64)
    shares = shares.index_add(0, center, halves.double())
    total = shares.new_zeros(graph.num_structures)
    return {"energy": total.index_add(0, graph.batch, shares), "energies": shares}


def all_pairs(graph: AtomGraph) -> Tensor:
    """Return every ordered pair (2, P) of different atoms of one structure.

    Raises
    ------
    StructureError
        A structure is periodic: the sum over its pairs has no end.
    """
    if bool(graph.pbc.any()):
        raise StructureError(
            "This model sums the Coulomb energy of all pairs, which a periodic structure has no "
            "end of. Take molecules: atoms.pbc = False."
        )
    sizes = graph.atoms_per_structure()
    others = sizes[graph.batch]
    one = torch.arange(graph.num_atoms, device=sizes.device).repeat_interleave(others)

    # The second atoms count from the first of the structure, anew for each first atom.
    start = (sizes.cumsum(0) - sizes)[graph.batch] - (others.cumsum(0) - others)
    two = torch.arange(len(one), device=sizes.device) + start.repeat_interleave(others)
    return torch.stack([one, two])[:, one != two]
