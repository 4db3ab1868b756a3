"""Edge frames: rotations that bring an edge to the polar axis, and the angle left free about it.

A frame is the matrix with rows ``(a, u, b)``, u the unit vector of the edge and ``a`` normal to u
and to a reference vector w. The paper (arXiv:2206.14331, Sec. 3.2) draws w at random; a calculator
needs a rule. Ours:

* w is the mean direction of the centre's neighbours, weighted towards near ones;
* where that vanishes (a centre of symmetry) or is parallel to u, that of the neighbour's
  neighbours;
* where both fail, as in a perfect crystal, a direction fixed to the cell, or to space for atoms
  that are not periodic (linear molecules).

Frames turn with the structure and do not depend on the order of the atoms. They jump where the rule
changes from one case to the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ase_nnp.graph import AtomGraph

#: A direction of no crystallographic meaning, in the axes of the cell (or of space), and a second
#: one for edges nearly parallel to it.
GENERIC = ((0.36, 0.48, 0.80), (0.80, -0.36, 0.48))
#: Edges closer to the first generic direction than this cosine use the second.
PARALLEL = 0.98
#: Sine below which a local direction counts as parallel to the edge or as vanishing.
VANISHING = 1e-3
#: Angstrom; decay of the weights of local directions.
NEAR = 2.5


def frames_about(u: Tensor, w: Tensor) -> Tensor:
    """Return frames (E, 3, 3) of unit edge vectors u with reference vectors w, both (E, 3)."""
    a = torch.linalg.cross(u, w)
    a = a / a.norm(dim=1, keepdim=True)
    return torch.stack([a, u, torch.linalg.cross(a, u)], dim=1)


def turn(frames: Tensor, angle: Tensor) -> Tensor:
    """Turn frames (E, 3, 3) by angles (E,) about their edges."""
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, u, b = frames.unbind(1)
    return torch.stack([cos * a - sin * b, u, sin * a + cos * b], dim=1)


def drawn_reference(u: Tensor, uniform: Tensor) -> Tensor:
    """Return reference vectors of a uniform draw in [0, 1)^3, (E, 3), kept away from u."""
    w = uniform - 0.5
    w = w / w.norm(dim=1, keepdim=True)
    x, y, z = w.unbind(1)
    for other in (torch.stack([-y, x, z], 1), torch.stack([x, -z, y], 1)):
        nearer = (w * u).sum(1).abs() > (other * u).sum(1).abs()
        w = torch.where(nearer[:, None], other, w)
    return w


def structure_reference(graph: AtomGraph, vectors: Tensor) -> Tensor:
    """Return the reference vectors (E, 3) that the rule above gives for edge vectors (E, 3)."""
    distance = vectors.norm(dim=1, keepdim=True)
    u = vectors / distance
    source, target = graph.edge_index
    structure = graph.batch[target]
    periodic = graph.pbc.any(1)

    axes = cell_axes(graph.cell, graph.pbc)
    space = torch.eye(3, dtype=axes.dtype, device=axes.device).expand_as(axes)
    axes = torch.where(periodic[:, None, None], axes, space)
    first, second = (_generic(k, axes)[structure] for k in (0, 1))
    along = ((first * u).sum(1).abs() > PARALLEL)[:, None]
    fixed = torch.where(along, second, first)

    weight = torch.exp(-((distance / NEAR) ** 2))
    total = torch.zeros_like(graph.positions[:, :1]).index_add(0, target, weight)
    local = torch.zeros_like(graph.positions).index_add(0, target, weight * u)
    local = local / total.clamp_min(torch.finfo(total.dtype).tiny)
    reference = fixed
    for candidate in (local[source], local[target]):
        clear = torch.linalg.cross(u, candidate).norm(dim=1) > VANISHING
        reference = torch.where(clear[:, None], candidate, reference)
    return reference


def cell_axes(cell: Tensor, pbc: Tensor) -> Tensor:
    """Return orthonormal axes (B, 3, 3), as rows, that turn with the cell.

    The first lies along the first periodic lattice vector, the second in the plane with the next
    that is not parallel to it; a direction of space stands in where there is none (wires).
    """
    order = torch.argsort((~pbc).to(torch.int8), dim=1, stable=True)
    rows = cell.gather(1, order[:, :, None].expand(-1, -1, 3))
    length = rows.norm(dim=2, keepdim=True)
    rows = rows / torch.where(length > 0, length, torch.ones_like(length))
    space = torch.eye(3, dtype=cell.dtype, device=cell.device).expand(len(cell), 3, 3)
    first = rows[:, :1]
    others = torch.cat([rows[:, 1:], space], dim=1)
    across = others - (others * first).sum(2, keepdim=True) * first
    size = across.detach().norm(dim=2)
    pick = (size > 0.1).to(torch.int8).argmax(1)  # the first that is not parallel
    second = across.gather(1, pick[:, None, None].expand(-1, 1, 3))
    size = second.norm(dim=2, keepdim=True)
    second = second / torch.where(size > 0, size, torch.ones_like(size))
    return torch.cat([first, second, torch.linalg.cross(first, second)], dim=1)


def _generic(number: int, axes: Tensor) -> Tensor:
    direction = torch.tensor(GENERIC[number], dtype=axes.dtype, device=axes.device)
    return direction @ axes
