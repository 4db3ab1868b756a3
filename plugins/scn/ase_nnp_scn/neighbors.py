"""From an edge list to one padded table of neighbors per resolution.

A message block sees ``(N, K)`` slots, K the largest number of neighbors in the batch. Empty slots
point at the atom itself and have zero rotation rows, so that whatever is computed for them
vanishes. In return every contraction is a dense matrix product and no sum needs a scatter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_nnp_scn.rotation import Degree, back_rotation

#: So many nearest neighbors go to the first of two message blocks.
NEAREST = 12
#: Distances that agree to this (Angstrom) may stand in either block, as the given list has them.
TIE = 1e-4


@dataclass(frozen=True)
class Neighbors:
    """The neighbors of one resolution; T taps, P entries of the rotation rows."""

    source: Tensor  # (N, K) int64
    distance: Tensor  # (N, K)
    rows: Tensor  # (N, K * T, P), by target atom
    back: Tensor  # (N, K * T * R, B), matrices that turn R rows of messages back
    source_rows: Tensor  # (N, Q * T, P), the same rows by source atom
    source_slot: Tensor  # (N, Q), where in the flat (N * K) each belongs; N * K for padding


def table(
    target: Tensor,
    source: Tensor,
    place: Tensor,
    distance: Tensor,
    rows: Tensor,
    layout: list[Degree],
    atoms: int,
) -> Neighbors:
    """Fill the table of ``atoms`` atoms.

    Parameters
    ----------
    target, source : (E,) int64
    place : (E,) int64
        Which slot of its target an edge takes, from 0.
    distance : (E,)
    rows : (E, T, P)
    layout
        How the P rotation numbers lie.
    atoms
        Number of atoms.
    """
    width = int(place.max()) + 1
    slot = target * width + place
    itself = torch.arange(atoms, device=slot.device).repeat_interleave(width)
    by_source = count_within(source, atoms)
    depth = int(by_source.max()) + 1
    other = source * depth + by_source
    nowhere = torch.full((atoms * depth,), atoms * width, device=slot.device)

    def fill(values: Tensor, places: Tensor, count: int) -> Tensor:
        empty = values.new_zeros(atoms * count, *values.shape[1:])
        filled = empty.index_copy(0, places, values)
        return filled.view(atoms, count, *values.shape[1:])

    return Neighbors(
        source=itself.index_copy(0, slot, source).view(atoms, width),
        distance=fill(distance, slot, width),
        rows=fill(rows, slot, width).flatten(1, 2),
        back=fill(back_rotation(rows, layout), slot, width).flatten(1, 2),
        source_rows=fill(rows, other, depth).flatten(1, 2),
        source_slot=nowhere.index_copy(0, other, slot).view(atoms, depth),
    )


def count_within(group: Tensor, groups: int) -> Tensor:
    """Return, for each entry of ``group``, how many entries of the same group precede it."""
    order = torch.argsort(group, stable=True)
    count = torch.bincount(group, minlength=groups)
    start = torch.cumsum(count, 0) - count
    place = torch.empty_like(group)
    place[order] = torch.arange(len(group), device=group.device) - start[group[order]]
    return place


def ranks(target: Tensor, distance: Tensor, atoms: int) -> Tensor:
    """Return the rank of each edge among those of its center, such that the nearest come first.

    Where the list already has the 12 nearest of a center before the others, up to ties, its own
    order is kept: of equally distant neighbors those listed first are the nearer.
    """
    listed = count_within(target, atoms)
    distance = distance.detach()
    early = listed < NEAREST
    edge = torch.full((atoms,), torch.inf, dtype=distance.dtype, device=distance.device)
    inner = torch.where(early, distance, -torch.inf)
    outer = torch.where(early, torch.inf, distance)
    last = (-edge).scatter_reduce(0, target, inner, "amax")
    first = edge.scatter_reduce(0, target, outer, "amin")
    sorted_already = (last <= first + TIE)[target]
    order = torch.argsort(distance, stable=True)
    by_distance = torch.empty_like(listed)
    by_distance[order] = count_within(target[order], atoms)
    return torch.where(sorted_already, listed, by_distance)


def empty_table(atoms: int, like: Tensor) -> Neighbors:
    """Return the table of atoms without neighbors."""
    nothing = torch.zeros((atoms, 0), dtype=torch.int64, device=like.device)
    none, rows = like.new_zeros(atoms, 0), like.new_zeros(atoms, 0, 1)
    return Neighbors(nothing, none, rows, back=rows, source_rows=rows, source_slot=nothing)
