"""TensorNet (Simeon and De Fabritiis 2023, arXiv:2306.06482) with torchmd-net's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.atomic_energies import AtomicEnergies
from ase_nnp.models.graph import AtomGraph

from .layers import Edges, Interaction, TensorEmbedding, edges_with_loops, invariants
from .pairs import LONGEST
from .radial import ExpNormal, Gaussian

__all__ = ["TensorNet", "readout"]

ACTIVATIONS = {"silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "mish": nn.Mish}
RADIAL = {"expnorm": ExpNormal, "gauss": Gaussian}
GROUPS = ("O(3)", "SO(3)")
LAYOUTS = ("full", "compact")


class TensorNet(AtomicEnergies):
    """Atoms carry 3 x 3 tensors; their norms give the energies.

    Parameters
    ----------
    embedding_dimension, num_layers
        Channels, and rounds of messages.
    num_rbf, rbf_type, trainable_rbf
        Functions of the distance: ``"expnorm"`` or ``"gauss"``.
    activation
        ``"silu"``, ``"tanh"``, ``"sigmoid"`` or ``"mish"``.
    cutoff_lower, cutoff_upper
        Angstrom.
    max_z
        Rows of the table of elements: atomic numbers below it are known.
    equivariance_invariance_group
        ``"O(3)"``, or ``"SO(3)"`` for energies that may tell mirror images apart.
    tensors
        How torchmd-net held tensors when the model was trained: ``"full"``, 3 x 3 matrices, or
        ``"compact"``, its kernels of release 3. The sign of the antisymmetric part differs, so an
        SO(3) model gives a molecule in one the energy of the mirror image in the other.
    """

    required_inputs = ("charge",)
    mean: Tensor

    def __init__(
        self,
        embedding_dimension: int,
        num_layers: int,
        num_rbf: int,
        rbf_type: str,
        trainable_rbf: bool,
        activation: str,
        cutoff_lower: float,
        cutoff_upper: float,
        max_z: int,
        equivariance_invariance_group: str,
        tensors: str,
    ) -> None:
        super().__init__(range(1, min(int(max_z), 119)))
        choices: tuple[tuple[str, str, Any], ...] = (
            ("activation", activation, ACTIVATIONS),
            ("rbf_type", rbf_type, RADIAL),
            ("equivariance_invariance_group", equivariance_invariance_group, GROUPS),
            ("tensors", tensors, LAYOUTS),
        )
        for name, value, known in choices:
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
        fits = 0 <= cutoff_lower < cutoff_upper <= LONGEST
        if not fits or min(embedding_dimension, num_rbf - 1) < 1:
            raise ConfigError(
                f"cutoffs must be 0 <= lower < upper <= {LONGEST:g}, and widths positive."
            )

        width, self.cutoff = int(embedding_dimension), float(cutoff_upper)
        self.lower, self.upper = float(cutoff_lower), self.cutoff
        # The paper's vectors go from the neighbor to the center, a graph's the other way.
        self.sign = -1.0 if tensors == "full" else 1.0
        act = ACTIVATIONS[activation]()
        part = nn.Module()  # the names of the package's checkpoints
        part.distance_expansion = RADIAL[rbf_type](self.lower, self.upper, num_rbf, trainable_rbf)
        part.tensor_embedding = TensorEmbedding(width, num_rbf, act, int(max_z))
        part.layers = nn.ModuleList(
            Interaction(width, num_rbf, act, equivariance_invariance_group)
            for _ in range(num_layers)
        )
        part.linear = nn.Linear(3 * width, width)
        part.out_norm = nn.LayerNorm(3 * width)
        part.act = act
        self.representation_model = part

        self.output_model = nn.Module()
        self.output_model.output_network = readout(width, act, 0)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

    def atom_energies(self, graph: AtomGraph) -> Tensor:
        """Return what each atom adds (N,)."""
        net: Any = self.representation_model
        edges = self.edges(graph, graph.edge_index, graph.edge_vectors())
        x = net.tensor_embedding(graph.atomic_numbers, edges)
        charge = x.new_zeros(graph.num_atoms)
        if graph.charge is not None:
            charge = graph.charge.to(x)[graph.batch]
        for layer in net.layers:
            x = layer(x, edges, charge)
        return self.read_out(x)

    def edges(self, graph: AtomGraph, index: Tensor, vectors: Tensor) -> Edges:
        """Return the edges that the layers take, of pairs (2, E) and their vectors (E, 3)."""
        net: Any = self.representation_model
        return edges_with_loops(
            index,
            self.sign * vectors,
            graph.num_atoms,
            net.distance_expansion,
            self.lower,
            self.upper,
        )

    def read_out(self, x: Tensor) -> Tensor:
        """Return energies (N,) of tensors (N, 3, 3, F)."""
        net: Any = self.representation_model
        mean, antisymmetric, symmetric = invariants(x)
        norms = (3 * mean.square(), antisymmetric, symmetric)
        out = net.act(net.linear(net.out_norm(torch.cat(norms, dim=1))))
        network: Any = self.output_model.output_network
        result: Tensor = network.layers(out)[:, 0]
        return result

    def energies(self, graph: AtomGraph) -> dict[str, Tensor]:
        """As :class:`AtomicEnergies`; a checkpoint's mean, once a structure, is spread evenly."""
        results = super().energies(graph)
        share = self.mean.double() / graph.atoms_per_structure()
        return {
            "energy": results["energy"] + self.mean.double(),
            "energies": results["energies"] + share[graph.batch],
        }


def readout(width: int, act: nn.Module, hidden_layers: int) -> nn.Module:
    """Return the last network, under the package's names: one number an atom."""
    # Half the width; narrower tables exist in tests only.
    half = max(width // 2, 1)
    hidden = [m for _ in range(hidden_layers) for m in (nn.Linear(half, half), act)]
    network = nn.Module()
    network.layers = nn.Sequential(nn.Linear(width, half), act, *hidden, nn.Linear(half, 1))
    return network
