"""Coulomb energy of a batch of structures, each with the sum that its periodicity needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import units
from ase.data import atomic_numbers
from torch import Tensor

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph

from .boxes import box_of

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Electrostatics"]

#: e^2 / (4 pi eps0) in eV Angstrom.
COULOMB = units.Hartree * units.Bohr


class Electrostatics(Conservative):
    r"""Energy of point charges, :math:`\frac{1}{2} \sum_{ij} q_i q_j / 4\pi\epsilon_0 r_{ij}`.

    Crystals by an Ewald sum or P3M; slabs by the same in a cell with room along the normal and the
    dipole correction of Yeh and Berkowitz (1999), doi:10.1063/1.479595; molecules directly.

    Parameters
    ----------
    charges
        Elementary charges by chemical symbol; None takes those of ``atoms.get_initial_charges()``.
    method
        ``"ewald"``, or ``"p3m"`` whose cost grows as N log N.
    cutoff
        Of the real-space part, Angstrom.
    accuracy
        Of the split between real and reciprocal space: what is left out, relative to the potential
        of a neighbor. P3M has about 1e-5 at best.
    """

    outputs = ("energy", "energies", "forces", "stress", "charges")
    units: Mapping[str, str] = MappingProxyType({"charges": "e"})

    def __init__(
        self, charges: Mapping[str, float] | None, method: str, cutoff: float, accuracy: float
    ) -> None:
        super().__init__()
        if method not in ("ewald", "p3m"):
            raise ConfigError(f"method is {method!r}; there are 'ewald' and 'p3m'.")
        if not (cutoff > 0 and 0 < accuracy < 0.1):
            raise ConfigError(
                f"cutoff {cutoff} and accuracy {accuracy} must be small and positive."
            )
        self.charges = None if charges is None else _checked(charges)
        self.cutoff, self.method = float(cutoff), method
        # A calculator looks at what is read, and computes anew where it has changed.
        self.required_inputs = ("initial_charges",) if charges is None else ()

        # erfc and the Gaussian of reciprocal space both fall as exp(-x^2 / 2).
        reach = math.sqrt(-2.0 * math.log(accuracy))
        self.smearing = self.cutoff / reach
        # torch-pme counts vectors up to half of what the wavelength says.
        self.wavelength = math.pi * self.smearing / reach

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """As :meth:`Potential.make_graph`, with the charges of the atoms in ``extra``."""
        structures: list[Any] = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
        for one in structures:  # one by one, so that the error says which
            self._check(one)
        graph = super().make_graph(structures, device)
        if self.charges is None:
            given = np.concatenate([a.get_initial_charges() for a in structures])
            graph.extra["charges"] = torch.as_tensor(given).to(graph.positions)
        return graph

    def _check(self, atoms: Atoms) -> None:
        """Refuse atoms without charges, and cells whose sum has no limit."""
        if self.charges is None:
            given = atoms.get_initial_charges()
            if not given.any():
                raise StructureError(
                    "No atom has a charge: set_initial_charges, or name charges by element in the "
                    "parameters of the correction 'ewald'."
                )
        else:
            without = sorted({s for s in atoms.symbols if atomic_numbers[s] not in self.charges})
            if without:
                raise StructureError(f"There is no charge for {', '.join(without)}.")
            given = np.array([self.charges[int(z)] for z in atoms.numbers])

        if atoms.pbc.sum() == 1:
            raise StructureError(
                "It repeats along one axis alone, for which there is no Ewald sum here. Make the "
                "cell wide and all three axes periodic."
            )
        net = float(given.sum())
        if atoms.pbc.sum() == 2 and abs(net) > 1e-6 * np.abs(given).sum():
            raise StructureError(f"A slab with a net charge of {net:+.4g} e has no finite energy.")

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,), ``energies`` (N,) in eV and the ``charges`` (N,) used."""
        charges = self._charges_of(graph)
        ends = graph.atoms_per_structure().cumsum(0).tolist()
        of_edge = graph.batch[graph.edge_index[1]]
        lengths = graph.edge_vectors().norm(dim=1)

        potentials = []
        for number, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            rows = slice(first, last)
            mine = (of_edge == number).nonzero()[:, 0]
            pairs = (graph.edge_index[:, mine] - first).T
            one = _One(graph.positions[rows], graph.cell[number], graph.pbc[number], charges[rows])
            potentials.append(self._potential(one, pairs, lengths[mine]))

        shares = (COULOMB * charges * torch.cat(potentials)).double()
        total = shares.new_zeros(graph.num_structures).index_add(0, graph.batch, shares)
        return {"energy": total, "energies": shares, "charges": charges}

    def _charges_of(self, graph: AtomGraph) -> Tensor:
        if self.charges is None:
            if "charges" not in graph.extra:
                raise StructureError("This graph was made without the charges of its atoms.")
            return graph.extra["charges"].to(graph.positions)
        table = graph.positions.new_full((120,), torch.nan)
        for number, charge in self.charges.items():
            table[number] = charge
        return table[graph.atomic_numbers]

    def _potential(self, one: _One, pairs: Tensor, lengths: Tensor) -> Tensor:
        """Half the potential at each atom, e / Angstrom."""
        import torchpme

        column = one.charges[:, None]
        if not bool(one.pbc.any()):
            i, j = torch.triu_indices(len(column), len(column), 1, device=column.device)
            r = (one.positions[i] - one.positions[j]).norm(dim=1)
            direct = torchpme.Calculator(torchpme.CoulombPotential())
            box = torch.eye(3, dtype=r.dtype, device=r.device)
            return _run(direct, column, box, one.positions, torch.stack([i, j], dim=1), r)

        kind = torchpme.CoulombPotential(smearing=self.smearing)
        options = {"full_neighbor_list": True}
        sums: Any
        if self.method == "ewald":
            sums = torchpme.EwaldCalculator(kind, lr_wavelength=self.wavelength, **options)
        else:
            sums = torchpme.P3MCalculator(
                kind, mesh_spacing=self.smearing / 8.0, interpolation_nodes=5, **options
            )
        cell, positions, periodic = box_of(one.positions, one.cell, one.pbc)
        sums = sums.to(column.dtype).to(column.device)
        return _run(sums, column, cell, positions, pairs, lengths, periodic=periodic)


class _One:
    """One structure of a batch."""

    def __init__(self, positions: Tensor, cell: Tensor, pbc: Tensor, charges: Tensor) -> None:
        self.positions, self.cell, self.pbc, self.charges = positions, cell, pbc, charges


def _run(calculator: Any, charges: Tensor, *geometry: Tensor, **options: Tensor) -> Tensor:
    potential: Tensor = calculator(charges, *geometry, **options)
    return potential[:, 0]


def _checked(charges: Mapping[str, float]) -> dict[int, float]:
    if not isinstance(charges, Mapping):
        raise ConfigError(f"charges is {charges!r}; a mapping of symbols to charges was expected.")
    unknown = [s for s in charges if s not in atomic_numbers]
    if unknown:
        raise ConfigError(f"charges: {', '.join(map(str, unknown))} are no elements.")
    return {atomic_numbers[s]: float(q) for s, q in charges.items()}
