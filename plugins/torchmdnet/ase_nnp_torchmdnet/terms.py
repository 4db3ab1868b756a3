"""Terms that torchmd-net adds to a network ("priors"), as corrections of this project."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import units
from ase.data import atomic_numbers
from torch import Tensor

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph

from .pairs import LONGEST, add_up, all_pairs, universal_screening
from .radial import cosine_cutoff
from .tables import D2_COEFFICIENTS, D2_RADII

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["ZBL", "Coulomb", "Dispersion"]


class _Term(Conservative):
    outputs = ("energy", "energies", "forces", "stress")

    def _check(self, **positive: float) -> None:
        wrong = [k for k, v in positive.items() if not (math.isfinite(v) and v > 0)]
        if wrong or not self.cutoff <= LONGEST:
            raise ConfigError(
                f"{', '.join(wrong) or 'cutoff'} must be positive, and cutoffs at most {LONGEST:g} "
                "Angstrom."
            )


class ZBL(_Term):
    r"""Screened nuclear repulsion that half a cosine takes to zero.

    .. math:: E = \sum_{i<j} k \frac{Z_i Z_j}{r} \phi(r / a_{ij})
              \frac{1 + \cos(\pi r / r_c)}{2}, \quad
              a_{ij} = \frac{0.8854\, a_0}{Z_i^{0.23} + Z_j^{0.23}}

    Parameters
    ----------
    cutoff
        :math:`r_c`, Angstrom.
    strength
        :math:`k`, eV Angstrom.
    """

    repulsive_core = True

    def __init__(self, cutoff: float, strength: float) -> None:
        super().__init__()
        self.cutoff, self.strength = float(cutoff), float(strength)
        self._check(cutoff=self.cutoff, strength=self.strength)

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) and ``energies`` (N,), eV; a pair is shared by its atoms."""
        neighbor, center = graph.edge_index
        r = graph.edge_vectors().norm(dim=1)
        z = graph.atomic_numbers.to(r)
        one, two = z[center], z[neighbor]

        length = 0.8854 * units.Bohr / (one**0.23 + two**0.23)
        pair = self.strength * one * two / r * universal_screening(r / length)
        return add_up(graph, center, 0.5 * pair * cosine_cutoff(r, 0.0, self.cutoff))


class Dispersion(_Term):
    r"""DFT-D2 (Grimme 2006, doi:10.1002/jcc.20495), cut at a distance without a switch.

    .. math:: E = -s_6 \sum_{i<j} \frac{\sqrt{C_i C_j}}{r^6}
              \left[1 + e^{-20 (r / (R_i + R_j) - 1)}\right]^{-1}

    Parameters
    ----------
    cutoff
        Angstrom; the energy jumps there.
    s6
        Factor of the functional: 0.75 for PBE, 1.05 for B3LYP; torchmd-net has 1.
    """

    def __init__(self, cutoff: float, s6: float) -> None:
        super().__init__()
        self.cutoff, self.s6 = float(cutoff), float(s6)
        self._check(cutoff=self.cutoff, s6=self.s6)
        self.elements = frozenset(range(1, len(D2_RADII) + 1))

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) and ``energies`` (N,), eV; a pair is shared by its atoms."""
        neighbor, center = graph.edge_index
        r = graph.edge_vectors().norm(dim=1)
        # No buffers: those made in float32 would cost digits in float64.
        unit = units.J / units.mol * units.nm**6
        roots = (torch.as_tensor(D2_COEFFICIENTS, dtype=r.dtype, device=r.device) * unit).sqrt()
        radii = torch.as_tensor(D2_RADII, dtype=r.dtype, device=r.device)
        row = graph.atomic_numbers - 1
        one, two = row[center], row[neighbor]

        damping = torch.sigmoid(20.0 * (r / (radii[one] + radii[two]) - 1.0))
        pair = -self.s6 * roots[one] * roots[two] / r**6 * damping
        return add_up(graph, center, 0.5 * pair)


class Coulomb(_Term):
    r"""Given charges, without what a short distance would add.

    .. math:: E = \sum_{i<j} k \frac{q_i q_j}{r}\, \frac{1 - \cos \pi x}{2}, \quad
              x = \min(\max(\tfrac{r - r_1}{r_2 - r_1}, 0), 1)

    Parameters
    ----------
    charges
        Elementary charges by chemical symbol; None takes those of ``atoms.get_initial_charges()``.
    lower, upper
        :math:`r_1` and :math:`r_2`, Angstrom.
    strength
        :math:`k`, eV Angstrom.
    cutoff
        Angstrom, with the force of every pair shifted to zero there; None counts every pair, as
        torchmd-net does, and takes molecules alone.
    """

    def __init__(
        self,
        charges: Mapping[str, float] | None,
        lower: float,
        upper: float,
        strength: float,
        cutoff: float | None,
    ) -> None:
        super().__init__()
        unknown = [s for s in charges or {} if s not in atomic_numbers]
        if unknown:
            raise ConfigError(f"charges: {', '.join(map(str, unknown))} are no elements.")
        self.charges: dict[int, float] | None = None
        if charges is not None:
            self.charges = {atomic_numbers[s]: float(q) for s, q in charges.items()}
        # A calculator looks at what is read, and computes anew where it has changed.
        self.required_inputs = ("initial_charges",) if charges is None else ()
        self.lower, self.upper, self.strength = float(lower), float(upper), float(strength)
        self.limit = None if cutoff is None else float(cutoff)
        # Where all pairs count, edges are not looked at.
        self.cutoff = 1.0 if self.limit is None else self.limit
        self._check(upper=self.upper, strength=self.strength, cutoff=self.cutoff)
        if not 0 <= self.lower < self.upper <= (self.limit or math.inf):
            raise ConfigError("0 <= lower < upper <= cutoff is wanted.")

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """As :meth:`Potential.make_graph`, with the charges of the atoms in ``extra``."""
        structures: list[Any] = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
        graph = super().make_graph(structures, device)
        graph.extra["charges"] = torch.as_tensor(
            np.concatenate([self._charges_of(a) for a in structures])
        ).to(graph.positions)
        return graph

    def _charges_of(self, atoms: Atoms) -> np.ndarray:
        if self.charges is None and not atoms.has("initial_charges"):
            raise StructureError(
                "The atoms have no charges: set_initial_charges, or name charges by element in "
                "the parameters of 'torchmdnet_coulomb'."
            )
        if self.charges is None:
            return np.asarray(atoms.get_initial_charges(), dtype=float)
        without = sorted({s for s in atoms.symbols if atomic_numbers[s] not in self.charges})
        if without:
            raise StructureError(f"There is no charge for {', '.join(without)}.")
        return np.array([self.charges[int(z)] for z in atoms.numbers])

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) and ``energies`` (N,), eV; a pair is shared by its atoms."""
        if "charges" not in graph.extra:
            raise StructureError("This graph was made without the charges of its atoms.")
        q = graph.extra["charges"].to(graph.positions)
        if self.limit is None:
            neighbor, center = all_pairs(graph)
            r = (graph.positions[neighbor] - graph.positions[center]).norm(dim=1)
            inverse = 1 / r
        else:
            neighbor, center = graph.edge_index
            r = graph.edge_vectors().norm(dim=1)
            inverse = 1 / r + r / self.limit**2 - 2 / self.limit

        x = ((r - self.lower) / (self.upper - self.lower)).clamp(0.0, 1.0)
        pair = self.strength * q[center] * q[neighbor] * inverse
        return add_up(graph, center, 0.25 * pair * (1 - torch.cos(math.pi * x)))
