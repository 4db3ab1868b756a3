"""Gas-phase references of a search: how much of which molecule, and their energies once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ase_nnp.errors import ConfigError
from ase_nnp.workflows.adsorption.adsorbates import Adsorbate
from ase_nnp.workflows.adsorption.energies import (
    check_own_reference,
    gas_amounts,
    gas_molecule,
    molecule_amounts,
    settled_gas,
)

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential
    from ase_nnp.uncertainty.observables import Observable

__all__ = ["References"]


@dataclass(frozen=True)
class References:
    """What an adsorption energy is counted from.

    Attributes
    ----------
    name
        Of the scheme, or ``"molecule"``.
    reaction
        In words.
    amounts
        Of each molecule.
    gas
        The relaxed molecules; none for a model of adsorption energies.
    own
        Whether the model subtracts slab and molecules itself.
    """

    name: str
    reaction: str
    amounts: Mapping[str, float]
    gas: Mapping[str, Any] = field(default_factory=dict, repr=False)
    own: bool = False

    @classmethod
    def of(cls, guests: Sequence[Adsorbate], potential: Potential, reference: str | Atoms) -> Self:
        """Return the references of adsorbates, relaxed with the model.

        Raises
        ------
        ConfigError
            A scheme that does not hold these elements, or is not the model's own.
        """
        added = Counter(s for guest in guests for s in guest.atoms.get_chemical_symbols())
        if isinstance(reference, str):
            amounts, reaction = gas_amounts(added, reference)
            if potential.energy_kind == "adsorption":
                check_own_reference(potential, reference)
                return cls(potential.energy_reference or reference, reaction, {}, own=True)
        elif potential.energy_kind == "adsorption":
            raise ConfigError(
                "This model gives adsorption energies already; name its reference scheme, not a "
                "molecule."
            )
        else:
            amounts, reaction = molecule_amounts(added, reference)

        if potential.energy_kind != "total":
            raise ConfigError(
                f"This model gives energies of the kind '{potential.energy_kind}'; slab and "
                "molecules need total energies."
            )
        if isinstance(reference, str):
            gas = {name: gas_molecule(name, potential, True, 0.01) for name in amounts}
            return cls(reference, reaction, amounts, gas)
        settled = settled_gas(reference, potential, 0.01)
        return cls("molecule", reaction, amounts, dict.fromkeys(amounts, settled))

    def energies(
        self, potential: Potential, adslabs: Sequence[Atoms], slab: Atoms
    ) -> list[Observable]:
        """Return the adsorption energy of each structure with what its error has in common.

        Slab and molecules are evaluated once; where the model says how errors are correlated,
        what they share cancels.
        """
        from ase_nnp.uncertainty.differences import energies

        if self.own:
            return energies(potential, adslabs)
        values = energies(potential, [*adslabs, slab, *self.gas.values()])
        base = values[len(adslabs)]
        for value, amount in zip(values[len(adslabs) + 1 :], self.amounts.values(), strict=True):
            base = base + amount * value
        return [value - base for value in values[: len(adslabs)]]
