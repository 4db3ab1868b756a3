"""Adsorbates: molecules and fragments that know which of their atoms binds to the surface.

Geometries of the table are built from bonds alone: bond lengths are sums of covalent radii
(Pyykkö and Atsumi 2009, doi:10.1002/chem.200901472), and whatever surrounds an atom (neighbors,
lone pairs, the surface where it binds) repels each other, which gives the angles of VSEPR theory
(Gillespie and Nyholm 1957, doi:10.1039/QR9571100339). A model's relaxation does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.adsorption.adsorbate_table import ADSORBATES
from ase_nnp.workflows.adsorption.binding import binding_atom
from ase_nnp.workflows.surfaces import whole_molecule

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Adsorbate", "adsorbate"]

Array = NDArray[np.float64]

#: Covalent radii, Angstrom, of single, double and triple bonds.
RADII = {
    "H": (0.32, 0.32, 0.32),
    "C": (0.75, 0.67, 0.60),
    "N": (0.71, 0.60, 0.54),
    "O": (0.63, 0.57, 0.53),
}
#: Of the two dummies, the surface below a binding atom and a lone pair, to the atom; Angstrom.
SURFACE, LONE_PAIR = 1.4, 0.8
#: Between the surface dummies of two binding atoms; Angstrom.
APART = 1.6

_TOKEN = re.compile(
    r"(?P<open>\()|(?P<close>\))|(?P<bond>[=#]?)(?P<star>\*?)(?P<el>[CNOH])(?P<h>H\d?)?"
)


@dataclass(frozen=True)
class Adsorbate:
    """A molecule or fragment above a surface that lies at negative z.

    Attributes
    ----------
    name
        As it was asked for, or the formula.
    atoms
        ase.Atoms without cell, the binding atoms lowest and their center in the origin.
    binding
        Indices of the atoms that bind to the surface.
    """

    name: str
    atoms: Atoms
    binding: tuple[int, ...]


def adsorbate(given: Any, binding: Sequence[int] | None = None) -> Adsorbate:
    """Return an adsorbate that is oriented by what binds.

    Parameters
    ----------
    given
        An OC20 name (``"*CO"``; the star may be left out), a name of :func:`ase.build.molecule`,
        an ase.Atoms, or an :class:`Adsorbate`, which is returned as it is.
    binding
        Indices of the atoms that bind to the surface. Without it: as the table says; for what is
        not in the table, :func:`~ase_nnp.workflows.adsorption.binding.binding_atom`: the carbon
        of CO, however it lies.

    Raises
    ------
    ConfigError
        A name that neither OC20 nor ASE knows.
    StructureError
        An index that is no atom, or no atoms at all.
    """
    from ase import Atoms

    if isinstance(given, Adsorbate):
        return given
    if isinstance(given, str):
        name = given if given in ADSORBATES else f"*{given}"
        if name in ADSORBATES and binding is None:
            atoms, bound = _built(ADSORBATES[name])
            return Adsorbate(name, atoms.copy(), bound)
        given, name = _molecule(given.lstrip("*")), given
    elif isinstance(given, Atoms):
        name = given.get_chemical_formula()
    else:
        raise ConfigError(
            f"An adsorbate is a name or an ase.Atoms, not {type(given).__name__} ({given!r:.60})."
        )

    bare = Atoms(given.numbers, whole_molecule(given).positions)
    bound = _checked(bare, binding) if binding is not None else (binding_atom(bare),)
    return Adsorbate(name, oriented(bare, bound), bound)


def oriented(atoms: Atoms, binding: Sequence[int], away: Array | None = None) -> Atoms:
    """Return a copy with the binding atoms level, their center in the origin, the rest above.

    Parameters
    ----------
    atoms
        A molecule.
    binding
        Indices of its binding atoms.
    away
        (3,), from the surface to the molecule as it stands; by default from the binding atoms to
        the center of all others.
    """
    turned: Atoms = atoms.copy()
    bound = list(binding)
    turned.positions -= turned.positions[bound].mean(axis=0)
    rest = [k for k in range(len(atoms)) if k not in bound]
    if away is None:
        away = turned.positions[rest].mean(axis=0) if rest else np.zeros(3)

    # A line through two binding atoms is laid along x; then only turns about x keep it level.
    from ase import Atoms

    arrow = Atoms("X", [away])
    turned += arrow
    if len(bound) > 1:
        turned.rotate(turned.positions[bound[-1]] - turned.positions[bound[0]], "x")
    up = turned.positions[-1].copy()
    if len(bound) > 1:
        up[0] = 0.0
    if np.linalg.norm(up) > 1e-3:
        turned.rotate(up, "z")
    del turned[-1]
    return turned


def _molecule(name: str) -> Atoms:
    from ase import Atoms
    from ase.build import molecule
    from ase.data import atomic_numbers

    if name in atomic_numbers:
        return Atoms(name)
    try:
        atoms: Atoms = molecule(name)
    except (KeyError, NotImplementedError):
        from difflib import get_close_matches

        near = get_close_matches(f"*{name.lstrip('*')}", ADSORBATES, n=3)
        raise ConfigError(
            f"No adsorbate is named '{name}', neither by OC20 nor in ase.build.molecule."
            f"{' Did you mean ' + ' or '.join(near) + '?' if near else ''} Or give an ase.Atoms."
        ) from None
    return atoms


def _checked(atoms: Atoms, binding: Sequence[int]) -> tuple[int, ...]:
    bound = tuple(int(k) for k in binding)
    if not bound or not all(0 <= k < len(atoms) for k in bound) or len(set(bound)) < len(bound):
        raise StructureError(
            f"binding = {list(binding)}: different indices of the adsorbate's {len(atoms)} atoms."
        )
    return bound


@cache
def _built(notation: str) -> tuple[Atoms, tuple[int, ...]]:
    """The geometry of a notation of the table."""
    from ase import Atoms

    symbols, bonds, stars = parse(notation)
    places, away = _embedded(symbols, bonds, stars)
    return oriented(Atoms(symbols, places), stars, away), tuple(stars)


def parse(notation: str) -> tuple[list[str], dict[tuple[int, int], int], list[int]]:
    """Return the symbols, the order of every bond, and the binding atoms of a notation."""
    symbols: list[str] = []
    bonds: dict[tuple[int, int], int] = {}
    stars: list[int] = []
    branches: list[int | None] = []
    last: int | None = None

    place = 0
    while place < len(notation):
        match = _TOKEN.match(notation, place)
        if match is None:
            raise ConfigError(f"'{notation[place:]}' of '{notation}' is no atom or bond.")
        place = match.end()
        if match["open"]:
            branches.append(last)
            continue
        if match["close"]:
            last = branches.pop()
            continue

        atom = len(symbols)
        symbols.append(match["el"])
        if match["star"]:
            stars.append(atom)
        if last is not None:
            bonds[last, atom] = {"": 1, "=": 2, "#": 3}[match["bond"]]
        last = atom
        for _ in range(int((match["h"] or "H0")[1:] or 1)):
            bonds[atom, len(symbols)] = 1
            symbols.append("H")
    return symbols, bonds, stars


def _lone_pairs(symbol: str, neighbors: int, extra: int) -> int:
    """Pairs that take a corner: four corners less neighbors less pi bonds, for N and O."""
    most = {"N": 1, "O": 2}.get(symbol, 0)
    return max(0, min(most, 4 - neighbors - extra))


def _embedded(
    symbols: Sequence[str], bonds: Mapping[tuple[int, int], int], stars: Sequence[int]
) -> tuple[Array, Array]:
    """Positions (N, 3), and the direction (3,) away from the surface."""
    lengths = {
        pair: RADII[symbols[pair[0]]][order - 1] + RADII[symbols[pair[1]]][order - 1]
        for pair, order in bonds.items()
    }
    count, surface = len(symbols), []
    for atom, symbol in enumerate(symbols):
        orders = [order for pair, order in bonds.items() if atom in pair]
        neighbors = len(orders) + (atom in stars)
        dummies = [SURFACE] * (atom in stars)
        if atom in stars:
            surface.append(count)
        if neighbors > 1:
            dummies += [LONE_PAIR] * _lone_pairs(symbol, neighbors, sum(orders) - len(orders))
        for length in dummies:
            lengths[atom, count] = length
            count += 1

    # Two binding atoms face one surface: their dummies are kept side by side.
    for one, other in pairwise(surface):
        lengths[one, other] = APART
    x = _repelled(count, lengths)
    away = x[list(stars)].mean(axis=0) - x[surface].mean(axis=0)
    return x[: len(symbols)], away


def _repelled(count: int, lengths: Mapping[tuple[int, int], float]) -> Array:
    """Points (count, 3) at given distances from their neighbors, all others repelling by 1/r."""
    from scipy.optimize import minimize

    tied = np.array(list(lengths))
    wanted = np.array(list(lengths.values()))
    free = [(i, j) for i in range(count) for j in range(i) if (j, i) not in lengths]
    loose = np.array(free, dtype=int).reshape(-1, 2)

    def energy(flat: Array) -> tuple[float, Array]:
        x = flat.reshape(-1, 3)
        gradient = np.zeros_like(x)
        value = 0.0
        for pairs, stiff in ((tied, True), (loose, False)):
            vectors = x[pairs[:, 0]] - x[pairs[:, 1]]
            r = np.linalg.norm(vectors, axis=1)
            off = r - wanted if stiff else r
            value += float((200.0 * off**2 if stiff else 1 / r).sum())
            slope = 400.0 * off if stiff else -1 / r**2
            np.add.at(gradient, pairs[:, 0], vectors * (slope / r)[:, None])
            np.add.at(gradient, pairs[:, 1], -vectors * (slope / r)[:, None])
        return value, gradient.ravel()

    # A fixed seed: the same geometry tomorrow. Several starts, as chains have rotamers.
    random = np.random.default_rng(0)
    starts = [random.normal(scale=1.5, size=3 * count) for _ in range(3)]
    ends = [minimize(energy, start, jac=True, method="L-BFGS-B") for start in starts]
    best: Array = min(ends, key=lambda end: float(end.fun)).x.reshape(-1, 3)
    return best
