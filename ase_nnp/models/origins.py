"""Origins and images: where single precision is exact, and cells that atoms are folded into."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ase_nnp.models.lattice import complete, search_cell

__all__ = ["SPREAD", "folded", "folded_around", "recentered", "turned", "wrapped"]

#: Of a lattice vector; atoms on the border of a cell must not go one way or the other by rounding.
BORDER = 1e-9
#: Angstrom beyond which the coordinates of a structure are worth closing gaps for: there the last
#: bit of single precision is 6e-5.
SPREAD = 500.0
#: Of a lattice vector; atoms exactly half a cell from the first one must all fold to one side.
EDGE = 1e-6


def recentered(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float, fold: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Move every structure to the origin and its atoms to their images around the first atom.

    Only differences of positions have a meaning, and single precision holds them the better, the
    smaller the positions are. Atoms beyond ``cutoff`` of all others are brought nearer too.

    Parameters
    ----------
    positions : (N, 3) float64, Angstrom
    cell : (B, 3, 3) float64, rows that are not periodic may be anything
    pbc : (B, 3) bool
    batch : (N,) int64, sorted
    cutoff : Angstrom
    fold : False for atoms that are in the cell they are to be in

    Returns
    -------
    positions (N, 3) and the cells (N, 3) int64 that each atom was moved by, None for none: an edge
    with offset S now has ``S + moved[source] - moved[target]``.
    """
    if len(cell) == 1 and positions.device.type == "cpu":
        # The path of a calculator: numpy's small operations cost a fifth of torch's.
        geometry = positions.numpy(), cell[0].numpy(), pbc[0].numpy()
        placed, by = _around_first(*geometry, cutoff, fold)
        return torch.from_numpy(placed), None if by is None else torch.from_numpy(by)

    # Atoms of a structure are consecutive, so the first of each is where its number begins.
    first = torch.searchsorted(batch, torch.arange(len(cell), device=batch.device))
    positions = positions - positions[first[batch]]
    moved = None
    if fold and bool(pbc.any()):
        positions, moved = folded_around(positions, cell, pbc, batch)

    if float(positions.abs().amax()) > SPREAD:
        moved = torch.zeros_like(batch)[:, None].repeat(1, 3) if moved is None else moved
        for b in range(len(cell)):
            own = batch == b
            part, vectors, flags = (t.cpu().numpy() for t in (positions[own], cell[b], pbc[b]))
            if np.abs(part).max() > SPREAD:
                nearer, more = _without_gaps(part, vectors, flags, cutoff)
                positions[own] = torch.from_numpy(nearer).to(positions)
                moved[own] += torch.from_numpy(more).to(moved)
    return positions, moved


def folded_around(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor
) -> tuple[Tensor, Tensor]:
    """Bring atoms to their images around the origin; the host does not wait for a device.

    Returns
    -------
    positions (N, 3) and the cells (N, 3) int64 that each atom was moved by, as `recentered`.
    """
    periodic = cell * pbc[:, :, None]

    # As in _around_first: by the Gram matrix of the periodic vectors alone.
    gram = periodic @ periodic.transpose(1, 2) + torch.diag_embed((~pbc).to(cell.dtype))
    dual = periodic.transpose(1, 2) @ torch.linalg.inv_ex(gram)[0]
    cells = torch.floor(turned(positions, dual, batch) + (0.5 + EDGE)) * pbc[batch]
    return positions - turned(cells, periodic, batch), cells.long()


def turned(vectors: Tensor, matrices: Tensor, batch: Tensor) -> Tensor:
    """Rows (N, 3) times the matrix of their structure, of (B, 3, 3)."""
    # One matrix product where there is one: the batched form copies it to every row.
    if len(matrices) == 1:
        return vectors @ matrices[0]
    return torch.einsum("nc,ncd->nd", vectors, matrices[batch])


def _around_first(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, fold: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Do for one structure what :func:`recentered` does for a batch."""
    positions = positions - positions[0]
    moved = None
    if fold and pbc.any():
        # Coordinates along the periodic vectors by their Gram matrix, which is sound where the
        # other vectors are missing or flat.
        periodic = cell * pbc[:, None]
        dual = periodic.T @ np.linalg.inv(periodic @ periodic.T + np.diag(~pbc))
        cells = np.floor(positions @ dual + (0.5 + EDGE)) * pbc
        positions -= cells @ periodic
        moved = cells.astype(np.int64)

    if np.abs(positions).max() > SPREAD:
        positions, more = _without_gaps(positions, cell, pbc, cutoff)
        moved = more if moved is None else moved + more
    return positions, moved


def _without_gaps(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Close gaps that no edge crosses; returns positions and cells moved by, as `recentered`.

    Two atoms whose heights above a face of the cell differ by more than the cutoff do not see each
    other, whatever images there are along the other two vectors.
    """
    full = complete(cell, pbc)
    inverse = np.linalg.inv(full)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    scaled, moved = positions @ inverse, np.zeros((len(positions), 3), dtype=np.int64)

    for axis, height in enumerate(heights):
        # Gaps are closed to a cutoff and one Angstrom: no pair within the cutoff lies across.
        least = (cutoff + 1.0) / height
        order = np.argsort(scaled[:, axis], kind="stable")
        along = scaled[order, axis]
        gaps = np.diff(along)
        if pbc[axis]:
            around = along[0] + 1.0 - along[-1]
            if max(around, gaps.max(initial=0.0)) <= least:
                continue  # atoms all the way round: every image has its meaning
            if around <= least:  # cut the ring at its widest gap instead
                beyond = order[int(gaps.argmax()) + 1 :]
                scaled[beyond, axis] -= 1.0
                moved[beyond, axis] += 1
                order = np.argsort(scaled[:, axis], kind="stable")
                gaps = np.diff(scaled[order, axis])

        # Each atom moves by all that was cut out before it, so distances within a piece are as they
        # were.
        surplus = np.cumsum(np.where(gaps > least, gaps - least, 0.0))
        scaled[order[1:], axis] -= surplus

    return (scaled - scaled[0]) @ full, moved


def wrapped(positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Fold atoms into their cells along periodic directions; those on the border to zero.

    Returns
    -------
    positions (N, 3) and the cells (N, 3) int64 that each atom was moved by, as `recentered`.
    """
    pairs = zip(cell.numpy(), pbc.numpy(), strict=True)
    whole = torch.from_numpy(np.stack([search_cell(c, periodic) for c, periodic in pairs]))
    return folded(positions, whole, pbc, batch)


def folded(positions: Tensor, whole: Tensor, pbc: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`wrapped`, by cells of three vectors; the host does not wait for a device."""
    # An atom that sits on the border by rounding folds to zero, as in ASE's wrap.
    scaled = turned(positions, torch.linalg.inv_ex(whole)[0], batch)
    cells = torch.where(pbc[batch], torch.floor(scaled + BORDER), 0.0)
    return positions - turned(cells, whole, batch), cells.long()
