"""Edge frames: rotations that bring an edge to the polar axis, and the angle left free about it.

A frame is the matrix with rows ``(a, u, b)``, u the unit vector of the edge and ``a`` normal to u
and to a reference vector w. The paper (arXiv:2206.14331, Sec. 3.2) draws w at random for each edge
and call; a calculator needs a rule. Ours makes the frames from two directions p and q, fixed to the
cell, or to space where nothing is periodic: w is p, and the frame is then turned about the edge by
an angle of ``TWIST`` times ``u . q``.

* The frames turn with the cell and do not depend on the order of atoms or on the batch.
* They change smoothly as atoms move, but for edges within 11 degrees of p, which take a
  normal of p instead.
* The directions have no crystallographic meaning and the angle runs through more than two turns,
  so that edges of different directions have unrelated frames, as when they are drawn. That matters:
  the networks were trained on unrelated frames, and where frames follow the surroundings instead
  (say, the direction to the near neighbors) their errors add up instead of averaging out.

Further frames of the same structure come from further directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ase_nnp.models.graph import AtomGraph

#: Edges closer to p than this cosine use a normal of it.
PARALLEL = 0.98
#: Radians; the spread of in-plane angles over the directions of edges.
TWIST = 8.0


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

    # Two turned copies of the draw: one of the three is never near the edge.
    for other in (torch.stack([-y, x, z], 1), torch.stack([x, -z, y], 1)):
        nearer = (w * u).sum(1).abs() > (other * u).sum(1).abs()
        w = torch.where(nearer[:, None], other, w)
    return w


def structure_frames(graph: AtomGraph, u: Tensor, number: int = 0) -> Tensor:
    """Return frames (E, 3, 3) of unit edge vectors u (E, 3) by the rule above."""
    axes = cell_axes(graph.cell, graph.pbc)
    space = torch.eye(3, dtype=axes.dtype, device=axes.device).expand_as(axes)
    axes = torch.where(graph.pbc.any(1)[:, None, None], axes, space)
    structure = graph.batch[graph.edge_index[1]]
    x, y, z = direction(number)
    normal = (-y / math.hypot(x, y), x / math.hypot(x, y), 0.0)
    wanted = axes.new_tensor([(x, y, z), normal, direction(-1 - number)])
    p, other, q = (wanted @ axes)[structure].unbind(1)

    # The cross product with a parallel vector would be noise.
    along = (p * u).sum(1).abs() > PARALLEL
    frames = frames_about(u, torch.where(along[:, None], other, p))
    return turn(frames, TWIST * (q * u).sum(1))


def direction(number: int) -> tuple[float, float, float]:
    """Return a unit vector; consecutive numbers cover the sphere evenly."""
    # The plastic number's low-discrepancy sequence in two dimensions (R2).
    height = 1 - 2 * ((0.1 + number * 0.7548776662466927) % 1)
    around = 2 * math.pi * ((0.1476 + number * 0.5698402909980532) % 1)
    radius = math.sqrt(1 - height * height)
    return radius * math.cos(around), radius * math.sin(around), height


def cell_axes(cell: Tensor, pbc: Tensor) -> Tensor:
    """Return orthonormal axes (B, 3, 3), as rows, that turn with the cell.

    The first lies along the first periodic lattice vector, the second in the plane with the next
    that is not parallel to it; a direction of space stands in where there is none (wires).
    """
    # Periodic vectors first: the others (vacuum) carry no meaning and must not turn the frames.
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
