"""Neighbor lists: which atoms see which, through which periodic images.

Three backends find the same directed edges: vesin, one structure at a time, the fastest on a CPU;
a batched cell list in plain torch, for any device (:mod:`ase_nnp.models.neighbors_torch`); and,
where the package is installed, NVIDIA's kernels (:mod:`ase_nnp.models.neighbors_nvalchemi`). All
hand their edges to :func:`sort_and_cap_edges`, which puts them in one order (center, neighbor,
image) and applies the cap on neighbors, so that a result never depends on the backend.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.neighbors_nvalchemi import is_installed, nvalchemi_edges
from ase_nnp.models.neighbors_torch import occurrences, stable_argsort, torch_edges

__all__ = ["BACKENDS", "searcher", "sort_and_cap_edges", "torch_edges", "vesin_edges"]

#: Atoms nearer than this (Angstrom) are one atom written twice.
MIN_DISTANCE = 0.01
#: Distances that agree to this (Angstrom) are a tie; ties go to the lower neighbor, then image.
TIE = 1e-6
#: Boxes of one cutoff that vesin 0.6 cuts a structure into; with more it makes them wider by a
#: whole number of boxes on every axis, and divides by zero where an axis has fewer.
VESIN_BOXES = 50_000
#: Angstrom beyond which vesin takes long: its time grows with the cube of cutoff over extent.
VESIN_REACH = 100.0


def vesin_edges(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of each structure by vesin (O(N), on the CPU).

    Parameters
    ----------
    positions : (N, 3) float64, Angstrom
    cell : (B, 3, 3) float64, invertible
    pbc : (B, 3) bool
    batch : (N,) int64, sorted
    cutoff : Angstrom

    Returns
    -------
    edge_index (2, E) int64 [source, target], edge_shift (E, 3) int64, distance (E,) float64; in no
    particular order.
    """
    import vesin

    # vesin leaves out what is exactly at its cutoff; here it is in.
    search = vesin.NeighborList(cutoff=cutoff * (1 + 1e-12), full_list=True)
    xyz, cells, periodic = (t.cpu().numpy() for t in (positions, cell, pbc))
    starts = np.searchsorted(batch.cpu().numpy(), np.arange(len(cells) + 1))
    index, shift, length = [], [], []
    for b, (first, last) in enumerate(itertools.pairwise(starts.tolist())):
        part = xyz[first:last], cells[b], periodic[b]
        if cutoff > VESIN_REACH or _boxes(*part, cutoff) > VESIN_BOXES:
            i, j, s, d = _by_torch(*part, cutoff)
        else:
            i, j, s, d = search.compute(*part, quantities="ijSd", copy=False)
        if len(d) and d.max() > cutoff:
            near = d <= cutoff
            i, j, s, d = i[near], j[near], s[near], d[near]

        # Written straight into place: this is the calculator's own path, and each copy costs.
        pairs = np.empty((2, len(i)), dtype=np.int64)  # what vesin gave is gone with its next call
        np.add(j, first, out=pairs[0], casting="unsafe")
        np.add(i, first, out=pairs[1], casting="unsafe")
        index.append(pairs)
        shift.append(s.astype(np.int64))
        length.append(d.copy())

    join = len(index) > 1
    edge_index = torch.from_numpy(np.concatenate(index, axis=1) if join else index[0])
    edge_shift = torch.from_numpy(np.concatenate(shift, axis=0) if join else shift[0])
    distance = torch.from_numpy(np.concatenate(length) if join else length[0])
    device = positions.device
    return edge_index.to(device), edge_shift.to(device), distance.to(device)


def _boxes(xyz: np.ndarray, cell: np.ndarray, periodic: np.ndarray, cutoff: float) -> float:
    """Return the boxes of one cutoff that a structure could be cut into, at most."""
    # An upper bound, so that one too many goes to the other search and never one too few.
    spread = xyz.max(axis=0) - xyz.min(axis=0)
    extent = np.where(periodic, np.sqrt((cell * cell).sum(axis=1)), np.sqrt(spread @ spread))
    return float(np.maximum(extent / cutoff, 1.0).prod())


