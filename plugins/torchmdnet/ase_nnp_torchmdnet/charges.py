"""Charges that TensorNet2 predicts, and the Coulomb energy between them."""

from __future__ import annotations

from typing import Any

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from ase_nnp.models.graph import AtomGraph

from .layers import invariants
from .pairs import universal_screening

__all__ = ["ChargePredict", "Repulsion", "reaction_field", "short_range_factor"]

#: Angstrom; AIMNet2's radius within which the network alone speaks for two charges.
DAMPED_WITHIN = 4.6
#: Permittivity of water, beyond the cutoff of the reaction field.
PERMITTIVITY = 78.3


class ChargePredict(nn.Module):
    r"""Charges of atoms, several channels of them, that add up to the charge of the molecule.

    Neutral charge equilibration as in AIMNet2 (doi:10.1039/D4SC08572H): first guesses
    :math:`\tilde q_i` are shifted by shares :math:`f_i^2` of what is missing,

    .. math:: q_i = \tilde q_i + \frac{f_i^2}{10^{-6} + \sum_j f_j^2}
              \Big(Q - \sum_j \tilde q_j\Big)
    """

    def __init__(self, width: int, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.channels = channels
        self.q_norm = nn.LayerNorm(3 * width)
        self.q_mlp: Any = nn.Module()
        self.q_mlp.layers = nn.Sequential(
            *(nn.Linear(3 * width, width), act),
            *(nn.Linear(width, width), act),
            nn.Linear(width, 2 * channels),
        )

    def forward(self, x: Tensor, graph: AtomGraph, total: Tensor) -> Tensor:
        """From tensors (N, 3, 3, F) and charges of structures (B,) to charges (N, channels)."""
        features = torch.cat(invariants(x), dim=1)
        guess, share = self.q_mlp.layers(self.q_norm(features)).split(self.channels, dim=1)
        share = share.square()

        sums = share.new_zeros(graph.num_structures, 2 * self.channels)
        sums = sums.index_add(0, graph.batch, torch.cat([guess, share], dim=1))
        guesses, shares = sums.split(self.channels, dim=1)
        missing = (total[:, None] - guesses) / (shares + 1e-6)
        result: Tensor = guess + share * missing[graph.batch]
        return result


class Repulsion(nn.Module):
    r"""Screened nuclear repulsion that ends at the sum of the covalent radii.

    As the ZBL formula, but for the screening length :math:`0.4543\, a_0 / (Z_a^{0.3} + Z_b^{0.3})`;
    the end is the polynomial of DimeNet (arXiv:2003.03123) of power 6. Its tables are kept with
    the weights, as the package does.
    """

    z_pow: Tensor
    z_outer: Tensor
    cutoff_ab: Tensor

    def __init__(self, max_z: int) -> None:
        super().__init__()
        radii = torch.as_tensor(covalent_radii[:max_z], dtype=torch.float64)
        z = torch.arange(len(radii), dtype=torch.float64)
        z[0] = 1
        self.register_buffer("z_pow", z**0.3)
        self.register_buffer("z_outer", z[:, None] * z)
        self.register_buffer("cutoff_ab", radii[:, None] + radii)

    def forward(self, one: Tensor, two: Tensor, r: Tensor) -> Tensor:
        """Return energies (P,), eV, of atomic numbers (P,) and distances (P,)."""
        length = 0.4543 / 1.8897261258369282 / (self.z_pow[one] + self.z_pow[two])
        bare = 14.399645 * self.z_outer[one, two] / r
        x = (r / self.cutoff_ab[one, two]).clamp(max=1.0)
        fade = 1 - x**6 * (28 - 48 * x + 21 * x * x)
        return bare * universal_screening(r / length) * fade


def short_range_factor(r: Tensor) -> Tensor:
    """Return the part of a pair's Coulomb energy (P,) that is added: 0 when close, 1 far away."""
    x = (r / DAMPED_WITHIN).clamp(0.0, 1.0 - 1e-6)
    return 1 - torch.exp(1 - 1 / (1 - x.square()))


def reaction_field(r: Tensor, cutoff: float) -> Tensor:
    """Return what stands for 1 / r (P,) within ``cutoff`` Angstrom, beyond which is water."""
    polar = 2 * PERMITTIVITY + 1
    rise = (PERMITTIVITY - 1) / polar / cutoff**3
    return 1 / r + rise * r.square() - 3 * PERMITTIVITY / polar / cutoff
