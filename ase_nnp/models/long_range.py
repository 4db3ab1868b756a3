"""Long-range blocks for message passing: Ewald messages, neural atoms, latent charges.

A family switches one on by configuration, ``long_range: {"kind": "ewald"}``, and calls it between
its own layers; see ``docs/add-a-term.md``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from ase import units
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.lattice_sums import gaussian_messages, smeared_coulomb

__all__ = [
    "LONG_RANGE",
    "MESSAGES",
    "EwaldMessages",
    "LatentCharges",
    "NeuralAtoms",
    "long_range_block",
]

#: Blocks that change features, between the layers of a network.
MESSAGES = ("ewald", "neural_atoms")
#: Kinds with their parameters and defaults.
LONG_RANGE: dict[str, dict[str, Any]] = {
    "ewald": {"channels": 16, "widths": [2.0, 4.0]},
    "neural_atoms": {"count": 8, "heads": 4},
    "charges": {"width": 1.0},
}


def long_range_block(
    config: Mapping[str, Any] | None, features: int, kinds: Collection[str]
) -> nn.Module | None:
    """Return the block of a configuration, or None where it asks for none of these kinds.

    Parameters
    ----------
    config
        ``{"kind": ..., further parameters}``, or None.
    features
        Invariant features of an atom.
    kinds
        Those that the caller can use here; see :data:`LONG_RANGE`.

    Raises
    ------
    ConfigError
        No such kind or parameter.
    """
    given = dict(config or {})
    name = given.pop("kind", None)
    if name is None and not given:
        return None
    if name not in LONG_RANGE:
        raise ConfigError(f"long_range.kind is {name!r}; there are {', '.join(LONG_RANGE)}.")
    strange = sorted(set(given) - set(LONG_RANGE[name]))
    if strange:
        raise ConfigError(
            f"long_range of kind '{name}' has no {', '.join(strange)}. It has "
            f"{', '.join(LONG_RANGE[name])}."
        )

    if name not in kinds:
        return None
    made: dict[str, Any] = {
        "ewald": EwaldMessages,
        "neural_atoms": NeuralAtoms,
        "charges": LatentCharges,
    }
    block: nn.Module = made[name](features, **{**LONG_RANGE[name], **given})
    return block


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class EwaldMessages(nn.Module):
    r"""Messages among all atoms and images through Gaussians much wider than a bond.

    Ewald message passing (Kosmala et al. 2023, arXiv:2303.04791): structure factors of features,
    a learned radial filter, and the inverse sum. The filter is a mixture of Gaussians here, so
    that the sum is one in real space too: it does not depend on the cell that describes a crystal,
    and open structures need no box.

    Parameters
    ----------
    features
        Of an atom.
    channels
        That are sent.
    widths
        Of the Gaussians, Angstrom.
    """

    widths: Tensor

    def __init__(self, features: int, channels: int, widths: list[float]) -> None:
        super().__init__()
        self.features = features
        if not widths or min(widths) < 0.5:
            raise ConfigError(f"long_range.widths are {widths}; Gaussians of 0.5 Angstrom or more.")
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float64), persistent=False)
        self.down = nn.Linear(features, channels)
        self.up = nn.Sequential(
            nn.Linear(channels, features), nn.SiLU(), nn.Linear(features, features)
        )
        self.filters = nn.Parameter(torch.randn(len(widths), channels))

    def forward(self, graph: AtomGraph, features: Tensor) -> Tensor:
        """Return the features (N, F) with the messages added."""
        widths = self.widths.to(features)
        # About one atom's worth each, at the density of solids: 0.05 atoms a cubic Angstrom.
        scaled = self.filters / (0.05 * (2.0 * torch.pi * widths.square()) ** 1.5)[:, None]
        messages = gaussian_messages(graph, self.down(features), widths, scaled)
        out: Tensor = features + self.up(messages)
        return out


class NeuralAtoms(nn.Module):
    """A few abstract atoms that collect from all atoms, talk among themselves, and report back.

    Li et al. 2024, arXiv:2311.01276. Attention over a whole structure: two far groups change each
    other, so the energy is not extensive.

    Parameters
    ----------
    features
        Of an atom.
    count
        Neural atoms of a structure.
    heads
        Of the attention among them; a divisor of ``features``.
    """

    def __init__(self, features: int, count: int, heads: int) -> None:
        super().__init__()
        self.features = features
        if features % heads:
            raise ConfigError(f"long_range.heads {heads} does not divide {features} features.")
        self.queries = nn.Parameter(torch.randn(count, features) * features**-0.5)
        self.key, self.value = nn.Linear(features, features), nn.Linear(features, features)
        self.exchange = nn.MultiheadAttention(features, heads, batch_first=True)
        self.up = nn.Sequential(
            nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features)
        )

    def forward(self, graph: AtomGraph, features: Tensor) -> Tensor:
        """Return the features (N, F) with what the neural atoms report added."""
        scores = self.key(features) @ self.queries.T * features.shape[1] ** -0.5
        batch, size = graph.batch, graph.num_structures

        # A softmax over the atoms of each structure, so that a doubled cell pools to the same.
        highest = scores.new_full((size, scores.shape[1]), -torch.inf)
        rows = batch[:, None].expand_as(scores)
        highest = highest.scatter_reduce(0, rows, scores.detach(), "amax")
        weights = torch.exp(scores - highest[batch])
        total = weights.new_zeros(size, scores.shape[1]).index_add(0, batch, weights)
        weights = weights / total[batch]

        sent = weights[:, :, None] * self.value(features)[:, None, :]
        pooled = sent.new_zeros(size, *sent.shape[1:]).index_add(0, batch, sent)
        # With its weights asked for, attention takes no fused kernel: those have no second
        # derivative, which a loss on forces needs.
        exchanged = pooled + self.exchange(pooled, pooled, pooled, need_weights=True)[0]
        back = torch.einsum("nk,nkf->nf", torch.softmax(scores, dim=1), exchanged[batch])
        out: Tensor = features + self.up(back)
        return out


class LatentCharges(nn.Module):
    """A charge an atom, learned from the energy alone, and the Coulomb energy of them all.

    Latent Ewald summation (Cheng 2024, arXiv:2408.15165): charges are smeared, so that the short
    range stays the network's business. They need not add up to the charge of the structure.

    Parameters
    ----------
    features
        Of an atom.
    width
        Of the Gaussian that smears the potential, Angstrom.
    """

    def __init__(self, features: int, width: float) -> None:
        super().__init__()
        if not width > 0.2:
            raise ConfigError(f"long_range.width is {width}; more than 0.2 Angstrom.")
        self.width = float(width)
        self.charge = nn.Sequential(
            nn.Linear(features, features), nn.SiLU(), nn.Linear(features, 1)
        )

    def forward(self, graph: AtomGraph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (N,) in eV and charges (N,) in e."""
        charges = self.charge(features)[:, 0]
        energies = smeared_coulomb(graph, charges, self.width)
        return units.Hartree * units.Bohr * energies, charges