def _by_torch(
    xyz: np.ndarray, cell: np.ndarray, periodic: np.ndarray, cutoff: float
) -> tuple[np.ndarray, ...]:
    """Edges of one structure as vesin gives them: centers, neighbors, offsets, distances."""
    places, cells, flags = (torch.from_numpy(a) for a in (xyz, cell[None], periodic[None]))
    batch = torch.zeros(len(xyz), dtype=torch.int64)
    edges, shifts, distance = torch_edges(places, cells, flags, batch, cutoff)
    source, center = edges.numpy()
    return center, source, shifts.numpy(), distance.numpy()


Search = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]
BACKENDS: dict[str, Search] = {
    "vesin": vesin_edges,
    "torch": torch_edges,
    "nvalchemi": nvalchemi_edges,
}


def searcher(backend: str | None, device: torch.device) -> Search:
    """Return the search of that name; by default the fastest there is for the device.

    Raises
    ------
    ConfigError
        No backend has that name.
    """
    # Measured on 66 atoms: ASE 19 ms, vesin 0.3 ms; on GPUs the package's kernels beat plain torch.
    if backend is None:
        if device.type == "cpu":
            backend = "vesin"
        else:
            backend = "nvalchemi" if device.type == "cuda" and is_installed() else "torch"
    if backend not in BACKENDS:
        raise ConfigError(f"No neighbor search is named {backend!r}; there are {list(BACKENDS)}.")
    return BACKENDS[backend]


def sort_and_cap_edges(
    edges: Tensor,
    shifts: Tensor,
    distance: Tensor,
    num_atoms: int,
    max_neighbors: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Put edges in one order and keep the nearest ``max_neighbors`` of each center.

    The order is center, then neighbor, then image ``(n1, n2, n3)`` with ``n3`` fastest, which is
    also how the published OC20 graphs list them. Of equally distant neighbors (to 1e-6 Angstrom)
    at the cap, those first in this order stay: exactly ``max_neighbors`` remain.

    Parameters
    ----------
    edges, shifts, distance
        As a backend returns them.
    num_atoms
        N of the whole batch.
    max_neighbors
        The cap, or None.

    Returns
    -------
    edge_index (2, E) int64 and edge_shift (E, 3) int64.

    Raises
    ------
    StructureError
        Two atoms are in the same place (nearer than 0.01 Angstrom).
    """
    if edges.shape[1] == 0:
        return edges, shifts
    source, center = edges

    # Two atoms in one place have no direction between them: any model would return NaN, and say
    # nothing of why.
    # One number more travels with that distance, as each question makes the host wait for a GPU.
    closest, widest = torch.stack([distance.min(), shifts.abs().max().to(distance)]).tolist()
    if closest < MIN_DISTANCE:
        nearest = int(distance.argmin())
        raise StructureError(
            f"Atoms {int(center[nearest])} and {int(source[nearest])} are "
            f"{closest:.4f} Angstrom apart. Remove one of the two."
        )

    # The order of edges is fixed, so that results do not depend on which search made them: sums in
    # another order differ in their last digits.
    width = 2 * int(widest) + 1
    images = (shifts[:, 0] * width + shifts[:, 1]) * width + shifts[:, 2]
    pairs = center * num_atoms + source
    if width**3 * num_atoms**2 < 2**62:  # one number sorts as (center, source, n1, n2, n3)
        order = stable_argsort(pairs * width**3 + images)
    else:
        order = stable_argsort(images)
        order = order[stable_argsort(pairs[order])]

    if max_neighbors is not None:
        center = center[order]

        # In crystals many neighbors are equally far. Distances are compared on a grid, so that
        # rounding does not choose among them: the order of atoms and images does.
        near = torch.round(distance[order] / TIE).long()
        by_distance = stable_argsort(center * (near.max() + 1) + near)
        counts = occurrences(center, num_atoms)
        starts = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(order), device=order.device) - starts[center[by_distance]]
        kept = torch.zeros_like(center, dtype=torch.bool)
        kept[by_distance] = rank < max_neighbors
        order = order[kept]
    return edges[:, order], shifts[order]
