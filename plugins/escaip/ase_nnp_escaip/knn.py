"""The bi-directional nearest-neighbor graph of generation 3, from a radius graph in O(N).

An edge has a rank among the neighbors of its center and, seen from the other end, a rank among
those of its neighbor. Both and the distance make its envelope; it stays where that is below 1. The
published definition compares every atom with every image of every other. All that counts lies
within a little more than the cutoff, so a cell list suffices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ase_nnp.models.graph import AtomGraph
from ase_nnp_escaip.config import Settings

__all__ = ["FULL", "Edges", "nearest", "reach", "reverse_edges"]

#: Name under which a graph says that its edges are all pairs within :func:`reach`.
FULL = "escaip_radius_graph"
#: Neighbors beyond the wanted number whose ranks are still worked out.
SPARE = 20
#: Stands for the distance to a neighbor that is not there.
FAR = 1.0e6
#: Of two distances that agree to this (Angstrom), the one listed first is the nearer.
TIE = 1.0e-6


class Edges:
    """Kept edges without the atoms' own: ``sender``, ``receiver`` (E,), vectors (E, 3), ``env``."""

    def __init__(self, sender: Tensor, receiver: Tensor, vector: Tensor, env: Tensor) -> None:
        self.sender, self.receiver, self.vector, self.env = sender, receiver, vector, env


def reach(settings: Settings) -> float:
    """Return the radius (Angstrom) within which a neighbor can change any kept edge."""
    if not settings.knn_soft:
        return settings.max_radius
    # A step in rank is over after pi scales, or for the full sigmoid at double precision.
    steps = math.pi if settings.knn_use_low_mem else 36.0
    return settings.max_radius + steps * settings.knn_sigmoid_scale


def nearest(graph: AtomGraph, settings: Settings) -> Edges:
    """Return the kept edges of a batch.

    A graph from the model's own ``make_graph`` holds every pair within :func:`reach`, and the
    selection is made here. Any other graph is taken as the selection itself: each of its edges is
    kept, and ranks are found from a search of our own. ``graph.extra["edge_env"]`` (E,) sets the
    envelopes of such edges.
    """
    own = (graph.edge_index[0] == graph.edge_index[1]) & (graph.edge_shift == 0).all(1)
    if FULL in graph.extra:
        return _select(graph, settings)
    given = graph.replace(
        edge_index=graph.edge_index[:, ~own],
        edge_shift=graph.edge_shift[~own],
        extra={k: v[~own] for k, v in graph.extra.items() if k == "edge_env"},
    )
    full = _search(given, settings)
    if full.num_edges == given.num_edges and "edge_env" not in given.extra:
        return _select(full, settings)
    return _given(given, full, settings)


def _select(graph: AtomGraph, settings: Settings) -> Edges:
    candidates, vector, env = _envelopes(graph, settings)
    kept = torch.nonzero(env.detach() < 1.0).flatten()
    candidates = candidates[kept]
    sender, receiver = graph.edge_index[:, candidates]
    return Edges(sender, receiver, vector[kept], env[kept])


