"""Cells: what can be searched for neighbors."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ase_nnp.errors import StructureError

__all__ = ["MAX_NEIGHBORS", "complete", "is_flat", "search_cell", "search_lattice"]

#: Neighbors of one atom beyond which no cell is meant; solid hydrogen has 3600 in 12 Angstrom.
MAX_NEIGHBORS = 50_000
#: Images that a search looks through without a reduced cell.
MAX_IMAGES = 20_000
#: Angstrom; a double no longer tells atoms apart at such a distance (its last bit is 1e-7).
FARTHEST = 1e9


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
    # An atom meets its own images, and the others as densely as they fill the cell. Where no vector
    # is shorter than the ball is wide, many atoms make no cell that cannot be meant.
    spans = 2 * cutoff / short
    expected = max(float(np.prod(np.maximum(spans, 1.0))), atoms * float(np.prod(spans)))
    # The ball, not the box around it, where the cell is small against it.
    ball = {1: 2.0, 2: np.pi, 3: 4 * np.pi / 3}[len(short)] / 2 ** len(short)
    if spans.max() > 1 and ball * expected > MAX_NEIGHBORS:
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
