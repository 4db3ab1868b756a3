"""Adsorption energies that say what they are: which reaction, which references, which kind.

A total-energy model needs three energies: the slab with the adsorbate, the clean slab, and
gas-phase references. A model trained on adsorption energies answers with the first alone, and only
for its own references. The two are never mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.files import load_model
from ase_nnp.models.potential import Potential, model_name
from ase_nnp.uncertainty.differences import energies

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["REFERENCES", "AdsorptionEnergy", "adsorption_energy"]

#: Named schemes: each element as a sum of gas-phase molecules. ``oc20`` is that of Chanussot et al.
#: (2021), doi:10.1021/acscatal.0c04525: N2, H2O, CO and H2.
REFERENCES: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "oc20": {
        "H": {"H2": 0.5},
        "O": {"H2O": 1.0, "H2": -1.0},
        "C": {"CO": 1.0, "H2O": -1.0, "H2": 1.0},
        "N": {"N2": 0.5},
    },
}


@dataclass(frozen=True)
class AdsorptionEnergy:
    """An adsorption energy, with what it means.

    ``float(result)`` is the energy; printing it shows the reaction.

    Attributes
    ----------
    energy
        eV; negative where adsorption is favorable.
    reaction
        Such as ``"* + H2O(g) - 1/2 H2(g) -> OH*"``.
    reference
        Name of the scheme, ``"molecule"``, or what the model says of its own.
    parts
        The energies that were combined, eV.
    gas
        The gas-phase structures as they were used.
    std
        Standard deviation, eV, of which what the parts have in common has cancelled as far as the
        model says; None where it has no uncertainty.
    unknown
        The parts that the model's own flag calls outside of what it knows.
    """

    energy: float
    reaction: str
    reference: str
    parts: Mapping[str, float] = field(default_factory=dict)
    gas: Mapping[str, Any] = field(default_factory=dict, repr=False)
    std: float | None = None
    unknown: tuple[str, ...] = ()

    def __float__(self) -> float:
        return self.energy

    def __str__(self) -> str:
        bar = "" if self.std is None else f" ± {self.std:.4f}"
        doubt = f"; unknown to the model: {', '.join(self.unknown)}" if self.unknown else ""
        return f"{self.reaction}: {self.energy:.4f}{bar} eV ({self.reference}){doubt}"


def adsorption_energy(
    adslab: Atoms,
    slab: Atoms,
    adsorbate_or_reference: Atoms | str,
    model: Potential | str | Path,
    *,
    relax_gas: bool = True,
    fmax: float = 0.01,
) -> AdsorptionEnergy:
    """Return the energy (eV) of ``slab + adsorbate -> adslab`` with the reaction that was used.

    Parameters
    ----------
    adslab, slab
        With and without the adsorbate, in one cell, each as it should be taken (relaxed, usually).
    adsorbate_or_reference
        The gas-phase molecule as ase.Atoms, taken as it is; or the name of a scheme of
        :data:`REFERENCES`, such as ``"oc20"``, whose molecules are built here.
    model
        A potential or what :func:`~ase_nnp.load_model` takes. For a model of adsorption energies
        its answer for ``adslab`` is the result, if the scheme is the one that it was trained on.
    relax_gas
        Relax the molecules of a named scheme with the model, to ``fmax`` eV/Angstrom.
    fmax
        Where relaxations of molecules end, eV/Angstrom.

    Raises
    ------
    ConfigError
        An unknown scheme, or kinds of energies that do not belong together.
    StructureError
        Cells that differ, or atoms that do not add up.
    """
    model = load_model(model)
    added = adsorbate_of(adslab, slab)
    if isinstance(adsorbate_or_reference, str):
        return _by_scheme(adslab, slab, adsorbate_or_reference, model, added, relax_gas, fmax)
    return _by_molecule(adslab, slab, adsorbate_or_reference, model, added)


def adsorbate_of(adslab: Atoms, slab: Atoms) -> dict[str, int]:
    """Return the atoms that the slab gained, by element.

    Raises
    ------
    StructureError
        Cells or periodicity differ, or the adslab is not the slab with more atoms.
    """
    if not np.allclose(adslab.cell[:], slab.cell[:], atol=1e-3) or (adslab.pbc != slab.pbc).any():
        raise StructureError(
            "The slab with and without the adsorbate have different cells or periodicity: "
            f"{adslab.cell.cellpar().round(3).tolist()} and "
            f"{slab.cell.cellpar().round(3).tolist()}."
        )
    from ase.formula import Formula

    with_it = Formula(adslab.get_chemical_formula()).count()
    without = Formula(slab.get_chemical_formula()).count()
    gained = {
        s: with_it.get(s, 0) - without.get(s, 0) for s in sorted({*with_it, *without}, key=_order)
    }
    lost = {s: -n for s, n in gained.items() if n < 0}
    gained = {s: n for s, n in gained.items() if n > 0}
    if lost or not gained:
        raise StructureError(
            f"{adslab.get_chemical_formula()} is not {slab.get_chemical_formula()} with an "
            f"adsorbate: it {'lacks ' + _formula(lost) if lost else 'gained no atom'}."
        )
    return gained


def _by_scheme(
    adslab: Atoms,
    slab: Atoms,
    scheme: str,
    model: Potential,
    added: dict[str, int],
    relax_gas: bool,
    fmax: float,
) -> AdsorptionEnergy:
    amounts, reaction = gas_amounts(added, scheme)

    # A model of adsorption energies has subtracted slab and gas already.
    if model.energy_kind == "adsorption":
        check_own_reference(model, scheme)
        (value,) = energies(model, [adslab])
        unknown = ("adslab",) if value.unknown else ()
        parts = {"adslab": float(value)}
        own = model.energy_reference
        return AdsorptionEnergy(float(value), reaction, own, parts, {}, value.std, unknown)

    _check_total(model)
    gas = {name: gas_molecule(name, model, relax_gas, fmax) for name in amounts}
    return _difference(adslab, slab, gas, amounts, model, reaction, scheme)


def gas_amounts(added: Mapping[str, int], scheme: str) -> tuple[dict[str, float], str]:
    """Return how much of each gas-phase molecule makes an adsorbate, and the reaction in words.

    Parameters
    ----------
    added
        The adsorbate's atoms by element.
    scheme
        Of :data:`REFERENCES`.

    Raises
    ------
    ConfigError
        No such scheme, or an element that it has no reference for.
    """
    if scheme not in REFERENCES:
        raise ConfigError(
            f"No reference scheme is named '{scheme}'. There is: {', '.join(REFERENCES)}; or give "
            "the gas-phase molecule as Atoms."
        )
    elements = REFERENCES[scheme]
    strange = [s for s in added if s not in elements]
    if strange:
        raise ConfigError(
            f"'{scheme}' has no reference for {', '.join(strange)}; it has {', '.join(elements)}. "
            "Give the gas-phase molecule as Atoms instead."
        )

    amounts: dict[str, float] = {}
    for symbol, count in added.items():
        for molecule, amount in elements[symbol].items():
            amounts[molecule] = amounts.get(molecule, 0.0) + count * amount
    amounts = {name: value for name, value in amounts.items() if abs(value) > 1e-12}
    return amounts, _reaction(amounts, added)


def _by_molecule(
    adslab: Atoms, slab: Atoms, molecule: Atoms, model: Potential, added: dict[str, int]
) -> AdsorptionEnergy:
    if model.energy_kind == "adsorption":
        raise ConfigError(
            f"'{model_name(model)}' gives adsorption energies already, relative to "
            f"{model.energy_reference or 'references of its own'}. Subtracting a slab and a "
            "molecule would mix two kinds of energies; name its reference scheme instead: "
            f"{', '.join(REFERENCES)}."
        )
    _check_total(model)
    amounts, reaction = molecule_amounts(added, molecule)
    gas = dict.fromkeys(amounts, molecule)
    return _difference(adslab, slab, gas, amounts, model, reaction, "molecule")


def molecule_amounts(added: Mapping[str, int], molecule: Atoms) -> tuple[dict[str, float], str]:
    """Return how much of one molecule makes an adsorbate, and the reaction in words.

    Raises
    ------
    StructureError
        The adsorbate is no multiple of the molecule.
    """
    from ase.formula import Formula

    inside = Formula(molecule.get_chemical_formula()).count()
    ratios = {Fraction(added.get(s, 0), n) for s, n in inside.items()}
    if set(inside) != set(added) or len(ratios) != 1:
        raise StructureError(
            f"The slab gained {_formula(added)}, which is no multiple of "
            f"{molecule.get_chemical_formula()}."
        )
    name = molecule.get_chemical_formula()
    amounts = {name: float(ratios.pop())}
    return amounts, _reaction(amounts, added)


def _difference(
    adslab: Atoms,
    slab: Atoms,
    gas: dict[str, Atoms],
    amounts: dict[str, float],
    model: Potential,
    reaction: str,
    reference: str,
) -> AdsorptionEnergy:
    structures = [adslab, slab, *gas.values()]
    names = ["adslab", "slab", *(f"{n}(g)" for n in gas)]
    values = energies(model, structures)
    difference = values[0] - values[1]
    for value, amount in zip(values[2:], (amounts[n] for n in gas), strict=True):
        difference = difference - amount * value
    parts = {name: float(value) for name, value in zip(names, values, strict=True)}
    unknown = tuple(name for name, value in zip(names, values, strict=True) if value.unknown)
    return AdsorptionEnergy(
        float(difference), reaction, reference, parts, gas, difference.std, unknown
    )


def _check_total(model: Potential) -> None:
    if model.energy_kind != "total":
        raise ConfigError(
            f"'{model_name(model)}' gives energies of the kind "
            f"'{model.energy_kind}'; slab and molecules need total energies."
        )


def check_own_reference(model: Potential, scheme: str) -> None:
    """Refuse a scheme that is not the one of a model of adsorption energies; ConfigError."""
    elements = REFERENCES[scheme]
    said = model.energy_reference.replace(",", " ").replace("(", " ").replace(")", " ").split()
    molecules = {name for parts in elements.values() for name in parts}
    if scheme not in model.energy_reference.lower() and not molecules <= set(said):
        raise ConfigError(
            f"'{model_name(model)}' gives adsorption energies relative to "
            f"{model.energy_reference or 'something that it does not name'}, which is not the "
            f"scheme '{scheme}'."
        )


def gas_molecule(name: str, model: Potential, relax: bool, fmax: float) -> Atoms:
    """Return a molecule of :mod:`ase.build`, relaxed with the model; StructureError if it fails."""
    from ase.build import molecule

    atoms: Atoms = molecule(name)
    atoms.center(vacuum=8.0)  # and not periodic: a box only for models that want a cell
    return settled_gas(atoms, model, fmax) if relax else atoms


def settled_gas(atoms: Atoms, model: Potential, fmax: float) -> Atoms:
    """Return a copy of a molecule, relaxed with the model; StructureError if it fails."""
    from ase_nnp.workflows.batched import relax_many

    outcome = relax_many(model, atoms, optimizer="BFGS", fmax=fmax, steps=200)[0]
    if not outcome.converged:
        raise StructureError(
            f"Gas-phase {atoms.get_chemical_formula()} did not relax to {fmax} eV/Å with "
            f"'{model_name(model)}'{': ' + outcome.reason if outcome.reason else ''}. Does the "
            "model know molecules? relax_gas=False takes ASE's geometry."
        )
    settled: Atoms = atoms.copy()
    settled.positions = outcome.atoms.positions
    return settled


def _reaction(amounts: Mapping[str, float], added: Mapping[str, int]) -> str:
    left = "*"
    for name, amount in sorted(amounts.items(), key=lambda item: item[1] < 0):
        size = Fraction(abs(amount)).limit_denominator(100)
        number = "" if size == 1 else f"{size} "
        left += f" {'+' if amount > 0 else '-'} {number}{name}(g)"
    return f"{left} -> {_formula(added)}*"


def _order(symbol: str) -> tuple[int, str]:
    usual = "CNOH"
    return (usual.index(symbol) if symbol in usual else -1, symbol)


def _formula(counts: Mapping[str, int]) -> str:
    return "".join(
        f"{s}{n if n > 1 else ''}" for s, n in sorted(counts.items(), key=lambda i: _order(i[0]))
    )
