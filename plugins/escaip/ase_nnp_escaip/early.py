"""The potential of generation 1: a radius graph with a cap on the neighbors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.models.graph import AtomGraph
from ase_nnp_escaip.attention import Geometry, kernel
from ase_nnp_escaip.edges import Features
from ase_nnp_escaip.first import Exportable
from ase_nnp_escaip.harmonics import Harmonics, safe_sqrt
from ase_nnp_escaip.layers import Constants, DistanceBasis
from ase_nnp_escaip.model import EScAIP
from ase_nnp_escaip.slots import Slots, blocks, reduce_rows

__all__ = ["FirstGeneration"]


class FirstGeneration(EScAIP):
    """Generation 1, with the names of its published weights."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        settings = self.settings
        self.max_neighbors = settings.max_neighbors
        self.edge_distance_expansion_func = DistanceBasis(settings, published=True)
        self.harmonics = Harmonics(settings.node_direction_expansion_size - 1)
        degrees = torch.from_numpy(np.arange(settings.node_direction_expansion_size, dtype=float))
        self._sizes = Constants(2 * degrees + 1)
        self.exportable_model = Exportable(settings)
        if settings.compile:
            self.exportable_model.compile(dynamic=True)

    def raw(self, graph: AtomGraph, *, forces: bool, twice: bool) -> dict[str, Tensor]:
        """Return ``energy`` and, with ``forces``, the direct ``forces``, in model units."""
        features, at = self.features(graph, twice)
        energy, numbers, magnitude = self.exportable_model(features, edge_outputs=forces)
        if not forces:
            return {"energy": energy}
        return {"energy": energy, "forces": self.direct(numbers, at) * magnitude}

    def features(
        self, graph: AtomGraph, twice: bool = False
    ) -> tuple[Features, list[tuple[Slots, Tensor]]]:
        """Return the input of the network and the directions by block.

        An atom that sees no other has one row that stands for nothing: no distance, no direction.
        """
        settings, n = self.settings, graph.num_atoms
        device = graph.positions.device

        # An atom without neighbors gets an edge to itself of no length, because the network knows
        # edges only.
        lone = torch.nonzero(torch.bincount(graph.edge_index[1], minlength=n) == 0).flatten()
        receiver, order = torch.sort(torch.cat([graph.edge_index[1], lone]), stable=True)
        sender = torch.cat([graph.edge_index[0], lone])[order]
        # In double: where symmetry makes an order vanish, its derivative amplifies every rounding.
        exact = graph.replace(positions=graph.positions.double(), cell=graph.cell.double())
        vector = exact.edge_vectors()
        vector = torch.cat([vector, vector.new_zeros(len(lone), 3)])[order]
        real = (order < graph.num_edges)[:, None]
        length = torch.where(real, vector, torch.ones_like(vector)).norm(dim=-1, keepdim=True)
        # From the neighbor to the center, against the way of the edge vector.
        direction = torch.where(real, -vector / length, torch.zeros_like(vector))

        harmonics = self.harmonics(direction) * real
        counts = torch.bincount(receiver, minlength=n)[:, None].to(vector.dtype)
        power = self.harmonics.power(reduce_rows(harmonics, receiver, n) / counts)
        orders = safe_sqrt(power * self._sizes.like(power)[0])
        dtype = graph.positions.dtype
        orders, direction, length = orders.to(dtype), direction.to(dtype), length.to(dtype)

        # The published generation 1 has no angular attention, hence no table of pairs.
        chosen = kernel(settings.attention, device=device, twice=twice, pairwise=False)
        angles = settings.use_angle_embedding != "none"
        cut = blocks(sender, receiver, n, self.rows(graph))
        geometry, basis = [], []
        for slots in cut:
            padded = length.new_zeros(slots.mask.shape).masked_fill(~slots.mask, -torch.inf)
            here = Geometry(
                slots=slots,
                bias=padded[:, None, None],
                direction=slots.rows(direction),
                kernel=chosen,
                dropout=settings.atten_dropout if self.training else 0.0,
            )
            geometry.append(here.prepare(angles))
            values = self.edge_distance_expansion_func(slots.rows(length)[:, 0])
            basis.append(values * slots.rows(real))
        features = Features(
            graph.atomic_numbers, orders, graph.batch, graph.num_structures, basis, geometry
        )
        return features, [(slots, slots.rows(direction)) for slots in cut]
