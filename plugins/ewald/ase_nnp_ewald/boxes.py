"""Cells for Ewald sums: the given one of a crystal, one with room along the normal of a slab."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["box_of"]


def box_of(positions: Tensor, cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return cell, positions and periodic axes for a sum over three axes.

    A slab is turned so that its normal is the third axis, and its cell there is made long: what is
    left of the interaction with its images, beyond the dipole's, falls as exp(-2 pi gap / width).

    Parameters
    ----------
    positions : (N, 3)
        Angstrom.
    cell : (3, 3)
        Rows are lattice vectors.
    pbc : (3,)
        Two or three of them true.
    """
    if bool(pbc.all()):
        return cell, positions, pbc
    a, b = cell[pbc]
    normal = torch.linalg.cross(a, b)
    # The frame turns with the slab, so that a strain may turn it too.
    first, third = a / a.norm(), normal / normal.norm()
    frame = torch.stack([first, torch.linalg.cross(third, first), third])
    turned = positions @ frame.T

    # Lengths that only have to be enough must not move with the atoms, or they would take part in
    # the derivative.
    with torch.no_grad():
        height = turned[:, 2].max() - turned[:, 2].min()
        width = torch.maximum(a.norm(), b.norm())
        length = height + 4.0 * width + 10.0
        middle = 0.5 * (turned[:, 2].max() + turned[:, 2].min())
    zero = torch.zeros_like(length)
    third_row = torch.stack([zero, zero, length])
    box = torch.cat([torch.stack([a, b]) @ frame.T, third_row[None]])
    moved = turned - torch.stack([zero, zero, middle])
    return box, moved, torch.tensor([True, True, False], device=pbc.device)
