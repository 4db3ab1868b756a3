"""Neural message passing (Gilmer et al. 2017, arXiv:1704.01212), with the paper's letters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.atomic_energies import AtomicEnergies, element_numbers
from ase_nnp.models.graph import AtomGraph

__all__ = ["GatedUnit", "MPNN", "smooth_step_down"]

#: The paper has 3 to 8.
MOST_STEPS = 100


class MPNN(AtomicEnergies):
    r"""States of atoms that are changed by messages from their neighbors, ``steps`` times.

    .. math::
        m_v &= \sum_w A(e_{vw}) \, h_w \\
        h_v &\leftarrow \mathrm{GRU}(h_v, m_v) \\
        E   &= \sum_v \sigma(i(h_v, h_v^0)) \, j(h_v)

    ``A`` is the edge network, from functions of the distance to a matrix. The weights are the same
    in every round.

    Parameters
    ----------
    elements
        Symbols; each has a row in the table of first states.
    cutoff
        Angstrom; messages fade to nothing there.
    hidden
        Length of a state.
    steps
        Rounds of messages.
    num_basis, edge_hidden
        Gaussians of the distance, and hidden numbers of the edge network.
    """

    centers: Tensor

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float,
        hidden: int,
        steps: int,
        num_basis: int,
        edge_hidden: int,
    ) -> None:
        super().__init__(element_numbers(elements))
        if min(hidden, steps, num_basis - 1, edge_hidden) < 1 or not cutoff > 0:
            raise ConfigError("hidden, steps, edge_hidden and cutoff must be positive, num_basis 2")
        # No more weights, but each takes time: a file must not make a model that never answers.
        if steps > MOST_STEPS:
            raise ConfigError(f"steps is {steps}; at most {MOST_STEPS}.")
        self.cutoff, self.steps = float(cutoff), int(steps)
        self.first = nn.Embedding(len(self.numbers), hidden)
        # Constants are float64, so that the model in float64 is truly double.
        centers = torch.linspace(0, self.cutoff, num_basis, dtype=torch.float64)
        self.register_buffer("centers", centers, persistent=False)

        self.edge_network = nn.Sequential(
            nn.Linear(num_basis, 2 * edge_hidden),
            nn.SiLU(),
            nn.Linear(2 * edge_hidden, edge_hidden),
        )
        self.matrices = nn.Linear(edge_hidden * hidden, hidden)
        self.update = GatedUnit(hidden)
        self.gate = nn.Linear(2 * hidden, 1)
        self.value = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def atom_energies(self, graph: AtomGraph) -> Tensor:
        """Return what each atom adds (N,)."""
        source, target = graph.edge_index
        r = graph.edge_vectors().norm(dim=1, keepdim=True)
        width = self.cutoff / (len(self.centers) - 1)
        basis = torch.exp(-0.5 * ((r - self.centers) / width).square())
        edge = self.edge_network(basis) * smooth_step_down(r / self.cutoff)

        first = state = self.first(self.species[graph.atomic_numbers])
        for _ in range(self.steps):
            # A(e) h is linear in the edge network's last hidden numbers g and in h, so g h^T is
            # summed over neighbors first: one matrix product an atom instead of one an edge.
            outer = (edge[:, :, None] * state[source, None, :]).flatten(1)
            summed = outer.new_zeros(graph.num_atoms, outer.shape[1]).index_add(0, target, outer)
            state = self.update(state, self.matrices(summed))

        gate = torch.sigmoid(self.gate(torch.cat([state, first], dim=1)))
        result: Tensor = (gate * self.value(state))[:, 0]
        return result


class GatedUnit(nn.Module):
    r"""The gated recurrent unit of Cho et al. (2014), from a state and a message to a new state.

    Written out, because torch's own cannot be differentiated twice on a GPU, and a loss on forces
    asks for that.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_message = nn.Linear(width, 3 * width)
        self.of_state = nn.Linear(width, 3 * width)

    def forward(self, state: Tensor, message: Tensor) -> Tensor:
        """Return the new states (N, width)."""
        reset, keep, new = self.of_message(message).chunk(3, dim=1)
        reset_state, keep_state, new_state = self.of_state(state).chunk(3, dim=1)
        reset = torch.sigmoid(reset + reset_state)
        keep = torch.sigmoid(keep + keep_state)
        return (1 - keep) * torch.tanh(new + reset * new_state) + keep * state


def smooth_step_down(x: Tensor) -> Tensor:
    """Half a cosine, squared: from 1 at x = 0 to 0 at 1, with three continuous derivatives."""
    return torch.where(x < 1, 0.5 * (1 + torch.cos(math.pi * x.clamp(max=1))), 0).square()
