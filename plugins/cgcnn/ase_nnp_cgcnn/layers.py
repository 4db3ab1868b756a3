"""What both CGCNN models share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from ase_nnp.errors import ConfigError
from ase_nnp.models.graph import AtomGraph

__all__ = ["GatedEdges", "check_sizes", "head", "mean_over_atoms", "with_batch_counters"]


class GatedEdges(nn.Linear):
    """A linear layer over (center, neighbor, edge), twice as wide as an atom.

    The weight is that of one layer over the concatenation; it is applied part by part, so that
    the products with atoms are made once per atom instead of once per edge.
    """

    def __init__(self, atom_size: int, edge_size: int) -> None:
        super().__init__(2 * atom_size + edge_size, 2 * atom_size)
        self.sizes = (atom_size, atom_size, edge_size)

    def forward(  # type: ignore[override]
        self, atoms: Tensor, edges: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        """Return (E, 2 A) for atoms (N, A) and edges (E, F) from source to target."""
        # Atoms first, edges later: each atom is multiplied once and not once for each of its edges.
        of_center, of_neighbor, of_edge = self.weight.split(self.sizes, dim=1)
        center = torch.addmm(self.bias, atoms, of_center.T)
        neighbor = atoms @ of_neighbor.T
        return torch.addmm(center[target] + neighbor[source], edges, of_edge.T)


def gated_sum(edges: Tensor, atoms: Tensor, target: Tensor) -> Tensor:
    """Return the sum of gated messages at each atom, like ``atoms`` (N, A).

    One half of the ``edges`` (E, 2 A) is the gate, the other the core (Eq. 5 of arXiv:1710.10324).
    """
    gate, core = edges.chunk(2, dim=1)
    message = torch.sigmoid(gate) * softplus(core)
    return torch.zeros_like(atoms).index_add(0, target, message)


def check_sizes(**sizes: Any) -> None:
    """Raise ConfigError for a size that is no positive number."""
    for name, size in sizes.items():
        whole = isinstance(size, int) or name in ("radius", "step", "cutoff")
        if isinstance(size, bool) or not isinstance(size, (int, float)) or not whole or size <= 0:
            raise ConfigError(f"{name} must be a positive number, whole for a count; not {size!r}.")


def mean_over_atoms(atoms: Tensor, graph: AtomGraph) -> Tensor:
    """Return the mean of atoms (N, A) over each structure, (B, A) in float64."""
    atoms = atoms.double()
    total = atoms.new_zeros((graph.num_structures, atoms.shape[1])).index_add(0, graph.batch, atoms)
    return total / graph.atoms_per_structure()[:, None]


def head(layers: Iterable[nn.Linear], pooled: Tensor) -> Tensor:
    """Apply linear layers with softplus between them, in float64 whatever their precision.

    The sums after pooling cancel strongly: in float32 their round-off alone is most of the error of
    the whole network, and here are only B rows.
    """
    for number, layer in enumerate(layers):
        if number:
            pooled = softplus(pooled)

        # A structure's row is small, and rounding here is rounding of the property.
        pooled = linear(pooled.double(), layer.weight.double(), layer.bias.double())
    return pooled


def with_batch_counters(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` with the batch counters that old files do not have, at zero."""
    own = model.state_dict()
    counters = {k: torch.zeros_like(own[k]) for k in own if k.endswith("num_batches_tracked")}
    return {**counters, **tensors}
