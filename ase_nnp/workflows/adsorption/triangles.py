"""A periodic triangulation of surface atoms, faces on one circle joined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ase_nnp.workflows.adsorption.fingerprints import Array, Frame

__all__ = ["Face", "Polygons", "polygons"]

#: Triangles whose circumscribed circles' centers are nearer than this are one face; Angstrom.
ONE_CIRCLE = 0.15
#: No site is farther from its atoms, seen from above; Angstrom.
WIDEST = 3.2


@dataclass(frozen=True)
class Face:
    """Corners of an edge or a face: atoms, where they are, and the point that is as far from all.

    Attributes
    ----------
    atoms
        Indices of the corners in the points that were triangulated.
    points
        (C, 3) their images, in the slab's axes.
    center
        (3,), at their mean height.
    """

    atoms: NDArray[np.int64]
    points: Array
    center: Array


@dataclass(frozen=True)
class Polygons:
    """Edges and faces whose centers lie in one cell."""

    edges: list[Face]
    faces: list[Face]


def polygons(points: Array, frame: Frame) -> Polygons:
    """Return edges and faces of the triangulation of points (P, 3) in a slab's axes."""
    from scipy.spatial import Delaunay

    shifts = frame.shifts(2 * WIDEST)
    images = (points[None] + shifts[:, None]).reshape(-1, 3)
    owner = np.tile(np.arange(len(points)), len(shifts))
    triangles = Delaunay(images[:, :2]).simplices
    centers, radii = _circles(images[triangles][:, :, :2])
    sound = np.isfinite(radii) & (radii < WIDEST)
    triangles, centers = triangles[sound], centers[sound]

    # The rim of what was triangulated is not periodic: only what lies in one cell is kept.
    groups = _joined(centers, frame)
    faces, inner = [], set()
    for members in groups:
        corners = np.unique(triangles[members])
        inner |= _diagonals(triangles[members])
        face = _face(corners, images, owner, centers[members].mean(axis=0))
        if _home(face.center, frame):
            faces.append(face)

    edges = []
    for pair in sorted({tuple(sorted(p)) for t in triangles for p in _sides(t)} - inner):
        corners = np.array(pair)
        face = _face(corners, images, owner, images[corners, :2].mean(axis=0))
        if _home(face.center, frame):
            edges.append(face)
    return Polygons(edges, faces)


def _sides(triangle: NDArray[np.int64]) -> list[tuple[int, int]]:
    a, b, c = (int(k) for k in triangle)
    return [(a, b), (b, c), (a, c)]


def _diagonals(triangles: NDArray[np.int64]) -> set[tuple[int, ...]]:
    """Sides that two triangles of one face share."""
    sides = [tuple(sorted(side)) for t in triangles for side in _sides(t)]
    return {side for side in sides if sides.count(side) > 1}


def _circles(corners: Array) -> tuple[Array, Array]:
    """Centers (T, 2) and radii (T,) of the circles through three corners (T, 3, 2)."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    twice = 2 * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        aa, bb = (a**2).sum(axis=1), (b**2).sum(axis=1)
        x = (b[:, 1] * aa - a[:, 1] * bb) / twice
        y = (a[:, 0] * bb - b[:, 0] * aa) / twice
    offset = np.column_stack([x, y])
    return corners[:, 0] + offset, np.linalg.norm(offset, axis=1)


def _joined(centers: Array, frame: Frame) -> list[list[int]]:
    """Groups of triangles on one circle."""
    from scipy.spatial import cKDTree

    groups: list[list[int]] = []
    taken: set[int] = set()
    tree = cKDTree(centers)
    for k in range(len(centers)):
        if k in taken:
            continue
        group = [j for j in tree.query_ball_point(centers[k], ONE_CIRCLE) if j not in taken]
        taken |= set(group)
        groups.append(group)
    return groups


def _face(corners: NDArray[np.int64], images: Array, owner: NDArray[np.int64], at: Array) -> Face:
    points = images[corners]
    # The circle's center of an obtuse triangle lies outside it: over another site.
    if len(corners) == 3 and not _contains(points[:, :2], at):
        at = points[:, :2].mean(axis=0)
    return Face(owner[corners], points, np.array([at[0], at[1], points[:, 2].mean()]))


def _contains(triangle: Array, point: Array) -> bool:
    edges = np.roll(triangle, -1, axis=0) - triangle
    to = point - triangle
    turns = edges[:, 0] * to[:, 1] - edges[:, 1] * to[:, 0]
    return bool((turns > -1e-6).all() or (turns < 1e-6).all())


def _home(center: Array, frame: Frame) -> bool:
    """Whether a point lies in the first cell; a little off its corner, where no site stands."""
    fractions = center[:2] @ np.linalg.inv(frame.lateral) + 0.0137
    return bool((fractions >= 0).all() and (fractions < 1).all())
