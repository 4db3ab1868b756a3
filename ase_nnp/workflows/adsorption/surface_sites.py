"""Adsorption sites of a slab: the distinct ones, each named by what it is.

A triangulation of the surface atoms (as in Montoya and Persson 2017,
doi:10.1038/s41524-017-0017-z) has sites at its corners (ontop), edges (bridge) and faces (hollow).
Faces with one circumscribed circle are one hollow: the square of fcc(100) is no pair of triangles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import StructureError
from ase_nnp.workflows.adsorption.fingerprints import Array, Frame, distances_to_slab
from ase_nnp.workflows.adsorption.layers import is_second_layer_below, surface_atoms
from ase_nnp.workflows.adsorption.triangles import polygons
from ase_nnp.workflows.surfaces import whole_slab

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Site", "check_slab", "every_site", "sites"]

#: Sites whose distances to slab atoms agree within this are one; Angstrom.
SAME = 0.1
#: Above the mean height of its atoms, where a site is compared with others; Angstrom.
ABOVE = 1.5
#: A bridge's two atoms are at most so many sums of covalent radii apart.
LONGEST_BRIDGE = 1.55
#: The two lengths of long and short bridges differ by this share at least.
BRIDGES_DIFFER = 1.05


@dataclass(frozen=True)
class Site:
    """A place where something may bind.

    Attributes
    ----------
    kind
        ``"ontop"``, ``"bridge"`` (``"shortbridge"``, ``"longbridge"`` where both exist),
        ``"fcc"``, ``"hcp"`` or ``"hollow"``: the words of :mod:`ase.build`.
    symbols
        Of the atoms around it, such as ``("Cu", "Cu", "Pd")``.
    position
        (3,) Angstrom, at the mean height of these atoms.
    atoms
        Their indices in the slab.
    step
        Whether they all belong to the edge of a step.
    multiplicity
        How many equivalent sites the slab has.
    width
        Of a bridge: the distance of its two atoms, Angstrom.
    """

    kind: str
    symbols: tuple[str, ...]
    position: tuple[float, float, float]
    atoms: tuple[int, ...]
    step: bool = False
    multiplicity: int = 1
    width: float = 0.0

    @property
    def coordination(self) -> int:
        """Number of slab atoms around the site."""
        return len(self.atoms)

    @property
    def name(self) -> str:
        """In words: ``"ontop Cu"``, ``"fcc hollow Pt3"``, ``"step edge bridge Pt2"``."""
        kind = {"fcc": "fcc hollow", "hcp": "hcp hollow"}.get(self.kind, self.kind)
        if self.kind == "hollow" and self.coordination != 3:
            kind = f"{self.coordination}-fold hollow"
        counts = {s: self.symbols.count(s) for s in self.symbols}
        formula = "".join(f"{s}{n if n > 1 else ''}" for s, n in sorted(counts.items()))
        return f"{'step edge ' if self.step else ''}{kind} {formula}"

    def __str__(self) -> str:
        return self.name


def sites(slab: Atoms) -> list[Site]:
    """Return the symmetry-distinct adsorption sites of a slab.

    Parameters
    ----------
    slab
        A clean slab, its surface towards the third cell vector. Supercells, rotations and other
        orders of atoms give the same sites.

    Returns
    -------
    list of Site
        Ontop first, then bridges and hollows.

    Raises
    ------
    StructureError
        No slab: not periodic in two directions, or no cell.
    """
    check_slab(slab)
    slab = whole_slab(slab)
    every = list(every_site(slab))
    points = np.array([s.position for s in every]) + ABOVE * Frame(slab).normal
    fingerprints = distances_to_slab(points, slab)

    # The first of each group stands for it; groups are looked through in a fixed order.
    chosen: list[int] = []
    members: dict[int, int] = {}
    for k, site in enumerate(every):
        twin = next((c for c in chosen if _same(site, every[c], fingerprints[[k, c]])), None)
        if twin is None:
            chosen.append(k)
        members[k if twin is None else twin] = members.get(k if twin is None else twin, 0) + 1
    distinct = [every[k] for k in chosen]
    return [
        replace(site, kind=_bridge(site, distinct), multiplicity=members[k])
        for site, k in zip(distinct, chosen, strict=True)
    ]


def check_slab(slab: Atoms) -> None:
    """Refuse what is no slab, with a StructureError."""
    if not len(slab) or slab.cell.rank < 3 or not slab.pbc[:2].all():
        raise StructureError(
            f"A slab is periodic along its first two cell vectors and has a third out of the "
            f"surface; found {len(slab)} atoms, pbc {slab.pbc.tolist()} and a cell of "
            f"{slab.cell.rank} vectors."
        )


def _same(one: Site, other: Site, fingerprints: Array) -> bool:
    alike = one.kind == other.kind and sorted(one.symbols) == sorted(other.symbols)
    return alike and bool(np.abs(fingerprints[0] - fingerprints[1]).max() < SAME)


def every_site(slab: Atoms) -> Iterator[Site]:
    """All sites of one cell, equivalent ones included; kinds without the finer names."""
    from ase.data import covalent_radii

    frame = Frame(slab)
    top, edge = surface_atoms(slab)
    local = frame.inside(slab.positions)
    symbols = np.array(slab.get_chemical_symbols())

    def site(kind: str, members: NDArray[np.int64], place: Array, width: float = 0.0) -> Site:
        atoms = tuple(int(a) for a in members)
        x, y, z = (float(v) for v in frame.outside(place))
        step = kind in ("ontop", "bridge") and all(a in edge for a in atoms)
        return Site(kind, tuple(symbols[list(atoms)].tolist()), (x, y, z), atoms, step, width=width)

    for atom in top:
        yield site("ontop", np.array([atom]), local[atom])

    corners = polygons(local[top], frame)
    for side in corners.edges:
        members = top[side.atoms]
        width = float(np.linalg.norm(side.points[0] - side.points[1]))
        if width < LONGEST_BRIDGE * covalent_radii[slab.numbers[members]].sum():
            yield site("bridge", members, side.points.mean(axis=0), width)
    for face in corners.faces:
        below = is_second_layer_below(slab, face.points) if len(face.atoms) == 3 else None
        kind = "hollow" if below is None else "hcp" if below else "fcc"
        yield site(kind, top[face.atoms], face.center)


def _bridge(site: Site, distinct: list[Site]) -> str:
    """The kind of a site: bridges are long or short where the slab has both, as ASE says."""
    if site.kind != "bridge":
        return site.kind
    widths = [
        s.width
        for s in distinct
        if s.kind == "bridge" and sorted(s.symbols) == sorted(site.symbols) and s.step == site.step
    ]
    if max(widths) < BRIDGES_DIFFER * min(widths):
        return "bridge"
    return "shortbridge" if site.width < BRIDGES_DIFFER * min(widths) else "longbridge"
