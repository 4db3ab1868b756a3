"""Pourbaix diagrams of bulk materials: solids of a model, ions in water from tables.

The diagram itself is that of :mod:`ase.pourbaix`; what it needs are formation energies on one
scale. Solids are counted from the elements as the model has them, and ions from the elements as
they were measured (:func:`ase.phasediagram.solvated`). Both scales have zero at the elements and
agree on water, if oxygen is taken from water
(:func:`~ase_nnp.workflows.thermo.electrode.oxygen_from_water`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ase_nnp.errors import ConfigError
from ase_nnp.uncertainty.observables import Observable
from ase_nnp.workflows.thermo.gibbs import FreeEnergyLike, free_energy_of, warn_of_lost_doubts

if TYPE_CHECKING:
    from ase.pourbaix import Pourbaix

__all__ = ["bulk_pourbaix", "formation_energy"]


def formation_energy(
    formula: str, energy: FreeEnergyLike, elements: Mapping[str, FreeEnergyLike]
) -> Observable:
    """Return the formation energy of a formula unit from its elements, eV.

    Parameters
    ----------
    formula
        Such as ``"ZnO"``.
    energy
        Of one formula unit, eV.
    elements
        Energy of an atom of each element in its reference state, eV.

    Raises
    ------
    ConfigError
        An element without a reference.
    """
    from ase.formula import Formula

    counts = Formula(formula).count()
    missing = set(counts) - set(elements)
    if missing:
        raise ConfigError(f"{formula} needs the energy of an atom of {', '.join(sorted(missing))}.")
    parts = [-count * free_energy_of(elements[symbol]) for symbol, count in counts.items()]
    return sum(parts, free_energy_of(energy))


def bulk_pourbaix(
    material: str,
    solids: Mapping[str, FreeEnergyLike],
    elements: Mapping[str, FreeEnergyLike],
    *,
    ions: Mapping[str, float] | None = None,
    temperature: float = 298.15,
    concentration: float = 1e-6,
) -> Pourbaix:
    """Return ASE's Pourbaix diagram of a material among its competing solids and ions.

    Parameters
    ----------
    material
        One of the solids, whose stability is asked for.
    solids
        Energy of a formula unit by formula, eV.
    elements
        Energy of an atom of each element in its reference state, eV; of oxygen half of
        :func:`~ase_nnp.workflows.thermo.electrode.oxygen_from_water`. Metals compete as well.
    ions
        Formation energies of what is in water, eV, named as ``"Zn++(aq)"``; by default those of
        :func:`ase.phasediagram.solvated`.
    temperature
        Kelvin.
    concentration
        Of each ion, mol/L.

    Raises
    ------
    ConfigError
        The material is none of the solids, or an element has no reference.

    Warns
    -----
    UncertaintyWarning
        An energy rests on a structure that is unknown to its model, which the diagram cannot say.
    """
    from ase.phasediagram import solvated
    from ase.pourbaix import Pourbaix

    if material not in solids:
        raise ConfigError(f"'{material}' is none of the solids: {', '.join(solids)}.")
    formed = {name: formation_energy(name, e, elements) for name, e in solids.items()}
    warn_of_lost_doubts("the Pourbaix diagram", formed.values())
    metals = [symbol for symbol in elements if symbol not in ("H", "O")]
    known = dict(solvated("".join(metals))) if ions is None else dict(ions)

    # Elements are the zero of the scale; gases do not compete with solids.
    species = {**dict.fromkeys(metals, 0.0), **known}
    species |= {name: float(value) for name, value in formed.items()}
    return Pourbaix(material, species, T=temperature, conc=concentration)
