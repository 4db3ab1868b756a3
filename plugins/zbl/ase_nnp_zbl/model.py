"""The universal screened nuclear repulsion of Ziegler, Biersack and Littmark (1985)."""

from __future__ import annotations

import torch
from ase import units
from ase.data import covalent_radii
from torch import Tensor

from ase_nnp.errors import ConfigError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.graph import AtomGraph

__all__ = ["ZBL"]

#: e^2 / (4 pi eps0) in eV Angstrom.
COULOMB = units.Hartree * units.Bohr
#: The universal screening function: sum of c exp(-d x).
COEFFICIENTS = (0.1818, 0.5099, 0.2802, 0.02817)
EXPONENTS = (3.2, 0.9423, 0.4029, 0.2016)


class ZBL(Conservative):
    r"""Pairs of bare nuclei behind the universal screening function.

    .. math:: E = \sum_{i<j} \frac{e^2}{4\pi\epsilon_0} \frac{Z_i Z_j}{r}
              \phi(r / a_{ij}) \, s(r / R_{ij}), \quad
              a_{ij} = \frac{0.8854 \, a_0}{Z_i^{0.23} + Z_j^{0.23}}

    with :math:`\phi(x) = \sum_k c_k e^{-d_k x}` and :math:`R_{ij}` the sum of the covalent radii.

    Parameters
    ----------
    inner, outer
        Parts of the sum of covalent radii between which the switch ``s`` goes from 1 to 0 with two
        continuous derivatives.
    """

    outputs = ("energy", "energies", "forces", "stress")
    repulsive_core = True

    def __init__(self, inner: float, outer: float) -> None:
        super().__init__()
        if not 0 <= inner < outer:
            raise ConfigError(f"inner must lie between 0 and outer, not {inner} and {outer}.")
        self.inner, self.outer = float(inner), float(outer)
        self.cutoff = 2 * self.outer * float(covalent_radii.max())

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return ``energy`` (B,) and ``energies`` (N,), eV; a pair is shared by its atoms."""
        center, neighbor = graph.edge_index[1], graph.edge_index[0]
        z = graph.atomic_numbers
        r = graph.edge_vectors().norm(dim=1)
        # No buffer: one made in float32 would cost digits in float64.
        radii = torch.as_tensor(covalent_radii, dtype=r.dtype, device=r.device)
        reach = radii[z[center]] + radii[z[neighbor]]

        # Few edges are this short; exponentials of all of them would cost a base model time.
        near = (r < self.outer * reach).nonzero()[:, 0]
        r, reach, center, neighbor = r[near], reach[near], center[near], neighbor[near]

        # Each pair is counted from both ends.
        pair = 0.5 * self.pair(z[center], z[neighbor], r) * self.switch(r / reach)
        shares = r.new_zeros(graph.num_atoms, dtype=torch.float64)
        shares = shares.index_add(0, center, pair.double())
        total = shares.new_zeros(graph.num_structures)
        return {"energy": total.index_add(0, graph.batch, shares), "energies": shares}

    def pair(self, one: Tensor, two: Tensor, r: Tensor) -> Tensor:
        """Energy of a pair without the switch, eV."""
        one, two = one.to(r), two.to(r)
        length = 0.8854 * units.Bohr / (one**0.23 + two**0.23)
        x = r / length
        terms = [c * torch.exp(-d * x) for c, d in zip(COEFFICIENTS, EXPONENTS, strict=True)]
        return COULOMB * one * two / r * torch.stack(terms).sum(0)

    def switch(self, x: Tensor) -> Tensor:
        """1 below ``inner``, 0 above ``outer``; both derivatives vanish at either end."""
        t = ((x - self.inner) / (self.outer - self.inner)).clamp(0.0, 1.0)
        return 1 - t**3 * (10 - 15 * t + 6 * t * t)
