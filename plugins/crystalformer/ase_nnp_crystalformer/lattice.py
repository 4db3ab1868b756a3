"""Pairs of atoms of one cell with all their images, and the two lattice sums of the attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_nnp.models.graph import AtomGraph

__all__ = ["Pairs", "lattice_sums", "pairs_of"]


@dataclass(frozen=True)
class Pairs:
    """P ordered pairs (i, j) of atoms of one structure, and L images of them.

    ``center`` and ``neighbor`` (P,) are atoms; ``pair`` (L,) is the pair that an image belongs to
    and ``distance`` (L,) its length in Angstrom. An atom and itself is a pair, at distance 0 and at
    those of its images.
    """

    center: Tensor
    neighbor: Tensor
    pair: Tensor
    distance: Tensor


def pairs_of(graph: AtomGraph) -> Pairs:
    """Return all pairs of a batch; images are the graph's edges and each atom at its own place."""
    count = graph.atoms_per_structure()
    first = torch.cumsum(count, 0) - count
    own = count[graph.batch]  # (N,) atoms in the structure of each atom

    # Atom i of a structure of n atoms has the pairs start_i to start_i + n.
    start = torch.cumsum(own, 0) - own
    center = torch.repeat_interleave(torch.arange(len(own), device=own.device), own)
    place = torch.arange(len(center), device=own.device) - start[center]
    neighbor = first[graph.batch[center]] + place

    source, target = graph.edge_index
    atoms = torch.arange(len(own), device=own.device)
    at = torch.cat([target, atoms])
    other = torch.cat([source, atoms])
    pair = start[at] + other - first[graph.batch[at]]
    length = graph.edge_vectors().norm(dim=1)
    return Pairs(center, neighbor, pair, torch.cat([length, length.new_zeros(len(own))]))


def lattice_sums(pairs: Pairs, inverse: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\log\sum_n e^{\phi(n)}` (P, H) and the means of ``values`` (P, H, K).

    :math:`\phi(n) = -r^2(n) \, w_i / 2`, and the means are weighted by :math:`e^{\phi(n)}`. A pair
    that has no image within the cutoff has -inf and zeros.

    Parameters
    ----------
    pairs
        Of a batch.
    inverse
        (N, H), :math:`w_i = \sigma_i^{-2}` of each atom and head.
    values
        (L, K), a function of each image's distance.
    """
    phi = -0.5 * pairs.distance.square()[:, None] * inverse[pairs.center[pairs.pair]]

    # The largest term first: far pairs would be sums of numbers that are zero in single precision.
    rows = pairs.pair[:, None].expand_as(phi)
    start = phi.new_full((len(pairs.center), phi.shape[1]), -torch.inf)
    largest = start.scatter_reduce(0, rows, phi.detach(), "amax")
    seen = torch.isfinite(largest)
    largest = torch.where(seen, largest, 0.0)

    weight = torch.exp(phi - largest[pairs.pair])
    total = torch.zeros_like(largest).index_add(0, pairs.pair, weight)
    safe = torch.where(seen, total, 1.0)
    log = torch.where(seen, largest + torch.log(safe), -torch.inf)

    weight = weight / safe[pairs.pair]
    terms = weight[:, :, None] * values[:, None, :]
    means = terms.new_zeros(len(largest), *terms.shape[1:]).index_add(0, pairs.pair, terms)
    return log, means
