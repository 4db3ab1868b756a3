"""Neighbour lists: which atoms see which, through which periodic images.

Two backends find the same directed edges: vesin, one structure at a time, the fastest on a CPU;
and a batched cell list in plain torch, for any device. Both hand their edges to
:func:`canonical`, which puts them in one order (centre, neighbour, image) and applies the cap on
neighbours, so that a result never depends on the backend.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import StructureError

__all__ = ["BACKENDS", "canonical", "torch_edges", "vesin_edges"]

#: Atoms nearer than this (Angstrom) are one atom written twice.
MIN_DISTANCE = 0.01
#: Distances that agree to this (Angstrom) are a tie; ties go to the lower neighbour, then image.
TIE = 1e-6
#: Candidate pairs held at once by the torch search.
CHUNK = 2_000_000


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

    search = vesin.NeighborList(cutoff=cutoff, full_list=True)
    xyz, cells, periodic = (t.cpu().numpy() for t in (positions, cell, pbc))
    starts = np.searchsorted(batch.cpu().numpy(), np.arange(len(cells) + 1))
    index, shift, length = [], [], []
    for b, (first, last) in enumerate(itertools.pairwise(starts.tolist())):
        i, j, s, d = search.compute(
            xyz[first:last], cells[b], periodic[b], quantities="ijSd", copy=False
        )
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


def torch_edges(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of all structures at once by a batched cell list, on the device of ``positions``.

    Every structure is cut into bins about ``cutoff`` wide; an atom looks into the bins around its
    own, and a bin that lies outside the cell is a periodic image. Same arguments and result as
    :func:`vesin_edges`; linear in the number of atoms at constant density.
    """
    device = positions.device
    inverse = torch.linalg.inv(cell)
    frac = torch.einsum("nc,ncd->nd", positions, inverse[batch])
    home = torch.where(pbc[batch], torch.floor(frac), torch.zeros_like(frac))
    frac = frac - home  # periodic directions lie in [0, 1) now
    frac = torch.where(pbc[batch] & (frac >= 1.0), torch.zeros_like(frac), frac)

    # Along a direction without images the "cell" is the extent of the atoms themselves.
    count = cell.shape[0]
    big = torch.full((count, 3), torch.inf, dtype=frac.dtype, device=device)
    each = batch[:, None].expand(-1, 3)
    low = big.scatter_reduce(0, each, frac, "amin")
    high = (-big).scatter_reduce(0, each, frac, "amax")
    empty = ~torch.isfinite(low)
    low = torch.where(pbc | empty, torch.zeros_like(low), low)
    extent = torch.where(pbc | empty, torch.ones_like(low), (high - low).clamp_min(1e-9))
    height = extent / inverse.transpose(1, 2).norm(dim=-1)  # distance between opposite faces
    bins = _limited(
        (height / cutoff).floor().clamp_min(1), 4 * torch.bincount(batch, minlength=count)
    )
    reach = torch.where(
        pbc, torch.ceil(cutoff * bins / height - 1e-9), torch.minimum(bins - 1, bins * 0 + 1)
    ).long()
    wide = (height / bins < cutoff) & ~pbc  # fewer, thinner bins than the cutoff along an open axis
    reach = torch.where(wide, torch.ceil(cutoff * bins / height).long().minimum(bins - 1), reach)

    place = (((frac - low[batch]) / extent[batch]) * bins[batch]).floor().long()
    place = torch.minimum(place.clamp_min(0), bins[batch] - 1)
    volume = bins.prod(dim=1)
    base = torch.cumsum(volume, 0) - volume
    strides = torch.stack([bins[:, 1] * bins[:, 2], bins[:, 2], torch.ones_like(bins[:, 0])], 1)
    slot = base[batch] + (place * strides[batch]).sum(1)
    order = torch.argsort(slot, stable=True)
    filled = torch.bincount(slot, minlength=int(volume.sum()))
    start = torch.cumsum(filled, 0) - filled

    around = [torch.arange(-r, r + 1, device=device) for r in reach.amax(0).tolist()]
    offsets = torch.cartesian_prod(*around).reshape(-1, 3)  # (O, 3)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    step = max(1, CHUNK // max(1, len(offsets)))
    for first in range(0, len(positions), step):
        atoms = torch.arange(first, min(first + step, len(positions)), device=device)
        b = batch[atoms]
        target = place[atoms][:, None, :] + offsets[None]  # (n, O, 3)
        image = torch.div(target, bins[b][:, None], rounding_mode="floor")
        allowed = (pbc[b][:, None] | (image == 0)) & (offsets.abs()[None] <= reach[b][:, None])
        atom, offset = torch.nonzero(allowed.all(-1), as_tuple=True)
        image = image[atom, offset]
        where = target[atom, offset] - image * bins[b[atom]]
        bin_slot = base[b[atom]] + (where * strides[b[atom]]).sum(1)
        times = filled[bin_slot]
        pair = torch.repeat_interleave(torch.arange(len(times), device=device), times)
        rank = torch.arange(len(pair), device=device) - (torch.cumsum(times, 0) - times)[pair]
        i = atoms[atom[pair]]
        j = order[start[bin_slot[pair]] + rank]
        shift = image[pair] + (home[i] - home[j]).long()
        vector = positions[j] - positions[i]
        vector = vector + torch.einsum("ec,ecd->ed", shift.to(cell.dtype), cell[batch[i]])
        length = vector.norm(dim=1)
        near = (length <= cutoff) & ((i != j) | (shift != 0).any(1))
        found.append((j[near], i[near], shift[near], length[near]))
    source, centre, shifts, distance = (torch.cat(part) for part in zip(*found, strict=True))
    return torch.stack([source, centre]), shifts, distance


