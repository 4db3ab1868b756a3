"""Adsorbates on slabs: at named sites, or AdsorbML's heuristic and random placements.

Lan et al. (2023), doi:10.1038/s41524-023-01121-5: *heuristic* puts the binding atom on each
distinct site with a random turn about the surface's normal; *random* takes points anywhere on the
surface and tilts the adsorbate as well. Each is then lowered until it touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.adsorption.adsorbates import Adsorbate, adsorbate
from ase_nnp.workflows.adsorption.fingerprints import Array, Frame
from ase_nnp.workflows.adsorption.layers import surface_atoms
from ase_nnp.workflows.adsorption.slabs import prepared
from ase_nnp.workflows.adsorption.surface_sites import Site, check_slab, sites
from ase_nnp.workflows.surfaces import whole_slab

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["MODES", "place", "tagged_slab"]

MODES = ("heuristic", "random")
#: Touching: the nearest pair is at this share of the sum of its covalent radii.
TOUCH = 1.05
#: Degrees that a random placement is tilted at most, as in AdsorbML's random mode.
TILT = 60.0
#: Angstrom that a heuristic placement is moved aside, so that no symmetry holds it on a saddle.
ASIDE = 0.1
#: Angstrom between two adsorbates that are placed together, beyond the sum of covalent radii.
APART = 1.0
ATTEMPTS = 200


def place(
    slab: Atoms,
    adsorbates: Any,
    site: Site | str | Sequence[float] | None = None,
    *,
    mode: str = "heuristic",
    number: int = 1,
    seed: int = 0,
) -> list[Atoms]:
    """Return slabs with one or several adsorbates on them.

    Parameters
    ----------
    slab
        A clean slab, or one with adsorbates (tag 2), which stay. Without OC20's tags it gets
        them, and the atoms below the surface are fixed.
    adsorbates
        What :func:`~ase_nnp.workflows.adsorption.adsorbate` takes, or a list of these, which are
        placed together.
    site
        Where (the first of) the adsorbates goes: a :class:`~ase_nnp.workflows.adsorption.Site`,
        its kind or name (``"fcc"``, ``"ontop Cu"``), or two or three coordinates in Angstrom.
        Without it ``mode`` decides.
    mode
        ``"heuristic"``: the distinct sites in turn; ``"random"``: anywhere, tilted.
    number
        Placements.
    seed
        The same seed gives the same placements.

    Returns
    -------
    list of ase.Atoms
        Adsorbate atoms last, with tag 2; ``info["site"]`` says where they were put.

    Raises
    ------
    ConfigError
        An unknown mode or site.
    StructureError
        No slab, or no room for so many adsorbates.
    """
    check_slab(slab)
    if mode not in MODES:
        raise ConfigError(f"No mode '{mode}'. There are: {', '.join(MODES)}.")
    if number < 1:
        raise ConfigError(f"number = {number}: one placement or more.")
    several = isinstance(adsorbates, (list, tuple))
    guests = [adsorbate(one) for one in (adsorbates if several else [adsorbates])]
    if not guests:
        raise ConfigError("There is no adsorbate to place.")

    host = tagged_slab(slab)
    clean = host[host.get_tags() < 2]
    distinct = sites(clean)
    random = np.random.default_rng(seed)
    wanted = None if site is None else _named(site, distinct)
    return [_placed(host, clean, guests, distinct, wanted, mode, k, random) for k in range(number)]


def tagged_slab(slab: Atoms) -> Atoms:
    """The slab in one piece with OC20's tags; ASE's builders count layers, 1 being the highest."""
    slab, tags = whole_slab(slab), slab.get_tags()
    if (tags == 0).any() and (tags == 1).any() and tags.max() <= 2:
        return slab
    tagged = prepared(slab)
    if slab.constraints:
        tagged.set_constraint(slab.constraints)
    tagged.info = dict(slab.info)
    tagged.info.pop("adsorbate_info", None)
    return tagged


def _named(site: Any, distinct: Sequence[Site]) -> Site | Array:
    if isinstance(site, Site):
        return site
    if isinstance(site, str):
        for one in distinct:
            if site in (one.kind, one.name):
                return one
        known = ", ".join(f"'{one.name}'" for one in distinct)
        raise ConfigError(f"The slab has no site '{site}'. It has: {known}.")
    point = np.asarray(site, dtype=float)
    if point.shape not in ((2,), (3,)):
        raise ConfigError(f"site = {site!r}: a site, its name, or two or three coordinates.")
    return np.append(point, 0.0)[:3]


def _placed(
    host: Atoms,
    clean: Atoms,
    guests: Sequence[Adsorbate],
    distinct: Sequence[Site],
    wanted: Site | Array | None,
    mode: str,
    number: int,
    random: np.random.Generator,
) -> Atoms:
    """One placement of all adsorbates, each beside those that are there already."""
    full: Atoms = host.copy()
    said: list[str] = []
    for place_in_list, guest in enumerate(guests):
        for _ in range(ATTEMPTS):
            if place_in_list == 0 and wanted is not None:
                where, name = _point(wanted), getattr(wanted, "name", "given point")
            elif mode == "heuristic":
                # The first goes to the sites in turn, the others to any of their images.
                first = place_in_list == 0
                count = len(distinct)
                chosen = distinct[number % count if first else int(random.integers(count))]
                where, name = _point(chosen), chosen.name
                if not first:
                    where = where + _translation(clean, random)
            else:
                where, name = _anywhere(clean, random), "random"
            turned = _turned(guest, mode if wanted is None else "heuristic", random)
            both = _lowered(full, clean, turned, where, guest)
            if both is not None:
                break
        else:
            raise StructureError(
                f"There is no room for {len(guests)} adsorbates on this slab: take a larger "
                "supercell."
            )
        full = both
        said.append(name)

    full.info["site"] = " + ".join(said)
    full.info["adsorbate"] = " + ".join(guest.name for guest in guests)
    return full


def _point(site: Site | Array) -> Array:
    return np.array(site.position) if isinstance(site, Site) else np.asarray(site)


def _translation(clean: Atoms, random: np.random.Generator) -> Array:
    """From an atom of the surface to another of its element: an equivalent site, or nearly."""
    top, _ = surface_atoms(clean)
    first = random.choice(top)
    others = top[clean.numbers[top] == clean.numbers[first]]
    shift: Array = clean.positions[random.choice(others)] - clean.positions[first]
    return shift


def _anywhere(clean: Atoms, random: np.random.Generator) -> Array:
    a, b = random.random(2)
    return np.asarray(a * clean.cell[0] + b * clean.cell[1])


def _turned(guest: Adsorbate, mode: str, random: np.random.Generator) -> Atoms:
    """The adsorbate with a random turn, in the slab's axes; the binding center stays put."""
    turned: Atoms = guest.atoms.copy()
    if mode == "random":
        axis = random.uniform(0, 360)
        tilt = TILT * random.random()
        turned.rotate(tilt, (np.cos(np.radians(axis)), np.sin(np.radians(axis)), 0.0))
    turned.rotate(random.uniform(0, 360), "z")
    if mode == "heuristic":
        # A fraction of the offset would do; a full one breaks every mirror and rotation.
        angle = random.uniform(0, 2 * np.pi)
        turned.positions += ASIDE * np.array([np.cos(angle), np.sin(angle), 0.0])
    return turned


