"""Energies to make a vacancy at each distinct site of a crystal."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import AseNnpError, ConfigError, StructureError
from ase_nnp.models.files import load_model
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.differences import energies
from ase_nnp.uncertainty.observables import Observable, as_observable
from ase_nnp.workflows.eos import require_crystal

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Vacancy", "distinct_sites", "vacancy_energies"]


@dataclass(frozen=True)
class Vacancy:
    """A site without its atom.

    Attributes
    ----------
    site
        Index in the crystal as given.
    symbol
        Of the atom that is missing.
    multiplicity
        How many sites of the crystal are equivalent to it.
    energy
        ``E(vacancy) + mu - E(perfect)``, eV, with its error bar.
    atoms
        The supercell with the vacancy.
    """

    site: int
    symbol: str
    multiplicity: int
    energy: Observable
    atoms: Atoms


def vacancy_energies(
    bulk: Atoms,
    model: Any = None,
    *,
    references: Mapping[str, Observable | float] | None = None,
    smallest: float = 9.0,
    relax: bool = True,
    fmax: float = 0.02,
    steps: int = 300,
    symprec: float = 1e-3,
) -> list[Vacancy]:
    """Return the formation energies of vacancies at all sites that symmetry tells apart.

    Parameters
    ----------
    bulk
        A relaxed crystal; left as it is.
    model
        Anything that :func:`~ase_nnp.load_model` takes.
    references
        Energy of an atom of each element in its reservoir, eV. By default the element's own
        ground state as :func:`ase.build.bulk` makes it, relaxed with its cell; for a crystal of
        that one element, the crystal itself.
    smallest
        Angstrom that the supercell measures at least across each pair of faces.
    relax, fmax, steps
        Relax the atoms around the vacancy in a cell that stays, to this force (eV/Angstrom).
    symprec
        Angstrom, for sites that are equivalent.

    Raises
    ------
    StructureError
        No crystal, an element without a ground state that is built here, or one that does not
        relax.
    """
    if not smallest > 0 or not fmax > 0:
        raise ConfigError(f"smallest = {smallest}, fmax = {fmax}: positive.")
    require_crystal(bulk, "A vacancy")
    potential = load_model(model)
    sites = distinct_sites(bulk, symprec)
    # Distances between opposite faces, not lengths of edges: what images of the vacancy see.
    heights = 1.0 / np.linalg.norm(bulk.cell.reciprocal()[:], axis=1)
    repeats = tuple(int(n) for n in np.ceil(smallest / heights - 1e-6))
    perfect = bulk.repeat(repeats)
    perfect.set_constraint()

    holes = []
    for site in sites:
        hole = perfect.copy()
        del hole[site]
        holes.append(hole)
    if relax:
        holes = _relaxed(holes, potential, fmax, steps, cell=False)
    whole, *values = energies(potential, [perfect, *holes])
    atoms_of = _references(bulk, perfect, whole, potential, references or {}, fmax, steps)
    return [
        Vacancy(
            site,
            bulk[site].symbol,
            sites[site],
            value + atoms_of[bulk[site].symbol] - whole,
            hole,
        )
        for site, value, hole in zip(sites, values, holes, strict=True)
    ]


def distinct_sites(atoms: Atoms, symprec: float = 1e-3) -> dict[int, int]:
    """Return the first of each set of equivalent sites, and how many there are of it.

    Raises
    ------
    AseNnpError
        spglib is not installed.
    """
    try:
        import spglib
    except ImportError as error:
        raise AseNnpError(
            "Equivalent sites need spglib; install it with: pip install ase_nnp[pymatgen]"
        ) from error

    cell = atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers
    with warnings.catch_warnings():
        # spglib speaks of its own settings; whether there is a symmetry is asked below.
        warnings.simplefilter("ignore", DeprecationWarning)
        symmetry = spglib.get_symmetry_dataset(cell, symprec=symprec)

    if symmetry is None:
        raise StructureError(f"No symmetry of {atoms.get_chemical_formula()} could be determined.")
    first, counts = np.unique(symmetry.equivalent_atoms, return_counts=True)
    return dict(zip(first.tolist(), counts.tolist(), strict=True))


def _references(
    bulk: Atoms,
    perfect: Atoms,
    whole: Observable,
    model: Potential,
    given: Mapping[str, Observable | float],
    fmax: float,
    steps: int,
) -> dict[str, Observable]:
    """Return the energy of an atom of each element in its reservoir."""
    symbols = sorted(set(bulk.get_chemical_symbols()))
    known = {symbol: as_observable(value) for symbol, value in given.items()}
    if len(symbols) == 1 and symbols[0] not in known:
        known[symbols[0]] = whole / len(perfect)
    missing = [symbol for symbol in symbols if symbol not in known]
    if missing:
        states = [_ground_state(symbol) for symbol in missing]
        states = _relaxed(states, model, fmax, steps, cell=True)
        for symbol, state, value in zip(missing, states, energies(model, states), strict=True):
            known[symbol] = value / len(state)
    return known


def _ground_state(symbol: str) -> Atoms:
    from ase.build import bulk as make

    try:
        state: Atoms = make(symbol)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise StructureError(
            f"No ground state of {symbol} is built here ({error}); give "
            f"references={{'{symbol}': energy of an atom}}."
        ) from error
    return state


def _relaxed(
    structures: list[Atoms], model: Potential, fmax: float, steps: int, cell: bool
) -> list[Atoms]:
    from ase_nnp.workflows.batched import relax_many

    settings: dict[str, Any] = {"optimizer": "FIRE", "fmax": fmax, "steps": steps, "cell": cell}
    outcomes = relax_many(model, structures, **settings)
    for outcome in outcomes:
        if outcome.status != "converged":
            raise StructureError(
                f"{outcome.atoms.get_chemical_formula()} did not relax to {fmax} eV/Å in {steps} "
                f"steps. {outcome.reason or ''}".strip()
            )
    return [outcome.atoms for outcome in outcomes]
