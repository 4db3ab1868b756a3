"""Sums over all atoms and their images: Gaussian messages and smeared charges, by Ewald's split."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ase_nnp.models.graph import AtomGraph

__all__ = ["gaussian_messages", "smeared_coulomb"]

#: What a Gaussian is worth where a sum ends, relative to its center.
END = 1e-11
#: How many of its widths away that is.
REACH = math.sqrt(-2.0 * math.log(END))


def gaussian_messages(graph: AtomGraph, values: Tensor, widths: Tensor, weights: Tensor) -> Tensor:
    r"""Return :math:`\sum_{j, images} \sum_g w_{gc} e^{-r_{ij}^2 / 2 s_g^2} v_{jc}`, (N, C).

    The message of an atom to itself is among them. Structures that repeat are summed over
    reciprocal vectors, which is the same by Poisson's formula; others over pairs.

    Parameters
    ----------
    graph
        Positions, cells and periodicity; its edges are not used.
    values : (N, C)
        What atoms send.
    widths : (G,)
        :math:`s_g`, Angstrom.
    weights : (G, C)
        Of each width in each channel.
    """
    ends = graph.atoms_per_structure().cumsum(0).tolist()
    messages = []
    for number, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        positions, own = graph.positions[first:last], values[first:last]
        if not bool(graph.pbc[number].any()):
            square = (positions[:, None] - positions[None]).square().sum(dim=2)
            kernel = torch.exp(-0.5 * square[..., None] / widths.square()) @ weights
            messages.append(torch.einsum("ijc,jc->ic", kernel, own))
            continue

        box = padded_box(positions, graph.cell[number], graph.pbc[number], REACH * widths.max())
        k, twice = half_space(box, REACH / float(widths.detach().min()))
        square = k.square().sum(dim=1)
        norm = (2.0 * math.pi * widths.square()) ** 1.5 / torch.linalg.det(box).abs()
        filters = (norm * torch.exp(-0.5 * square[:, None] * widths.square())) @ weights
        messages.append(reciprocal_sum(k, positions, own, filters * twice[:, None]))
    return torch.cat(messages)


def smeared_coulomb(graph: AtomGraph, charges: Tensor, width: float) -> Tensor:
    r"""Return :math:`\frac{1}{2} q_i \sum_j q_j \, \mathrm{erf}(r_{ij} / \sqrt{2} s) / r_{ij}`.

    Without an atom's interaction with itself, (N,) in e^2 / Angstrom. Slabs have the correction
    for their dipole and net charge (Ballenegger et al. 2009, doi:10.1063/1.3216473, Eq. 30);
    crystals with a net charge have a uniform background.

    Parameters
    ----------
    graph
        Positions, cells and periodicity; its edges are not used.
    charges : (N,)
        Elementary charges.
    width
        :math:`s` of the Gaussian that smears the potential, Angstrom.
    """
    ends = graph.atoms_per_structure().cumsum(0).tolist()
    energies = []
    for number, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        positions, q = graph.positions[first:last], charges[first:last]
        pbc = graph.pbc[number]
        if not bool(pbc.any()):
            r = _distances(positions)
            potential = (torch.erf(r / (math.sqrt(2.0) * width)) / r).fill_diagonal_(0.0) @ q
            energies.append(0.5 * q * potential)
            continue

        # Images along an open axis are as far as the slab is wide, several times over.
        lengths = graph.cell[number].detach().norm(dim=1)
        box = padded_box(positions, graph.cell[number], pbc, 4.0 * lengths.max() + REACH * width)
        k, twice = half_space(box, REACH / width)
        square = k.square().sum(dim=1)
        volume = torch.linalg.det(box).abs()
        safe = torch.where(square > 0, square, torch.ones_like(square))
        kernel = 4.0 * math.pi * torch.exp(-0.5 * width**2 * square) / safe / volume
        kernel = torch.where(square > 0, kernel * twice, torch.zeros_like(kernel))
        potential = reciprocal_sum(k, positions, q[:, None], kernel[:, None])[:, 0]

        potential = potential - q * math.sqrt(2.0 / math.pi) / width
        potential = potential - 2.0 * math.pi * width**2 * q.sum() / volume
        if int(pbc.sum()) == 2:
            potential = potential + _slab_potential(positions, q, box, pbc, volume)
        energies.append(0.5 * q * potential)
    return torch.cat(energies)


def _slab_potential(
    positions: Tensor, q: Tensor, box: Tensor, pbc: Tensor, volume: Tensor
) -> Tensor:
    a, b = box[pbc]
    normal = torch.linalg.cross(a, b)
    z = positions @ (normal / normal.norm())
    z = z - z.mean()
    length = volume / normal.norm()
    squares = (q * z * z).sum() + q.sum() * z * z
    background = q.sum() * length**2 / 12.0
    potential: Tensor = 4.0 * math.pi / volume * (z * (q * z).sum() - 0.5 * squares - background)
    return potential


def _distances(positions: Tensor) -> Tensor:
    """Distances with ones on the diagonal, whose derivative is finite."""
    between = positions[:, None] - positions[None]
    return (between.square().sum(dim=2) + torch.eye(len(positions)).to(positions)).sqrt()


def padded_box(positions: Tensor, cell: Tensor, pbc: Tensor, gap: Tensor | float) -> Tensor:
    """Return a cell whose open axes are at right angles to the others, with room for ``gap``."""
    if bool(pbc.all()):
        return cell
    with torch.no_grad():
        # The open directions: what the periodic ones leave.
        inside = cell[pbc].double()
        free = torch.linalg.svd(inside).Vh[int(pbc.sum()) :].to(cell)
        along = positions @ free.T
        lengths = along.max(dim=0).values - along.min(dim=0).values + gap
        rows = free * lengths[:, None]
    box = torch.zeros_like(cell)
    return box.index_put((pbc.nonzero()[:, 0],), cell[pbc]).index_put(
        ((~pbc).nonzero()[:, 0],), rows
    )


def half_space(box: Tensor, longest: float) -> tuple[Tensor, Tensor]:
    """Return reciprocal vectors (K, 3) up to ``longest``, one of each pair, and what it counts."""
    with torch.no_grad():
        most = torch.floor(longest * box.norm(dim=1) / (2.0 * math.pi)).long().tolist()
        axes = [torch.arange(-n, n + 1, device=box.device) for n in (most[1], most[2])]
        grid = torch.cartesian_prod(torch.arange(0, most[0] + 1, device=box.device), *axes)
        a, b, c = grid.unbind(dim=1)
        kept = grid[(a > 0) | (b > 0) | ((b == 0) & (c >= 0))].to(box)

    inverse = 2.0 * math.pi * torch.linalg.inv(box).T
    k = kept @ inverse
    near = k.detach().square().sum(dim=1) <= longest**2
    twice = torch.where((kept[near] == 0).all(dim=1), 1.0, 2.0).to(box)
    return k[near], twice


def reciprocal_sum(k: Tensor, positions: Tensor, values: Tensor, filters: Tensor) -> Tensor:
    """Return sum_k filters_kc Re(exp(i k x_i) sum_j exp(-i k x_j) values_jc), (N, C)."""
    phase = positions @ k.T
    cos, sin = phase.cos(), phase.sin()
    real, imaginary = filters * (cos.T @ values), filters * (sin.T @ values)
    total: Tensor = cos @ real + sin @ imaginary
    return total
