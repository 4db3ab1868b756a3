"""How an adsorbate sits: its site, height, bonds and tilt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.workflows.adsorption.fingerprints import Array, Frame
from ase_nnp.workflows.adsorption.surface_sites import Site

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["AdsorbateGeometry", "contacts", "describe"]

#: A bond to the slab is up to so many times the sum of covalent radii long, and at most a quarter
#: longer than the shortest in these units.
BOND, LONGER = 1.3, 1.25


@dataclass(frozen=True)
class AdsorbateGeometry:
    """An adsorbate on a slab in numbers.

    Attributes
    ----------
    site
        Name of the site nearest to the binding atom, seen from above.
    binding_atom
        Index of the adsorbate's atom that is nearest to the slab, in units of covalent radii.
    height
        Of that atom above the site's atoms, Angstrom.
    bonds
        ``(index in the adsorbate's structure, symbols, Angstrom)`` of its bonds to the slab.
    tilt
        Degrees between the surface's normal and the line from the binding atom to the center of
        the others; None for a single atom.
    aside
        Angstrom from the site, seen from above.
    """

    site: str
    binding_atom: int
    height: float
    bonds: tuple[tuple[int, str, float], ...]
    tilt: float | None
    aside: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def contacts(atoms: Atoms, guests: NDArray[np.int64]) -> Array:
    """Return distances (G, N) from adsorbate atoms to all, over the sums of covalent radii."""
    from ase.data import covalent_radii
    from ase.geometry import get_distances

    _, lengths = get_distances(
        atoms.positions[guests], atoms.positions, cell=atoms.cell, pbc=atoms.pbc
    )
    radii = covalent_radii[atoms.numbers]
    ratios: Array = lengths / (radii[guests][:, None] + radii)
    ratios[np.arange(len(guests)), guests] = np.inf
    return ratios


def describe(atoms: Atoms, guests: NDArray[np.int64], every: Sequence[Site]) -> AdsorbateGeometry:
    """Return how an adsorbate sits.

    Parameters
    ----------
    atoms
        Adsorbate on slab.
    guests
        Indices of the adsorbate's atoms.
    every
        All sites of the clean slab, equivalent ones included.
    """
    frame = Frame(atoms)
    hosts = np.setdiff1d(np.arange(len(atoms)), guests)
    ratios = contacts(atoms, guests)[:, hosts]
    row = int(np.unravel_index(ratios.argmin(), ratios.shape)[0])
    atom = int(guests[row])

    # Seen from above: a bridge that has sunk in is still a bridge.
    place = frame.inside(atoms.positions[atom])
    where = frame.inside(np.array([site.position for site in every]))
    across = where[:, None, :2] - place[:2] + frame.shifts(2.0)[None, :, :2]
    aside = np.linalg.norm(across, axis=2).min(axis=1)
    nearest = int(aside.argmin())
    # Images of the site's atoms do not matter for their mean height.
    level = frame.inside(atoms.positions[list(every[nearest].atoms)])[:, 2].mean()

    bound = hosts[(ratios[row] < BOND) & (ratios[row] < LONGER * ratios[row].min())]
    lengths = atoms.get_distances(atom, bound, mic=True) if len(bound) else ()
    bonds = tuple(
        (int(k), f"{atoms[atom].symbol}-{atoms[int(k)].symbol}", float(length))
        for k, length in zip(bound, lengths, strict=True)
    )
    return AdsorbateGeometry(
        site=every[nearest].name,
        binding_atom=atom,
        height=float(place[2] - level),
        bonds=bonds,
        tilt=_tilt(atoms, guests, atom, frame),
        aside=float(aside[nearest]),
    )


def _tilt(atoms: Atoms, guests: NDArray[np.int64], atom: int, frame: Frame) -> float | None:
    from ase.geometry import find_mic

    rest = guests[guests != atom]
    if not len(rest):
        return None
    vectors, _ = find_mic(atoms.positions[rest] - atoms.positions[atom], atoms.cell, atoms.pbc)
    away = vectors.mean(axis=0)
    length = np.linalg.norm(away)
    if length < 1e-6:
        return None
    return float(np.degrees(np.arccos(np.clip(away @ frame.normal / length, -1, 1))))
