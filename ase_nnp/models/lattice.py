"""Cells and origins: what can be searched for neighbors, and where single precision is exact."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import StructureError

__all__ = [
    "MAX_NEIGHBORS",
    "SPREAD",
    "folded",
    "folded_around",
    "recentered",
    "search_cell",
    "search_lattice",
    "wrapped",
]

#: Of a lattice vector; atoms on the border of a cell must not go one way or the other by rounding.
BORDER = 1e-9

#: Neighbors of one atom beyond which no cell is meant; solid hydrogen has 3600 in 12 Angstrom.
MAX_NEIGHBORS = 50_000
#: Images that a search looks through without a reduced cell.
MAX_IMAGES = 20_000
#: Angstrom; a double no longer tells atoms apart at such a distance (its last bit is 1e-7).
FARTHEST = 1e9
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
    scaled = torch.einsum("nc,ncd->nd", positions, dual[batch])
    cells = torch.floor(scaled + (0.5 + EDGE)) * pbc[batch]
    return positions - torch.einsum("nc,ncd->nd", cells, periodic[batch]), cells.long()


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


def complete(cell: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen vectors of a cell, with unit vectors at right angles for the others."""
    from ase.geometry import complete_cell

    return np.asarray(complete_cell(np.where(chosen[:, None], cell, 0.0)), dtype=np.float64)


def search_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Return a cell (3, 3) that can be inverted, with the periodic vectors as they are."""
    # Vectors along which nothing is periodic carry no meaning: flat ones are made up anew.
    there = np.abs(cell).max(axis=1) > 1e-6
    return complete(cell, pbc if is_flat(cell[there]) else there)


def search_lattice(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the cell to search in, and how its vectors are made of the given ones.

    Parameters
    ----------
    positions : (N, 3) Angstrom
    cell : (3, 3) Angstrom
    pbc : (3,) bool
    cutoff : Angstrom

    Returns
    -------
    cell (3, 3), invertible, and None or integers (3, 3): ``searched = integers @ cell``.

    Raises
    ------
    StructureError
        The cell cannot be meant (not finite, flat, or so small that an atom has more than
        :data:`MAX_NEIGHBORS` neighbors), or atoms are too far away to be told apart.
    """
    # Not only the extent counts: the coordinates themselves are what is rounded.
    far = float(np.abs(positions).max(initial=0.0))
    if far > FARTHEST:
        raise StructureError(
            f"An atom is {far:.1e} Angstrom from the origin; double precision tells atoms apart up "
            f"to {FARTHEST:.0e}. Move the structure nearer."
        )
    return _search_lattice(cell.tobytes(), pbc.tobytes(), cutoff, len(positions))


@lru_cache(maxsize=1024)  # most structures of a run share a cell
def _search_lattice(
    cell_bytes: bytes, pbc_bytes: bytes, cutoff: float, atoms: int
) -> tuple[np.ndarray, np.ndarray | None]:
    cell, pbc = np.frombuffer(cell_bytes).reshape(3, 3), np.frombuffer(pbc_bytes, dtype=bool)
    _check(cell, pbc)
    full = search_cell(cell, pbc)
    if not pbc.any():
        return full, None

    # Distances between opposite faces, which a search steps along; edges of a skewed cell may be
    # far longer.
    heights = 1 / np.linalg.norm(np.linalg.inv(full), axis=0)[pbc]
    images = float(np.prod(2 * np.ceil(cutoff / heights) + 1))
    if images <= MAX_IMAGES and images * atoms <= MAX_NEIGHBORS:
        return full, None
    return _reduced(full, pbc, cutoff, atoms)


def _reduced(
    cell: np.ndarray, pbc: np.ndarray, cutoff: float, atoms: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the shortest vectors of a lattice that are skewed beyond measure or very short."""
    from ase.geometry import minkowski_reduce

    try:
        reduced, made_of = minkowski_reduce(cell, pbc)
    except RuntimeError as error:
        raise StructureError(f"The cell {cell.tolist()} cannot be reduced: {error}.") from error

    # Judged by the reduced vectors: a skewed cell may look tiny and hold few neighbors.
    short = np.linalg.norm(reduced, axis=1)[pbc]
    expected = atoms * float(np.prod(1 + 2 * cutoff / short))
    # The ball, not the box around it, where the cell is small against it.
    ball = {1: 2.0, 2: np.pi, 3: 4 * np.pi / 3}[len(short)] / 2 ** len(short)
    if ball * expected > MAX_NEIGHBORS:
        raise StructureError(
            f"With lattice vectors as short as {short.min():.3g} Angstrom an atom would have about "
            f"{ball * expected:.1e} neighbors within {cutoff:g} Angstrom; at most "
            f"{MAX_NEIGHBORS} can be meant. Is the cell in Angstrom?"
        )

    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)[pbc]
    if np.prod(2 * np.ceil(cutoff / heights) + 1) <= MAX_IMAGES:
        return cell, None
    return np.asarray(reduced, dtype=np.float64), np.asarray(made_of).round().astype(np.int64)


def _check(cell: np.ndarray, pbc: np.ndarray) -> None:
    """Refuse cells that are not finite, flat, or periodic along nothing."""
    if not np.isfinite(cell).all():
        raise StructureError("The cell has entries that are not finite numbers.")

    # ASE allows pbc along a vector that is zero and then divides by it.
    lengths = np.linalg.norm(cell, axis=1)
    for axis in np.flatnonzero(pbc & (lengths < 1e-6)):
        raise StructureError(
            f"The structure is periodic along axis {axis}, but lattice vector {axis} is zero. "
            f"Set the cell, or atoms.pbc[{axis}] = False."
        )

    if is_flat(cell[pbc]):
        raise StructureError(
            "The lattice vectors are linearly dependent, so the cell has no volume. "
            "Set vectors that span the periodic directions."
        )


def is_flat(vectors: np.ndarray) -> bool:
    """Whether vectors (n, 3), none of them zero, are linearly dependent."""
    if len(vectors) < 2:
        return False

    # By the angles alone: a short vector is not flat. The root of the Gram determinant is the sine
    # of the angle, or the volume of the unit vectors.
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return bool(np.sqrt(max(0.0, np.linalg.det(unit @ unit.T))) < 1e-6)


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
    scaled = torch.einsum("nc,ncd->nd", positions, torch.linalg.inv_ex(whole)[0][batch])
    cells = torch.where(pbc[batch], torch.floor(scaled + BORDER), 0.0)
    return positions - torch.einsum("nc,ncd->nd", cells, whole[batch]), cells.long()
