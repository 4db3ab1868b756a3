"""Neighbor lists by a batched cell list in plain torch, for any device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

__all__ = ["occurrences", "stable_argsort", "torch_edges"]

#: Candidate pairs held at once: what the cache of a CPU core holds, and what keeps a GPU busy.
CHUNK, CHUNK_GPU = 32_768, 8_000_000
#: Bins an atom, at most.
MOST_BINS = 4


def torch_edges(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of all structures at once by a batched cell list, on the device of ``positions``.

    Every structure is cut into bins, and atoms are numbered bin by bin, so that the bins in a row
    along the third axis are one run of atoms. A bin looks at such runs on one side of it only,
    and each pair found is written in both directions. Same arguments and result as
    :func:`vesin_edges`; linear in the number of atoms at constant density. A GPU is waited for
    four times where all candidates fit into one chunk: the host reads the number of occupied
    bins, of the runs they look at, of candidates, and of edges.
    """
    home, place, bins, reach = _bins(positions, cell, pbc, batch, cutoff)
    volume = bins.prod(dim=1)
    base = torch.cumsum(volume, 0) - volume

    # One number for each bin of each structure, the third axis fastest: bins that are neighbors
    # along it are neighbors in memory, and a run of them is one slice.
    slot = (place[:, 0] * bins[batch, 1] + place[:, 1]) * bins[batch, 2] + place[:, 2] + base[batch]
    order = stable_argsort(slot)

    # No structure has more bins than `_limited` allows, so the host need not ask for their number.
    filled = occurrences(slot, MOST_BINS * len(slot) + len(base))
    ends = torch.cumsum(filled, 0)
    occupied = torch.nonzero(filled)[:, 0]
    first = (ends - filled)[occupied]  # the first atom of each bin that has one
    runs = _Runs(batch[order[first]], place[order[first]], first, filled[occupied], ends, base)
    folded = positions - torch.einsum("nc,ncd->nd", home.to(cell.dtype), cell[batch])
    xyz = folded[order].T.contiguous()  # gathers from one row are several times faster

    # How many runs a bin looks at: columns on one side, times the images along the third axis.
    images = torch.where(pbc[:, 2], -torch.div(-reach[:, 2], bins[:, 2], rounding_mode="floor"), 0)
    width = 2 * reach[:, :2] + 1
    count = (width.prod(dim=1) + 1) // 2 * (2 * images + 1)
    chunk = CHUNK if positions.device.type == "cpu" else CHUNK_GPU
    parts: list[tuple[Tensor, ...]] = []
    lattice = (cell, pbc, bins, reach, images)
    for part, looks in _spans(count[runs.structure], chunk // 8):
        parts += _pairs(runs.of(part), looks, lattice, xyz, cutoff, chunk)
    if not parts:
        nothing = order.new_zeros((2, 0))
        return nothing, nothing.new_zeros((0, 3)), positions.new_zeros(0)
    i, j, *image, squared = (torch.cat(rows) for rows in zip(*parts, strict=True))
    i, j = order.index_select(0, i), order.index_select(0, j)

    # Each pair was found once; messages go both ways, and the second direction has the opposite
    # shift.
    half = len(i)
    edges, shifts = i.new_empty((2, 2 * half)), i.new_empty((2 * half, 3))
    edges[0, :half], edges[0, half:] = j, i
    edges[1, :half], edges[1, half:] = i, j
    for axis, cells in enumerate(home.T.contiguous()):
        shift = image[axis] + cells.index_select(0, i) - cells.index_select(0, j)
        shifts[:half, axis], shifts[half:, axis] = shift, -shift
    distance = squared.sqrt()
    return edges, shifts, torch.cat([distance, distance])


@dataclass(frozen=True)
class _Runs:
    """Bins that hold atoms, and where the atoms of any bin end in the order of bins."""

    structure: Tensor  # (bins,) int64
    place: Tensor  # (bins, 3) int64
    first: Tensor  # (bins,) int64, number of the bin's first atom
    size: Tensor  # (bins,) int64, atoms in it
    ends: Tensor  # (all bins,) int64
    base: Tensor  # (B,) int64, first bin of each structure

    def of(self, part: slice) -> _Runs:
        """Return some of the bins."""
        return replace(
            self,
            structure=self.structure[part],
            place=self.place[part],
            first=self.first[part],
            size=self.size[part],
        )


def _pairs(
    runs: _Runs, looks: int, lattice: tuple[Tensor, ...], xyz: Tensor, cutoff: float, chunk: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield pairs within the cutoff: atoms i and j in the order of bins, image of j, distance^2.

    ``looks`` is how many runs these bins look at together.
    """
    cell, pbc, bins, reach, images = lattice
    # Which runs each bin looks at: (bin, column, image along the third axis).
    across = 2 * images[runs.structure] + 1
    wide = 2 * reach[runs.structure, 1] + 1
    columns = ((2 * reach[runs.structure, 0] + 1) * wide + 1) // 2
    own, rank = _ragged(columns * across, looks)
    b, across, wide = runs.structure[own], across[own], wide[own]
    column = torch.div(rank, across, rounding_mode="floor")
    image_z = rank - column * across - images[b]

    # Half of the columns around a bin: the other half are the same pairs seen from the other end.
    number = column + columns[own] - 1  # column 0 is that of the bin itself, the rest follow it
    dx = torch.div(number, wide, rounding_mode="floor")
    target = [
        runs.place[own, 0] + dx - reach[b, 0],
        runs.place[own, 1] + number - dx * wide - reach[b, 1],
    ]
    image, seen = [], torch.ones_like(b, dtype=torch.bool)
    for axis in (0, 1):
        away = torch.div(target[axis], bins[b, axis], rounding_mode="floor")
        target[axis] = target[axis] - away * bins[b, axis]
        seen &= pbc[b, axis] | (away == 0)
        image.append(away)
    z, deep, near = runs.place[own, 2], bins[b, 2], reach[b, 2]

    # In its own column a bin looks up only, which again leaves each pair once.
    low = torch.maximum(torch.where(column == 0, z, z - near) - image_z * deep, torch.zeros_like(z))
    high = torch.minimum(z + near - image_z * deep, deep - 1)
    row = runs.base[b] + (target[0] * bins[b, 1] + target[1]) * deep
    seen &= low <= high
    before = torch.where(seen, row + low - 1, 0)
    begin = torch.where(before < 0, 0, runs.ends[before.clamp_min(0)])
    end = runs.ends[torch.where(seen, row + high, 0)]
    image.append(image_z)
    inside = (column == 0) & (image_z == 0)  # the run that starts with the bin itself
    moved = torch.einsum("mc,mcd->dm", torch.stack(image, 1).to(cell.dtype), cell[b]).contiguous()

    # Runs that are empty count no atoms: to drop them first, the host would have to ask for their
    # number. In its own run, atom k of n looks at the n - 1 - k after it.
    first = runs.first[own]
    size = torch.where(seen & (begin < end), runs.size[own], 0)
    candidates = size * (end - begin)
    candidates -= torch.where(inside, size * (size + 1) // 2, 0)
    rows, total = torch.stack([size.sum(), candidates.sum()]).tolist()

    # Every atom of the bin against the run; in its own run an atom looks at those after itself.
    # Atoms are counted in 32 bits from here on: it is memory that takes the time.
    begin, end = begin.int(), end.int()
    run, i = _ragged(size.int(), rows, first.int())
    begin = torch.where(inside.index_select(0, run), i + 1, begin.index_select(0, run))
    times = end.index_select(0, run) - begin
    from_i = [
        x.index_select(0, i) - m.index_select(0, run) for x, m in zip(xyz, moved, strict=True)
    ]
    for part, length in _spans(times, chunk, total):
        entry, j = _ragged(times[part], length, begin[part])

        # Axis by axis in place: the difference vectors of all candidates would not fit into the
        # cache.
        squared = torch.zeros(len(j), dtype=xyz.dtype, device=xyz.device)
        for x, start in zip(xyz, from_i, strict=True):
            difference = x.index_select(0, j).sub_(start[part].index_select(0, entry))
            squared.addcmul_(difference, difference)
        pick = torch.nonzero(squared <= cutoff * cutoff)[:, 0]
        entry = entry.index_select(0, pick)
        seen_by = run[part].index_select(0, entry)
        yield (
            i[part].index_select(0, entry),
            j.index_select(0, pick),
            *(way.index_select(0, seen_by) for way in image),
            squared.index_select(0, pick),
        )


def _ragged(counts: Tensor, length: int, start: Tensor | int = 0) -> tuple[Tensor, Tensor]:
    """Number the elements of rows of different length: (row, start of the row + place), flat.

    ``length`` is the sum of ``counts``, which a device would have to be asked for.
    """
    row = torch.repeat_interleave(counts, output_size=length)
    offset = start + counts - torch.cumsum(counts, 0, dtype=counts.dtype)
    place = torch.arange(length, dtype=counts.dtype, device=counts.device)
    return row, place.add_(offset.index_select(0, row))


def _spans(counts: Tensor, limit: int, whole: int | None = None) -> list[tuple[slice, int]]:
    """Cut rows into consecutive parts of about ``limit`` elements; a row is never cut.

    Returns each part with its number of elements. ``whole`` is the sum of ``counts`` where it is
    known.
    """
    if not len(counts):
        return []
    total = torch.cumsum(counts, 0)
    whole = int(total[-1]) if whole is None else whole
    if whole <= limit:
        return [(slice(0, len(counts)), whole)] if whole else []

    # Places of the cuts and elements before them travel to the host together.
    marks = torch.arange(limit, whole, limit, device=counts.device)
    cuts = torch.searchsorted(total, marks, right=False) + 1
    before = total[cuts - 1]
    known = dict(torch.stack([cuts, before.to(cuts.dtype)], dim=1).tolist())
    edges = sorted({0: 0, **known, len(counts): whole}.items())
    return [(slice(a, b), n - m) for (a, m), (b, n) in itertools.pairwise(edges)]


def _bins(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut structures into bins.

    Returns the cell each atom is in (N, 3), its bin there (N, 3), the bins of each structure along
    its axes (B, 3) and how many bins away a neighbor can be (B, 3); all int64.
    """
    count = cell.shape[0]

    # inv_ex, as inv makes the host wait for the news that a cell was flat, which none is here.
    inverse = torch.linalg.inv_ex(cell).inverse
    frac = torch.einsum("nc,ncd->nd", positions, inverse[batch])

    # Atoms may be anywhere: the search folds them home, and the shifts take that back at the end.
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

    # A molecule in a huge box would have more bins than atoms, and bins take memory and time too.
    most = MOST_BINS * occurrences(batch, count)
    bins = _limited((height / cutoff).floor().clamp_min(1), most)

    # Bins are at least a cutoff wide where the cell allows it (reach 1); in thinner cells several
    # bins or images are looked at.
    reach = torch.ceil(cutoff * bins / height - 1e-9).clamp_min(1).long()
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


def stable_argsort(key: Tensor) -> Tensor:
    """Stable order of integer keys; numpy's vectorized sort is several times torch's on a CPU."""
    if key.device.type != "cpu":
        return torch.argsort(key, stable=True)
    values = key.numpy()
    if values.size and int(values.max()) < 2**62 // values.size:  # the place breaks ties
        values = values * values.size + np.arange(values.size)
        return torch.from_numpy(np.argsort(values))
    return torch.from_numpy(np.argsort(values, kind="stable"))


def occurrences(index: Tensor, length: int) -> Tensor:
    """Count how often each of 0 ... ``length`` - 1 stands in ``index``: (length,) int64.

    ``torch.bincount`` gives the same and makes the host wait for the largest number.
    """
    ones = torch.ones_like(index, dtype=torch.int64)
    return ones.new_zeros(length).index_add_(0, index, ones)
