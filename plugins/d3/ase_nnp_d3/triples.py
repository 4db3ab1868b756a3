"""Axilrod-Teller-Muto energies of triples of atoms, in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from ase import units
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ase_nnp.models.graph import AtomGraph

__all__ = ["triple_energies"]

#: Triples that are evaluated at once.
PIECE = 2_000_000


def triple_energies(
    graph: AtomGraph,
    c6: Callable[[Tensor, Tensor], Tensor],
    *,
    radius: Callable[[Tensor, Tensor], Tensor],
    switch: Callable[[Tensor], Tensor],
    reach: float,
    exponent: float,
    scale: float,
) -> Tensor:
    r"""Return energies of atoms (N,), Hartree; a triple is shared by its three atoms.

    .. math:: E_{ijk} = s_9 \sqrt{C_6^{ij} C_6^{jk} C_6^{ki}}
              \frac{1 + 3 \cos\theta_i \cos\theta_j \cos\theta_k}{(r_{ij} r_{jk} r_{ki})^3}
              \frac{1}{1 + 6 (R_{ij} R_{jk} R_{ki} / r_{ij} r_{jk} r_{ki})^{\alpha / 3}}

    Parameters
    ----------
    graph
        With all edges up to ``reach``.
    c6, radius
        Of pairs of atoms, by their numbers.
    switch
        Of a distance in Bohr; each side of a triple has its own.
    reach
        Bohr; no side is longer.
    exponent, scale
        :math:`\alpha / 3` and :math:`s_9`.
    """
    vectors = graph.edge_vectors() / units.Bohr
    source, target = graph.edge_index
    # All that a side needs, once for each edge and not for each of its many triples.
    r = vectors.norm(dim=1)
    sides = (c6(target, source), radius(target, source), switch(r), r)
    shares: Tensor = r.new_zeros(graph.num_atoms, dtype=torch.float64)

    def piece(vectors: Tensor, one: Tensor, two: Tensor, *sides: Tensor) -> Tensor:
        c6_edges, radii, switches, r = sides
        a, b = source[one], source[two]
        across = vectors[two] - vectors[one]
        r_ab = across.norm(dim=1)
        r_ia, r_ib = r[one], r[two]

        volume = r_ia * r_ib * r_ab
        cosines = (
            (r_ia**2 + r_ib**2 - r_ab**2)
            * (r_ia**2 + r_ab**2 - r_ib**2)
            * (r_ib**2 + r_ab**2 - r_ia**2)
        ) / (8.0 * volume**2)
        radius_product = radii[one] * radii[two] * radius(a, b)
        damp = 1.0 / (1.0 + 6.0 * (radius_product / volume) ** exponent)
        strength = (c6_edges[one] * c6_edges[two] * c6(a, b)).abs().sqrt()
        ends = switches[one] * switches[two] * switch(r_ab)
        energy: Tensor = scale * strength * (1.0 + 3.0 * cosines) / volume**3 * damp * ends
        return energy

    for one, two in _pieces(graph, vectors.detach(), reach):
        # Each triple is met from its three corners; its energy goes to the corner.
        energy: Tensor = checkpoint(piece, vectors, one, two, *sides, use_reentrant=False)
        shares = shares.index_add(0, target[one], energy.double() / 3.0)
    return shares


def _pieces(graph: AtomGraph, vectors: Tensor, reach: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of edges with one center whose far ends are within reach of each other."""
    target = graph.edge_index[1]
    order = torch.argsort(target, stable=True)
    counts = torch.bincount(target, minlength=graph.num_atoms)
    starts = counts.cumsum(0) - counts

    for atom in counts.nonzero()[:, 0].tolist():
        edges = order[starts[atom] : starts[atom] + counts[atom]]
        rows = max(1, PIECE // max(1, len(edges)))
        for begin in range(0, len(edges), rows):
            first = torch.arange(begin, min(begin + rows, len(edges)), device=edges.device)
            one, two = torch.meshgrid(
                first, torch.arange(len(edges), device=edges.device), indexing="ij"
            )
            one, two = one.reshape(-1), two.reshape(-1)
            later = one < two
            one, two = edges[one[later]], edges[two[later]]
            near = (vectors[one] - vectors[two]).norm(dim=1) <= reach
            if bool(near.any()):
                yield one[near], two[near]
