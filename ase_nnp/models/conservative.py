"""A potential that writes an energy; its forces and stress are made here, as gradients."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ase_nnp.models.energy_gradients import gradients
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential

__all__ = ["Conservative"]


class Conservative(Potential):
    r"""A potential whose forces and stress are the gradient of its energy, from one backward.

    .. math:: F_n = -\partial E / \partial r_n, \quad
              \sigma = V^{-1} \partial E / \partial \varepsilon

    with the symmetric strain of Knuth et al. (2015), doi:10.1016/j.cpc.2015.01.003, Eq. 3:
    ``r -> r + r eps``, ``cell -> cell + cell eps``. ``stress`` is positive under tension and zero
    for a cell without volume.

    In training mode the results keep their graph, so that a loss on forces can be differentiated
    again; in evaluation mode they are detached unless ``differentiable`` is set.

    Attributes
    ----------
    outputs
        ``energy`` (B,) eV, ``forces`` (N, 3) eV/Angstrom and ``stress`` (B, 3, 3) eV/Angstrom^3.
    conservative
        True.
    differentiable
        Keep the graph of the results in evaluation mode too.

    Examples
    --------
    A pair potential is an energy; the rest follows:

    >>> from ase import Atoms
    >>> from ase_nnp import Conservative, NNPCalculator
    >>> class Pairs(Conservative):
    ...     cutoff = 3.0
    ...
    ...     def energies(self, graph):
    ...         pair = (1 - graph.edge_vectors().norm(dim=1) / self.cutoff) ** 2  # (E,) eV
    ...         energy = pair.new_zeros(graph.num_structures)
    ...         return energy.index_add(0, graph.batch[graph.edge_index[1]], pair)
    >>> dimer = Atoms("H2", [(0, 0, 0), (0, 0, 1.5)], calculator=NNPCalculator(Pairs()))
    >>> dimer.get_potential_energy()  # two edges of a quarter each
    0.5
    >>> round(float(dimer.get_forces()[1, 2]), 4)  # they repel
    0.6667
    """

    outputs: tuple[str, ...] = ("energy", "forces", "stress")
    conservative = True
    differentiable: bool = False

    def energies(self, graph: AtomGraph) -> Tensor | dict[str, Tensor]:
        """Return energies (B,) in eV, or a dictionary with ``energy`` and further properties."""
        raise NotImplementedError(f"{type(self).__name__} must write energies(graph)")

    def energies_once(self, graph: AtomGraph) -> Tensor | dict[str, Tensor]:
        """As :meth:`energies`, for an evaluation: one derivative, in positions and cell, no more.

        A family that has a faster way without an autograd graph of its parts overrides this.
        """
        return self.energies(graph)

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return everything in :attr:`outputs`."""
        return self.compute(graph, self.outputs)

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Return at least ``properties``; gradients are taken only when asked for."""
        # A loss on forces differentiates once more, so the graph of the backward pass has to stay.
        keep = self.training or self.differentiable
        forces, stress = "forces" in properties, "stress" in properties
        if torch.is_inference_mode_enabled():  # where nothing can be differentiated
            with torch.inference_mode(False):
                return self.compute(graph.clone(), properties)
        with torch.set_grad_enabled(keep or forces or stress):
            energies = self.energies if keep else self.energies_once
            result = gradients(energies, graph, forces=forces, stress=stress, keep=keep)
        return result if keep else {k: v.detach() for k, v in result.items()}
