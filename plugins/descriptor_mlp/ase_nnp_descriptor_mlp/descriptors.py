r"""Descriptors of composition and structure, made of a graph on its device.

Statistics of element properties over the atoms as in Ward et al. (2016, doi:10.1038/npjcompumats.
2016.28), their differences between neighbors, coordination, density and the radial distribution.
All are means over atoms or extrema, so a supercell has those of its crystal, and all that follows
distances ends smoothly at the cutoff.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp.models.graph import AtomGraph

from .elements import ELEMENT_PROPERTIES, covalent_radii, element_table, masses

__all__ = ["Descriptors", "descriptor_names"]

#: Gaussians of the radial distribution, a width apart up to the cutoff.
NUM_RADIAL = 16
#: Where a bond begins to weaken and where it has ended, in sums of covalent radii.
BOND = (1.15, 1.5)
#: Bond weight of an atom below which means over bonds fade to zero.
FAINT = 1e-3
#: g/cm^3 of an atomic mass unit in a cubic Angstrom.
AMU_PER_A3 = 1.66053906892


def descriptor_names() -> tuple[str, ...]:
    """Return the names of all descriptors, in the order of their columns."""
    composition = [f"{s} {p}" for s in ("mean", "spread", "min", "max") for p in ELEMENT_PROPERTIES]
    bonds = [f"neighbor difference {p}" for p in ELEMENT_PROPERTIES]
    coordination = [f"{s} coordination" for s in ("mean", "spread", "min", "max")]
    rest = ["relative bond length", "log volume per atom", "log density", "packing fraction"]
    radial = [f"radial distribution {k}" for k in range(1, NUM_RADIAL + 1)]
    return (*composition, *bonds, *coordination, *rest, *radial)


class Descriptors(nn.Module):
    """All descriptors of a batch; the properties of the elements are saved with the model.

    Parameters
    ----------
    cutoff
        Angstrom.
    """

    table: Tensor
    radii: Tensor
    masses: Tensor

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

        # Saved, because tables change between releases of pymatgen and a model must not with them.
        self.register_buffer("table", torch.from_numpy(element_table()))
        self.register_buffer("radii", torch.from_numpy(covalent_radii()))
        self.register_buffer("masses", torch.from_numpy(masses()))

    def forward(self, graph: AtomGraph) -> Tensor:
        """Return the descriptors (B, F)."""
        atoms = self.table[graph.atomic_numbers]
        parts = [_statistics(atoms, graph), *self._bonds(graph, atoms), *self._cells(graph)]
        return torch.cat([*parts, self._radial(graph)], dim=1)

    def _bonds(self, graph: AtomGraph, atoms: Tensor) -> list[Tensor]:
        source, target = graph.edge_index
        length = graph.edge_vectors().norm(dim=1)
        reduced = length / (self.radii[graph.atomic_numbers][graph.edge_index].sum(0))
        begin, end = BOND
        weight = _switch((reduced - begin) / (end - begin)) * self._envelope(length)

        # Sums an atom before they are divided, so that the size of the cell does not matter.
        difference = (atoms[source] - atoms[target]).abs()
        columns = torch.cat([difference, reduced[:, None], torch.ones_like(reduced)[:, None]], 1)
        per_atom = columns.new_zeros(len(atoms), columns.shape[1])
        per_atom = per_atom.index_add(0, target, columns * weight[:, None])
        mean = _mean(per_atom, graph)
        over_bonds = mean[:, :-1] / (mean[:, -1:] + FAINT)

        coordination = _statistics(per_atom[:, -1:], graph)
        return [over_bonds[:, :-1], coordination, over_bonds[:, -1:]]

    def _cells(self, graph: AtomGraph) -> list[Tensor]:
        """Volume, density and packing of cells that repeat along all three vectors, else zero."""
        count = graph.atoms_per_structure().to(graph.cell)
        solid = graph.pbc.all(dim=1)
        volume = torch.where(solid, torch.linalg.det(graph.cell).abs(), count)

        mass = AMU_PER_A3 * self.masses[graph.atomic_numbers]
        spheres = 4 / 3 * math.pi * self.radii[graph.atomic_numbers] ** 3
        sums = count.new_zeros(graph.num_structures, 2)
        sums = sums.index_add(0, graph.batch, torch.stack([mass, spheres], 1))

        values = [(volume / count / 15).log(), (sums[:, 0] / volume).log(), sums[:, 1] / volume]
        return [torch.where(solid, value, 0)[:, None] for value in values]

    def _radial(self, graph: AtomGraph) -> Tensor:
        length = graph.edge_vectors().norm(dim=1)
        step = self.cutoff / NUM_RADIAL
        centers = step * torch.arange(1, NUM_RADIAL + 1).to(length)
        basis = torch.exp(-0.5 * ((length[:, None] - centers) / step).square()) / centers.square()
        per_atom = basis.new_zeros(graph.num_atoms, NUM_RADIAL)
        terms = basis * self._envelope(length)[:, None]
        return _mean(per_atom.index_add(0, graph.edge_index[1], terms), graph)

    def _envelope(self, length: Tensor) -> Tensor:
        return _switch(2 * length / self.cutoff - 1)


def _switch(x: Tensor) -> Tensor:
    """From 1 at 0 to 0 at 1 with two smooth derivatives at either end."""
    x = x.clamp(0, 1)
    return 1 - x**3 * (10 - 15 * x + 6 * x * x)


def _mean(values: Tensor, graph: AtomGraph) -> Tensor:
    total = values.new_zeros(graph.num_structures, values.shape[1])
    count = graph.atoms_per_structure().to(values)
    return total.index_add(0, graph.batch, values) / count[:, None]


def _statistics(values: Tensor, graph: AtomGraph) -> Tensor:
    """Mean, mean distance from it, least and largest over the atoms: (B, 4 P)."""
    mean = _mean(values, graph)
    spread = _mean((values - mean[graph.batch]).abs(), graph)
    index = graph.batch[:, None].expand_as(values)

    def extreme(which: Any) -> Tensor:
        return torch.zeros_like(mean).scatter_reduce(0, index, values, which, include_self=False)

    return torch.cat([mean, spread, extreme("amin"), extreme("amax")], dim=1)
