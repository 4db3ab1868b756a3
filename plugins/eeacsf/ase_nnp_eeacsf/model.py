"""One network for all elements on element-embracing symmetry functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.atomic_energies import AtomicEnergies
from ase_nnp.models.graph import AtomGraph

from .elements import element_factors
from .functions import SymmetryFunctions

__all__ = ["SymmetryFunctionNetwork"]

#: Keeps the variance of the hidden numbers about 1 (Eckhoff and Reiher).
STRETCH = 1.59223


class SymmetryFunctionNetwork(AtomicEnergies):
    """Energies of atoms from their descriptors and the factors of their own element.

    Parameters
    ----------
    hidden
        Widths of the hidden layers.
    cutoff, factors, num_radial, num_angular, zetas, lambdas
        As in :class:`~ase_nnp_eeacsf.functions.SymmetryFunctions`.
    """

    mean: Tensor
    spread: Tensor
    scaled: Tensor
    own: Tensor

    def __init__(
        self,
        cutoff: float,
        factors: Sequence[str],
        num_radial: int,
        num_angular: int,
        zetas: Sequence[int],
        lambdas: Sequence[int],
        hidden: Sequence[int],
    ) -> None:
        super().__init__(range(1, 119))
        if not hidden or min(hidden) < 1:
            raise ConfigError(f"hidden must be widths of layers, not {list(hidden)}.")
        self.cutoff = float(cutoff)
        self.functions = SymmetryFunctions(cutoff, factors, num_radial, num_angular, zetas, lambdas)
        own = torch.as_tensor(element_factors())
        self.register_buffer("own", own, persistent=False)
        self.register_buffer("mean", torch.zeros(self.functions.count))
        # Until data scale them, functions are about 1 in a dense crystal: unscaled ones of many
        # neighbors would drive the hidden layers to their ends.
        self.register_buffer("spread", self.functions.typical().clamp(min=1e-3))
        self.register_buffer("scaled", torch.zeros(()))

        widths = [self.functions.count + own.shape[1], *hidden, 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def atom_energies(self, graph: AtomGraph) -> Tensor:
        """Return what each atom adds (N,)."""
        descriptor = self.functions(graph)
        if self.training and not self.scaled:
            self._scale_by(descriptor.detach())

        x = (descriptor - self.mean) / self.spread
        x = torch.cat([x, self.own[graph.atomic_numbers]], dim=1)
        *inner, last = self.layers
        for layer in inner:
            x = STRETCH * torch.tanh(layer(x))
        result: Tensor = last(x)[:, 0]
        return result

    def _scale_by(self, descriptor: Tensor) -> None:
        """Take means and spreads of the first batch; they stay, and are saved with the weights."""
        # Gaussians at distances that no neighbor has are nearly constant: dividing by their spread
        # would make the noise of later batches large.
        spread = descriptor.std(dim=0, correction=0)
        floor = 0.05 * spread.max().clamp(min=1e-12)
        self.mean.copy_(descriptor.mean(dim=0))
        self.spread.copy_(spread.clamp(min=floor))
        self.scaled.fill_(1.0)
