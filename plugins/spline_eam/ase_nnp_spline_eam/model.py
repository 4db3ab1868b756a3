"""The embedded-atom method with spline tables (Daw and Baskes 1984; Finnis and Sinclair 1984)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.atomic_energies import AtomicEnergies, element_numbers
from ase_nnp.models.graph import AtomGraph

from .splines import coefficients, evaluate

__all__ = ["KINDS", "SplineEAM"]

KINDS = ("alloy", "fs")


class SplineEAM(AtomicEnergies):
    r"""Pair energies, and for each atom the energy of lying in its neighbors' density.

    .. math:: E = \sum_i \Big[ F_{z_i}(\rho_i) + \tfrac12 \sum_j \phi_{z_i z_j}(r_{ij}) \Big],
              \quad \rho_i = \sum_j f_{z_j (z_i)}(r_{ij})

    Parameters
    ----------
    elements
        Symbols; their order is that of the rows of the tables.
    kind
        ``"alloy"``: the density depends on the neighbor alone; ``"fs"``: on both atoms.
    cutoff
        Angstrom.
    num_r, num_rho
        Points of the radial functions, from 0 to ``r_max``, and of the embedding functions.
    r_max
        Angstrom; None for the cutoff.
    rho_max
        Largest density in the table; beyond it the embedding goes on as a straight line.
    smooth
        Whether the radial functions vanish at ``r_max`` with two continuous derivatives.
    """

    def __init__(
        self,
        elements: Sequence[str],
        kind: str,
        cutoff: float,
        num_r: int,
        num_rho: int,
        r_max: float | None,
        rho_max: float,
        smooth: bool,
    ) -> None:
        numbers = element_numbers(elements)
        super().__init__(numbers)
        if kind not in KINDS:
            raise ConfigError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
        if min(num_r, num_rho) < 5 or not (cutoff > 0 and rho_max > 0):
            raise ConfigError("Tables need five points, and cutoff and rho_max must be positive.")

        self.kind, self.smooth = kind, bool(smooth)
        self.cutoff = float(cutoff)
        self.r_max = self.cutoff if r_max is None else float(r_max)
        self.rho_max = float(rho_max)
        self.num_r, self.num_rho = int(num_r), int(num_rho)

        n, rows = len(numbers), len(numbers) if kind == "alloy" else len(numbers) ** 2
        free = self.num_r - 1 if smooth else self.num_r + 2
        self.pair = nn.Parameter(torch.zeros(n * (n + 1) // 2, free))
        self.density = nn.Parameter(torch.zeros(rows, free))
        self.embedding = nn.Parameter(torch.zeros(n, self.num_rho + 2))
        self._begin()

    def _begin(self) -> None:
        """Start from a shape that metals have: a falling density and minus its square root."""
        r = np.linspace(0, self.r_max, self.num_r)
        fall = 0.3 * np.exp(-r / 1.5) * (1 - r / self.r_max) ** 3
        rho = np.linspace(0, self.rho_max, self.num_rho)
        # Rounded at zero: the slope of a square root there would be infinite.
        root = 0.2 - np.sqrt(rho + 0.04)
        with torch.no_grad():
            for parameter, values in ((self.density, fall), (self.embedding, root)):
                parameter.add_(torch.as_tensor(coefficients(values))[: parameter.shape[1]])
                # Elements must not begin alike, or they would stay alike where data are few.
                parameter.mul_(1 + 0.05 * torch.randn(len(parameter), 1))
            self.pair.add_(0.2 * self.density.mean(0) * torch.rand(len(self.pair), 1))

    def set_tables(self, pair: np.ndarray, density: np.ndarray, embedding: np.ndarray) -> None:
        """Take tabulated functions instead of trained ones.

        Parameters
        ----------
        pair
            (n (n + 1) / 2, num_r) eV, in the order 00, 10, 11, 20, ...; values at r = 0 are not
            used.
        density
            (n, num_r), or for ``"fs"`` (n * n, num_r): neighbor times n plus center.
        embedding
            (n, num_rho) eV.
        """
        tables = (
            (self.pair, coefficients(pair, skip_first=True)),
            (self.density, coefficients(density)),
            (self.embedding, coefficients(embedding)),
        )
        with torch.no_grad():
            for parameter, table in tables:
                parameter.copy_(torch.as_tensor(table[:, : parameter.shape[1]]))

    def atom_energies(self, graph: AtomGraph) -> Tensor:
        """Return the energies of the atoms (N,)."""
        source, target = graph.edge_index
        species = self.species[graph.atomic_numbers]
        neighbor, center = species[source], species[target]
        x = graph.edge_vectors().norm(dim=1) * ((self.num_r - 1) / self.r_max)

        row = neighbor if self.kind == "alloy" else neighbor * len(self.numbers) + center
        density = evaluate(self._radial(self.density), row, x)
        rho = density.new_zeros(graph.num_atoms).index_add(0, target, density)
        high, low = torch.maximum(neighbor, center), torch.minimum(neighbor, center)
        pair = evaluate(self._radial(self.pair), high * (high + 1) // 2 + low, x)

        # Sums over neighbors in float64: a crystal's energy is large beside its differences.
        return self.embed(rho, species).double().index_add(0, target, 0.5 * pair.double())

    def embed(self, rho: Tensor, species: Tensor) -> Tensor:
        """Return the embedding energies (N,), eV, without scale and references."""
        unit = (self.num_rho - 1) / self.rho_max
        inside = rho.clamp(0, self.rho_max)
        value = evaluate(self.embedding, species, inside * unit)

        # A cubic that goes on turns down without end somewhere; the straight line is LAMMPS's.
        ends = (self.num_rho - 1) * (rho > self.rho_max)
        slope = self._slope_at_end(species, ends > 0) * unit
        return value + slope * (rho - inside)

    def _slope_at_end(self, species: Tensor, last: Tensor) -> Tensor:
        first = torch.where(last, self.num_rho - 1, 0)
        table = self.embedding
        return (table[species, first + 2] - table[species, first]) / 2

    def _radial(self, table: Tensor) -> Tensor:
        # Three last coefficients of zero are a function that vanishes with two derivatives.
        return nn.functional.pad(table, (0, 3)) if self.smooth else table