def _limited(bins: Tensor, most: Tensor) -> Tensor:
    """Reduce bins (B, 3) to at most ``most`` (B,) a structure, along its longest axes first."""
    ordered, axis = bins.sort(dim=1)
    left = most.to(bins.dtype).clamp_min(1)
    for k, power in enumerate((1 / 3, 1 / 2, 1.0)):
        ordered[:, k] = torch.minimum(ordered[:, k], left.pow(power).floor().clamp_min(1))
        left = left / ordered[:, k]
    return torch.empty_like(bins).scatter_(1, axis, ordered).long()


BACKENDS = {"vesin": vesin_edges, "torch": torch_edges}


def canonical(
    edges: Tensor,
    shifts: Tensor,
    distance: Tensor,
    num_atoms: int,
    max_neighbors: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Put edges in one order and keep the nearest ``max_neighbors`` of each centre.

    The order is centre, then neighbour, then image ``(n1, n2, n3)`` with ``n3`` fastest, which is
    also how the published OC20 graphs list them. Of equally distant neighbours (to 1e-6 Angstrom)
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
    source, centre = edges
    nearest = int(distance.argmin())
    if distance[nearest] < MIN_DISTANCE:
        raise StructureError(
            f"Atoms {int(centre[nearest])} and {int(source[nearest])} are "
            f"{float(distance[nearest]):.4f} Angstrom apart. Remove one of the two."
        )
    width = 2 * int(shifts.abs().max()) + 1
    images = (shifts[:, 0] * width + shifts[:, 1]) * width + shifts[:, 2]
    pairs = centre * num_atoms + source
    if width**3 * num_atoms**2 < 2**62:  # one number sorts as (centre, source, n1, n2, n3)
        order = _argsort(pairs * width**3 + images)
    else:
        order = _argsort(images)
        order = order[_argsort(pairs[order])]
    if max_neighbors is not None:
        centre = centre[order]
        near = torch.round(distance[order] / TIE).long()
        by_distance = _argsort(centre * (near.max() + 1) + near)
        counts = torch.bincount(centre, minlength=num_atoms)
        starts = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(order), device=order.device) - starts[centre[by_distance]]
        kept = torch.zeros_like(centre, dtype=torch.bool)
        kept[by_distance] = rank < max_neighbors
        order = order[kept]
    return edges[:, order], shifts[order]


def _argsort(key: Tensor) -> Tensor:
    """Stable order of integer keys; numpy's vectorised sort is several times torch's on a CPU."""
    if key.device.type != "cpu":
        return torch.argsort(key, stable=True)
    values = key.numpy()
    if values.size and int(values.max()) < 2**62 // values.size:  # the place breaks ties
        values = values * values.size + np.arange(values.size)
        return torch.from_numpy(np.argsort(values))
    return torch.from_numpy(np.argsort(values, kind="stable"))


def check_cell(cell: np.ndarray, pbc: np.ndarray) -> None:
    """Refuse a cell that cannot be meant: not finite, periodic along nothing, or flat.

    Raises
    ------
    StructureError
        Naming the axis.
    """
    if not np.isfinite(cell).all():
        raise StructureError("The cell has entries that are not finite numbers.")
    lengths = np.linalg.norm(cell, axis=1)
    for axis in np.flatnonzero(pbc & (lengths < 1e-6)):
        raise StructureError(
            f"The structure is periodic along axis {axis}, but lattice vector {axis} is zero. "
            f"Set the cell, or atoms.pbc[{axis}] = False."
        )
    used = cell[lengths > 1e-6]
    if len(used):
        unit = used / np.linalg.norm(used, axis=1, keepdims=True)
        if np.sqrt(max(0.0, np.linalg.det(unit @ unit.T))) < 1e-6:
            raise StructureError(
                "The lattice vectors are linearly dependent, so the cell has no volume. "
                "Set vectors that span the periodic directions."
            )