def _lowered(
    full: Atoms, clean: Atoms, turned: Atoms, where: Array, guest: Adsorbate
) -> Atoms | None:
    """The adsorbate lowered at a point until it touches; None if it meets another adsorbate."""
    from ase.data import covalent_radii

    frame = Frame(clean)
    hosts = frame.inside(full.positions)
    local = turned.positions + frame.inside(where) * (1, 1, 0)
    radii = covalent_radii[turned.numbers][:, None] + covalent_radii[full.numbers][None]
    solid = full.get_tags() < 2

    # Height at which each pair touches: of the lateral distance and the sum of radii, Pythagoras.
    across = (
        local[:, None, None, :2] - hosts[None, :, None, :2] - frame.shifts(4.0)[None, None, :, :2]
    )
    lateral = np.linalg.norm(across, axis=3).min(axis=2)
    contact = TOUCH * radii
    rise = np.sqrt(np.clip(contact**2 - lateral**2, 0, None))
    needed = hosts[None, :, 2] + rise - local[:, 2][:, None]
    touching = (lateral < contact) & solid
    if not touching.any():
        return None
    # Only the binding atom settles the height where it is the lowest; any other must not dig in.
    local[:, 2] += needed[touching].max()

    gaps = np.sqrt(lateral**2 + (local[:, 2][:, None] - hosts[None, :, 2]) ** 2)
    if (gaps[:, ~solid] < radii[:, ~solid] + APART).any():
        return None
    added = turned.copy()
    added.positions = frame.outside(local)
    added.set_tags(2)
    both: Atoms = full.copy()
    both += added
    both.info = {k: v for k, v in full.info.items() if k != "site"}
    return both
