"""Potentials whose energy is a sum over atoms, with energies of free atoms and a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from ase.data import atomic_numbers
from torch import Tensor

from ase_nnp.errors import ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph

__all__ = ["AtomicEnergies", "element_numbers"]


class AtomicEnergies(Conservative):
    r"""A conservative potential of the form :math:`E = \sum_i (s e_i + \epsilon_{z_i})`.

    A subclass writes :meth:`atom_energies`, :math:`e_i`; training sets the scale :math:`s` and the
    energies of free atoms :math:`\epsilon` from the data, and they are saved with the model.

    Parameters
    ----------
    numbers
        Atomic numbers of the elements it knows; their order is that of :attr:`species`.

    Raises
    ------
    ConfigError
        No numbers, one twice, or what is no atomic number.
    """

    outputs = ("energy", "energies", "forces", "stress")
    species: Tensor
    references: Tensor
    scale: Tensor

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        self.numbers = [int(z) for z in numbers]
        self.elements = frozenset(self.numbers)
        if not 1 <= len(self.numbers) == len(set(self.numbers) & set(range(1, 119))):
            raise ConfigError(
                f"The elements are {self.numbers}; atomic numbers from 1 to 118 were wanted, at "
                "least one and each once."
            )
        index = torch.zeros(120, dtype=torch.int64)
        index[self.numbers] = torch.arange(len(self.numbers))
        #: (120,) from atomic numbers to rows of tables.
        self.register_buffer("species", index, persistent=False)
        self.register_buffer("references", torch.zeros(len(self.numbers), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def atom_energies(self, graph: AtomGraph) -> Tensor:
        """Return what each atom adds (N,), in units of the scale."""
        raise NotImplementedError(f"{type(self).__name__} must write atom_energies(graph)")

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) and ``energies`` (N,), eV."""
        own = self.atom_energies(graph)

        # In float64: sums of thousands of eV must not cost a model in float32 its digits.
        row = self.species[graph.atomic_numbers]
        shares = self.scale.double() * own.double() + self.references.double()[row]
        total = shares.new_zeros(graph.num_structures)
        return {"energy": total.index_add(0, graph.batch, shares), "energies": shares}

    def set_scales(
        self,
        references: Mapping[int, float],
        *,
        mean: float = 0.0,
        energy: float = 1.0,
        forces: float = 1.0,
    ) -> None:
        """As :meth:`Potential.set_scales`; the energy is a sum over atoms, so there is no mean."""
        if mean:
            raise ConfigError(f"A mean of {mean} eV a structure: this energy is a sum over atoms.")
        self.references.zero_()
        self.shift_references(references)
        self.scale.fill_(energy)

    def shift_references(self, shift: Mapping[int, float]) -> None:
        """As :meth:`Potential.shift_references`."""
        for z, value in shift.items():
            self.references[self.species[z]] += value


def element_numbers(elements: Sequence[str]) -> list[int]:
    """Return the atomic numbers of distinct chemical symbols.

    Raises
    ------
    ConfigError
        A symbol is none, or comes twice, or there are none.
    """
    wrong = [s for s in elements if s not in atomic_numbers or s == "X"]
    if wrong or not elements or len(set(elements)) < len(elements):
        raise ConfigError(f"elements must be distinct chemical symbols, not {list(elements)}.")
    return [int(atomic_numbers[s]) for s in elements]