def _envelopes(graph: AtomGraph, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Edges that may be kept: their numbers in the graph, vectors and envelopes."""
    vector = graph.edge_vectors()
    distance = vector.norm(dim=-1)
    rank, ranked = _ranks(graph, distance, settings)
    reverse, paired = reverse_edges(graph)

    # Bi-directional: an edge stays only if both of its ends want it.
    near = ranked & ranked[reverse] & paired & (distance.detach() < settings.max_radius)
    candidates = torch.nonzero(near).flatten()
    terms = torch.stack(
        [
            rank[candidates] / settings.knn_k,
            rank[reverse[candidates]] / settings.knn_k,
            distance[candidates] / settings.max_radius,
        ]
    )
    if settings.knn_soft:
        scale = settings.knn_lse_scale

        # A smooth maximum, so that the energy has no kink where another term takes over.
        env = scale * torch.logsumexp(terms / scale, dim=0)
    else:
        env = terms.amax(0)
    return candidates, vector[candidates], env


def _ranks(graph: AtomGraph, distance: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Rank of each edge at its center (E,), and whether it has one; an atom itself counts too."""
    center, atoms = graph.edge_index[1], graph.num_atoms
    device, fixed = distance.device, distance.detach()

    # Ranks go by rounded distances: equal neighbors of a crystal must not change places by
    # rounding.
    by_distance = torch.argsort(torch.round(fixed / TIE), stable=True)
    order = by_distance[torch.argsort(center[by_distance], stable=True)]
    counts = torch.bincount(center, minlength=atoms)
    starts = torch.cumsum(counts, 0) - counts
    place = torch.empty_like(center)
    place[order] = torch.arange(len(order), device=device) - starts[center[order]] + 1
    if not settings.knn_soft:
        return place.to(distance.dtype), place < settings.knn_k
    # Column 0 is the atom itself.
    width = int(counts.max()) + 1 if len(order) else 1
    if settings.knn_use_low_mem:
        width = min(width, settings.knn_k + SPARE)
    ranked = place < width
    row = center[ranked] * width + place[ranked]
    table = distance.new_full((atoms * width,), FAR).index_copy(0, row, distance[ranked])
    table = table.view(atoms, width)
    table = torch.cat([torch.zeros_like(table[:, :1]), table[:, 1:]], dim=1)
    inside = (
        int((place * (fixed < settings.max_radius)).clamp_max(width - 1).max())
        if row.numel()
        else 0
    )
    step = (table[:, 1 : inside + 1, None] - table[:, None, :]) / settings.knn_sigmoid_scale
    soft = _half_sine(step) if settings.knn_use_low_mem else torch.sigmoid(step)
    soft_ranks = soft.sum(-1).reshape(-1)
    ranked = ranked & (place <= inside)
    where = (center * inside + place - 1).clamp(0, max(0, soft_ranks.numel() - 1))
    rank = soft_ranks[where] if soft_ranks.numel() else distance
    return rank, ranked


def _half_sine(x: Tensor) -> Tensor:
    """A smooth step: half a sine wave within pi of 0, then constant."""
    inside = x.abs() < math.pi
    wave = torch.sin(0.5 * torch.where(inside, x, torch.zeros_like(x)))
    return 0.5 + 0.5 * torch.where(inside, wave, torch.sign(x.detach()))


def reverse_edges(graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """Return for each edge the number of its reverse, and whether there is one."""
    sender, receiver = graph.edge_index
    shift = graph.edge_shift
    if not len(sender):
        return sender, torch.zeros_like(sender, dtype=torch.bool)
    bound = shift.abs().amax() if shift.numel() else shift.new_zeros(())
    here = _key(receiver, sender, shift, bound, graph.num_atoms)
    there = _key(sender, receiver, -shift, bound, graph.num_atoms)

    # By sorting and bisection: a table of all pairs would grow with the square of the atoms.
    ordered, order = torch.sort(here)
    place = torch.searchsorted(ordered, there).clamp_max(len(ordered) - 1)
    return order[place], ordered[place] == there


def _key(center: Tensor, other: Tensor, shift: Tensor, bound: Tensor, atoms: int) -> Tensor:
    width = 2 * bound + 1
    image = shift + bound
    return (((center * atoms + other) * width + image[:, 0]) * width + image[:, 1]) * width + image[
        :, 2
    ]


def _search(graph: AtomGraph, settings: Settings) -> AtomGraph:
    """The radius graph for the positions of a graph that came with edges of its own."""
    from ase import Atoms

    arrays = (graph.atomic_numbers, graph.positions.detach().double())
    numbers, positions = (t.cpu().numpy() for t in arrays)
    cells, pbc = graph.cell.detach().double().cpu().numpy(), graph.pbc.cpu().numpy()
    owner = graph.batch.cpu().numpy()
    structures = [
        Atoms(numbers[owner == b], positions[owner == b], cell=cells[b], pbc=pbc[b])
        for b in range(len(cells))
    ]

    # Stored edges are the kept ones; their soft ranks depend on neighbors that were not kept.
    searched = AtomGraph.from_atoms(structures, reach(settings), device=graph.positions.device)
    return graph.replace(edge_index=searched.edge_index, edge_shift=searched.edge_shift, extra={})


def _given(graph: AtomGraph, full: AtomGraph, settings: Settings) -> Edges:
    """Keep the given edges; their envelopes come with them or from the full graph."""
    sender, receiver = graph.edge_index
    order = torch.argsort(receiver, stable=True)
    sender, receiver, vector = sender[order], receiver[order], graph.edge_vectors()[order]
    if "edge_env" in graph.extra:
        return Edges(sender, receiver, vector, graph.extra["edge_env"][order].to(vector.dtype))

    candidates, _, known = _envelopes(full, settings)
    # With ties a given edge may rank one too low to be kept by our own order.
    limit = 1.0 - 0.5 / settings.knn_k
    env = torch.full_like(vector[:, 0], limit)

    if len(candidates) and len(sender):
        bound = torch.maximum(full.edge_shift.abs().amax(), graph.edge_shift.abs().amax())
        n = graph.num_atoms
        there = full.edge_index[:, candidates]
        keys = _key(there[1], there[0], full.edge_shift[candidates], bound, n)
        ordered, sort = torch.sort(keys)
        wanted = _key(receiver, sender, graph.edge_shift[order], bound, n)
        place = torch.searchsorted(ordered, wanted).clamp_max(len(ordered) - 1)
        value = known[sort[place]]
        fits = (ordered[place] == wanted) & (value.detach() < 1.0)
        env = torch.where(fits, value, env)

    return Edges(sender, receiver, vector, env)
