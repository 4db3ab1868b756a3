"""Neighbour lists: which atoms see which, through which periodic images.

Two backends find the same directed edges: vesin, one structure at a time, the fastest on a CPU;
and a batched cell list in plain torch, for any device. Both hand their edges to
:func:`canonical`, which puts them in one order (centre, neighbour, image) and applies the cap on
neighbours, so that a result never depends on the backend.
"""

from __future__ import annotations

import itertools
import math

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
    home, place, bins, reach = _bins(positions, cell, pbc, batch, cutoff)
    volume = bins.prod(dim=1)
    base = torch.cumsum(volume, 0) - volume
    strides = torch.stack([bins[:, 1] * bins[:, 2], bins[:, 2], torch.ones_like(bins[:, 0])], 1)
    slot = base[batch] + (place * strides[batch]).sum(1)
    order = torch.argsort(slot, stable=True)
    filled = torch.bincount(slot, minlength=int(volume.sum()))
    start = torch.cumsum(filled, 0) - filled
    folded = positions - torch.einsum("nc,ncd->nd", home.to(cell.dtype), cell[batch])
    in_bins = folded[order]

    around = [torch.arange(-r, r + 1, device=device) for r in reach.amax(0).tolist()]
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    step = max(1, CHUNK // max(1, math.prod(len(a) for a in around)))
    for first in range(0, len(positions), step):
        atoms = slice(first, first + step)
        b = batch[atoms]
        images, slots, seen = [], base[b][:, None, None, None], torch.ones((), dtype=torch.bool)
        seen = seen.to(device)
        for axis, offsets in enumerate(around):
            shape = [len(b), 1, 1, 1]
            shape[axis + 1] = len(offsets)
            target = place[atoms, axis, None] + offsets
            width = bins[b, axis, None]
            image = torch.div(target, width, rounding_mode="floor")
            looks = (pbc[b, axis, None] | (image == 0)) & (offsets.abs() <= reach[b, axis, None])
            slots = slots + ((target - image * width) * strides[b, axis, None]).reshape(shape)
            seen = seen & looks.reshape(shape)
            images.append(image)
        times = torch.where(seen, filled[slots], 0)
        one, x, y, z = torch.nonzero(times, as_tuple=True)
        image = torch.stack([images[0][one, x], images[1][one, y], images[2][one, z]], dim=1)
        times, begin = times[one, x, y, z], start[slots[one, x, y, z]]
        moved = torch.einsum("mc,mcd->md", image.to(cell.dtype), cell[b[one]])
        moved -= folded[atoms][one]
        entry = torch.repeat_interleave(torch.arange(len(times), device=device), times)
        rank = torch.arange(len(entry), device=device)
        rank += (begin - torch.cumsum(times, 0) + times)[entry]
        squared = (in_bins[rank] + moved[entry]).square().sum(1)
        near = torch.nonzero(squared <= cutoff * cutoff)[:, 0]
        entry, j = entry[near], order[rank[near]]
        i = one[entry] + first
        shift = image[entry] + home[i] - home[j]
        other = (i != j) | (shift != 0).any(1)
        found.append((j[other], i[other], shift[other], squared[near][other].sqrt()))
    source, centre, shifts, distance = (torch.cat(part) for part in zip(*found, strict=True))
    return torch.stack([source, centre]), shifts, distance


def _bins(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut structures into bins.

    Returns the cell each atom is in (N, 3), its bin there (N, 3), the bins of each structure along
    its axes (B, 3) and how many bins away a neighbour can be (B, 3); all int64.
    """
    count = cell.shape[0]
    inverse = torch.linalg.inv(cell)
    frac = torch.einsum("nc,ncd->nd", positions, inverse[batch])
    home = torch.where(pbc[batch], torch.floor(frac), torch.zeros_like(frac))
    frac = frac - home  # periodic directions lie in [0, 1] now; 1 by rounding, in the last bin

    # Along a direction without images the "cell" is the extent of the atoms themselves.
    big = torch.full((count, 3), torch.inf, dtype=frac.dtype, device=frac.device)
    each = batch[:, None].expand(-1, 3)
    low = big.scatter_reduce(0, each, frac, "amin")
    high = (-big).scatter_reduce(0, each, frac, "amax")
    whole = pbc | ~torch.isfinite(low)
    low = torch.where(whole, torch.zeros_like(low), low)
    extent = torch.where(whole, torch.ones_like(low), (high - low).clamp_min(1e-9))
    height = extent / inverse.transpose(1, 2).norm(dim=-1)  # distance between opposite faces
    most = 4 * torch.bincount(batch, minlength=count)
    bins = _limited((height / cutoff).floor().clamp_min(1), most)
    reach = torch.ceil(cutoff * bins / height - 1e-9).long()
    reach = torch.where(pbc, reach, torch.minimum(reach, bins - 1))
    place = (((frac - low[batch]) / extent[batch]) * bins[batch]).floor().long()
    return home.long(), torch.minimum(place.clamp_min(0), bins[batch] - 1), bins, reach


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
