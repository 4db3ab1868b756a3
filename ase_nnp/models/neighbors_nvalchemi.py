"""Neighbor lists by NVIDIA's Warp kernels (package ``nvalchemi-toolkit-ops``), where installed."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from ase_nnp.errors import ConfigError

__all__ = ["is_installed", "nvalchemi_edges"]

#: The package looks so much further (relatively) than the cutoff; what is too far goes afterwards.
#: Its own test leaves out what is exactly at the cutoff, and rounds as its precision does.
MARGIN = {torch.float64: 1e-9, torch.float32: 1e-5}


def is_installed() -> bool:
    """Tell whether the package is there, without importing it."""
    return importlib.util.find_spec("nvalchemiops") is not None


def nvalchemi_edges(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of all structures at once by a batched cell list of NVIDIA's Warp kernels.

    Same arguments and result as :func:`ase_nnp.models.neighbors.vesin_edges`, on the device and
    in the precision of ``positions`` (float64 or float32). The package writes the neighbors of
    each atom to a row of fixed length and counts on when the row is full without a word, so the
    counts are read back and a search whose rows were too short is done again with long enough
    ones. The rows of a batch take 16 bytes for each place, as many places as the fullest atom
    needs. Warp compiles its kernels at the first call on a machine, which takes some seconds.

    Raises
    ------
    ConfigError
        ``nvalchemi-toolkit-ops`` is not installed, too old or cannot be loaded.
    """
    try:
        from nvalchemiops.torch.neighbors import batch_cell_list
    except ImportError as error:
        raise ConfigError(
            f'The neighbor search "nvalchemi" cannot be loaded ({error}). Install it with: '
            f"pip install ase_nnp[cuda] (or nvalchemi-toolkit-ops>=0.5), or ask for "
            f'backend="torch".'
        ) from error

    # Wider than asked for: the kernels' own rounding must not lose an edge at the cutoff; the exact
    # test comes at the end.
    reach = cutoff * (1 + MARGIN[positions.dtype])
    framed, box = _framed(positions, cell, pbc, batch, reach)
    numbers, flags = batch.int(), pbc.contiguous()

    # The kernel writes rows of fixed length and only counts what did not fit: then it runs once
    # more with the true length.
    length = None  # of a row: the package's own estimate first
    while True:
        columns, counts, images = batch_cell_list(
            framed, reach, box, flags, numbers, max_neighbors=length
        )
        longest = int(counts.max())
        if longest <= columns.shape[1]:
            break
        length = longest
    places = torch.arange(columns.shape[1], device=counts.device)
    center, place = torch.nonzero(places < counts[:, None], as_tuple=True)
    source, shift = columns[center, place].long(), images[center, place].long()

    # Distances from the given positions, not from the moved frame: they agree to rounding with
    # those of the other searches.
    moved = torch.einsum("ec,ecd->ed", shift.to(cell.dtype), cell[batch[center]])
    distance = (positions[source] - positions[center] + moved).norm(dim=1)
    near = distance <= cutoff
    return torch.stack([source[near], center[near]]), shift[near], distance[near]


def _framed(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, cutoff: float
) -> tuple[Tensor, Tensor]:
    """Fit cells (B, 3, 3) to the atoms along directions without images; positions in that frame.

    The package cuts bins from the cell and puts what is outside into the outermost ones: right,
    but slow for a molecule larger than its cell. No edge has an image along such a direction, so
    the length of the vector means nothing else.
    """
    inverse = torch.linalg.inv(cell)
    frac = torch.einsum("nc,ncd->nd", positions, inverse[batch])
    each = batch[:, None].expand(-1, 3)
    none = torch.zeros_like(cell[:, 0])
    low = none.scatter_reduce(0, each, frac, "amin", include_self=False)
    high = none.scatter_reduce(0, each, frac, "amax", include_self=False)

    # The package cuts the whole cell into bins, periodic or not, so a direction without
    # images gets a box that holds the atoms and at least one cutoff.
    least = cutoff * inverse.transpose(1, 2).norm(dim=-1)  # one cutoff between opposite faces
    factor = torch.where(pbc, torch.ones_like(low), torch.maximum(high - low, least))
    corner = torch.einsum("bc,bcd->bd", torch.where(pbc, torch.zeros_like(low), low), cell)
    return (positions - corner[batch]).contiguous(), (cell * factor[:, :, None]).contiguous()
