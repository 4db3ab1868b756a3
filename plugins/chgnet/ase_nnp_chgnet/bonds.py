"""From directed edges to the two graphs of CHGNet: undirected bonds, and angles between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_nnp.errors import StructureError
from ase_nnp.models.graph import AtomGraph

__all__ = ["Angles", "Bonds", "find_angles", "pair_edges"]


@dataclass(frozen=True)
class Bonds:
    """E directed edges as U = E / 2 bonds."""

    edges: Tensor  # (E, 2) int64, [center, neighbor]
    image: Tensor  # (E, 3) int64, cell of the neighbor
    vectors: Tensor  # (E, 3) Angstrom, from the center to the neighbor
    bond: Tensor  # (E,) int64, the bond an edge belongs to
    first: Tensor  # (U,) int64, one of the two edges of a bond, the other is its reverse


@dataclass(frozen=True)
class Angles:
    """A ordered pairs of different edges that share their center."""

    table: Tensor  # (A, 3) int64, [center, bond that is updated, bond that it sees]
    left: Tensor  # (A,) int64, edge of the first bond
    right: Tensor  # (A,) int64, edge of the second


def pair_edges(graph: AtomGraph, cutoff: float) -> Bonds:
    """Find for each edge ``j -> i`` its reverse, and call the two a bond.

    The reverse of ``(i, j, S)`` is ``(j, i, -S)``. An edge without one is dropped when it ends at
    the cutoff, where round-off decides and nothing is felt.

    Raises
    ------
    StructureError
        An edge well inside the cutoff has no reverse.
    """
    neighbor, center = graph.edge_index
    shift = graph.edge_shift.long()
    vectors = graph.edge_vectors()

    with torch.no_grad():
        reach = int(shift.abs().max()) if len(shift) else 0
        width = 2 * reach + 1
        image = (shift[:, 0] * width + shift[:, 1]) * width + shift[:, 2]  # odd in the shift
        along = (neighbor > center) | ((neighbor == center) & (image > 0))
        low, high = torch.minimum(center, neighbor), torch.maximum(center, neighbor)
        key = (low * graph.num_atoms + high) * (2 * width**3) + torch.where(along, image, -image)
        one, two = torch.nonzero(along)[:, 0], torch.nonzero(~along)[:, 0]
        one, two = one[torch.argsort(key[one])], two[torch.argsort(key[two])]
        if len(one) != len(two) or not torch.equal(key[one], key[two]):
            one, two = _matched(one, two, key, vectors, cutoff)

    if len(one) + len(two) == len(key):
        bond = torch.empty_like(key)
        bond[one] = bond[two] = torch.arange(len(one), device=key.device)
        edges = torch.stack([center, neighbor], dim=1)
        return Bonds(edges, shift, vectors, bond, one)

    keep = torch.cat([one, two]).sort().values
    pruned = graph.replace(edge_index=graph.edge_index[:, keep], edge_shift=graph.edge_shift[keep])
    return pair_edges(pruned, cutoff)


def _matched(
    one: Tensor, two: Tensor, key: Tensor, vectors: Tensor, cutoff: float
) -> tuple[Tensor, Tensor]:
    keep_one, keep_two = torch.isin(key[one], key[two]), torch.isin(key[two], key[one])
    alone = torch.cat([one[~keep_one], two[~keep_two]])
    shortest = float(vectors[alone].norm(dim=1).min()) if len(alone) else 0.0
    if shortest < cutoff - 1e-4:
        raise StructureError(
            f"An edge of {shortest:.3f} Angstrom has no reverse, or is there twice. This model "
            "needs every edge in both directions; AtomGraph.from_atoms makes them so."
        )
    return one[keep_one], two[keep_two]


@torch.no_grad()
def find_angles(bonds: Bonds, lengths: Tensor, cutoff: float, num_atoms: int) -> Angles:
    """Return all ordered pairs of edges shorter than ``cutoff`` around each atom.

    Parameters
    ----------
    lengths
        (U,) of the bonds, Angstrom.
    bonds, cutoff, num_atoms
        The bonds, their greatest length in Angstrom, the number of atoms.
    """
    short = torch.nonzero(lengths[bonds.bond] < cutoff)[:, 0]
    short = short[torch.argsort(bonds.edges[short, 0], stable=True)]
    center = bonds.edges[short, 0]
    count = torch.bincount(center, minlength=num_atoms)
    start = torch.cumsum(count, 0) - count
    others = count[center] - 1  # partners of each short edge
    place = torch.arange(len(short), device=short.device)
    left = torch.repeat_interleave(place, others)
    rank = torch.arange(len(left), device=short.device) - (torch.cumsum(others, 0) - others)[left]
    own = place - start[center]
    right = start[center[left]] + rank + (rank >= own[left])  # steps over itself
    left, right = short[left], short[right]
    table = torch.stack([bonds.edges[left, 0], bonds.bond[left], bonds.bond[right]], dim=1)
    return Angles(table, left, right)
