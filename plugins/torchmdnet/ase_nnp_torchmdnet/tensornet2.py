"""TensorNet2: TensorNet whose messages know charges that the network predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.graph import AtomGraph

from .charges import ChargePredict, Repulsion, reaction_field, short_range_factor
from .layers import Interaction
from .model import ACTIVATIONS, TensorNet, readout
from .pairs import LONGEST, all_pairs

__all__ = ["TensorNet2"]

#: Hartree Bohr in eV Angstrom, with the digits of AIMNet2 and torchmd-net.
COULOMB = 27.211386024367243 * 0.5291772105638411


class TensorNet2(TensorNet):
    r"""TensorNet with charges in channels, shifted after each layer to the molecule's total.

    Parameters
    ----------
    q_dim
        Channels of charges.
    output_model
        ``"Scalar"``, or ``"ScalarPlusWeightedCoulomb"`` that adds Coulomb energies of the charges
        after each layer.
    q_weights
        Weight of the charges of the embedding and of each layer in a mean of Coulomb energies: a
        number, or one a channel.
    coulomb_cutoff
        Angstrom, with a reaction field beyond; None counts every pair and takes molecules alone.
    output_mlp_num_layers
        Hidden layers of the last network where charges are read.
    repulsion
        Whether nuclei repel beneath the sum of their covalent radii.
    options
        As those of :class:`TensorNet`.
    """

    def __init__(
        self,
        *,
        q_dim: int,
        output_model: str,
        q_weights: Sequence[float | Sequence[float]],
        coulomb_cutoff: float | None,
        output_mlp_num_layers: int,
        repulsion: bool,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if output_model not in ("Scalar", "ScalarPlusWeightedCoulomb"):
            raise ConfigError(
                f"output_model must be Scalar or ScalarPlusWeightedCoulomb, not {output_model!r}."
            )
        if q_dim < 1:
            raise ConfigError(f"q_dim must be positive, not {q_dim}.")

        width, act = int(options["embedding_dimension"]), ACTIVATIONS[options["activation"]]()
        net: Any = self.representation_model
        net.layers = nn.ModuleList(
            Interaction(
                width,
                options["num_rbf"] + 2 * q_dim,
                act,
                options["equivariance_invariance_group"],
            )
            for _ in net.layers
        )
        net.charge_predict_0 = ChargePredict(width, q_dim, act)
        net.charge_predicts = nn.ModuleList(ChargePredict(width, q_dim, act) for _ in net.layers)
        if repulsion:
            net.repulsion = Repulsion(int(options["max_z"]))

        self.coulomb = output_model == "ScalarPlusWeightedCoulomb"
        self.limit: float | None = None
        if self.coulomb:
            out: Any = self.output_model
            out.output_network = readout(width, act, int(output_mlp_num_layers))
            out.register_buffer("qweights", _weights(q_weights, len(net.layers) + 1, q_dim))
            self.limit = None if coulomb_cutoff is None else float(coulomb_cutoff)
            self.cutoff = max(self.upper, self.limit or 0.0)
            if self.limit is not None and not 0 < self.limit <= LONGEST:
                raise ConfigError(f"coulomb_cutoff must be within {LONGEST:g} Angstrom.")

    def atom_energies(self, graph: AtomGraph) -> Tensor:
        """Return what each atom adds (N,)."""
        net: Any = self.representation_model
        vectors = graph.edge_vectors()
        r = vectors.norm(dim=1)
        near = (r < self.upper).nonzero()[:, 0] if self.cutoff > self.upper else slice(None)
        pairs = graph.edge_index[:, near]
        edges = self.edges(graph, pairs, vectors[near])

        x = net.tensor_embedding(graph.atomic_numbers, edges)
        total = x.new_zeros(graph.num_structures) if graph.charge is None else graph.charge.to(x)
        # Charges enter as functions of an edge: the tensors themselves are not scaled by them.
        neutral = x.new_zeros(graph.num_atoms)
        charges = [net.charge_predict_0(x, graph, total)]
        for layer, predict in zip(net.layers, net.charge_predicts, strict=True):
            ends = (charges[-1][edges.center], charges[-1][edges.neighbor])
            x = layer(x, replace(edges, functions=torch.cat([edges.functions, *ends], 1)), neutral)
            charges.append(predict(x, graph, total))

        energies = self.read_out(x)
        if self.coulomb:
            energies = energies + self._electrostatics(graph, r, torch.cat(charges, dim=1))
        if hasattr(net, "repulsion"):
            energies = energies + self._repulsion(graph, pairs, r[near])
        return energies

    def _electrostatics(self, graph: AtomGraph, r: Tensor, charges: Tensor) -> Tensor:
        if self.limit is None:
            neighbor, center = all_pairs(graph)
            r = (graph.positions[neighbor] - graph.positions[center]).norm(dim=1)
            inverse = 1 / r
        else:
            near = (r < self.limit).nonzero()[:, 0]
            (neighbor, center), r = graph.edge_index[:, near], r[near]
            inverse = reaction_field(r, self.limit)

        # Each ordered pair gives its center half of the pair's energy.
        weights: Any = self.output_model.qweights
        mean = (charges * (weights / weights.sum()))[center] * charges[neighbor]
        halves: Tensor = 0.5 * COULOMB * short_range_factor(r) * inverse * mean.sum(1)
        return halves.new_zeros(graph.num_atoms).index_add(0, center, halves)

    def _repulsion(self, graph: AtomGraph, pairs: Tensor, r: Tensor) -> Tensor:
        net: Any = self.representation_model
        # Pairs closer than the lower cutoff are none for the package.
        known = (r >= self.lower).nonzero()[:, 0]
        (neighbor, center), r = pairs[:, known], r[known]
        z = graph.atomic_numbers
        halves: Tensor = 0.5 * net.repulsion(z[center], z[neighbor], r)
        return halves.new_zeros(graph.num_atoms).index_add(0, center, halves)


def _weights(given: Sequence[float | Sequence[float]], rows: int, channels: int) -> Tensor:
    """Return one weight a row and channel, flat."""
    try:
        values = [torch.as_tensor(row, dtype=torch.float64).expand(channels) for row in given]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"q_weights are no numbers for {channels} channels: {error}.") from error
    if len(values) != rows or float(torch.stack(values).sum()) == 0:
        raise ConfigError(
            f"q_weights wants {rows} entries, of the embedding and each layer, and a sum that is "
            f"not 0; found {list(given)}."
        )
    return torch.stack(values).flatten()
