"""What a network is given of a batch, and the description of an edge made from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ase_nnp_escaip.attention import Geometry
from ase_nnp_escaip.config import Settings
from ase_nnp_escaip.layers import Activated, part

__all__ = ["EdgeAttributes", "Features"]


class Features:
    """Geometry of a batch as the network sees it.

    ``numbers`` (N,), ``orders`` (N, L) bond-order features, ``batch`` (N,), ``structures``; and per
    block ``basis`` (R, G) of the distances and :class:`Geometry`.
    """

    def __init__(
        self,
        numbers: Tensor,
        orders: Tensor,
        batch: Tensor,
        structures: int,
        basis: list[Tensor],
        geometry: list[Geometry],
    ) -> None:
        self.numbers, self.orders, self.batch = numbers, orders, batch
        self.structures, self.basis, self.geometry = structures, basis, geometry


class EdgeAttributes(nn.Module):
    """What every attention layer is told of an edge: distance, elements, bond orders."""

    #: Name of the layer that joins the parts; generation 1 calls it otherwise.
    joint = "edge_attr_linear"

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        s = settings
        elements, atom = s.max_num_elements, s.atom_embedding_size
        order, size = s.node_direction_expansion_size, s.node_direction_embedding_size
        self.source_atomic_embedding = nn.Embedding(elements, atom)
        self.target_atomic_embedding = nn.Embedding(elements, atom)
        self.source_direction_embedding = Activated(s, order, size)
        self.target_direction_embedding = Activated(s, order, size)
        distance = s.edge_distance_embedding_size
        self.edge_distance_embedding = Activated(s, s.edge_distance_expansion_size, distance)
        setattr(self, self.joint, Activated(s, distance + 2 * (size + atom), s.hidden_size))
        self.cut = (distance, distance + size + atom, distance + 2 * (size + atom))

    @property
    def _joint(self) -> Activated:
        layer = getattr(self, self.joint)
        assert isinstance(layer, Activated)
        return layer

    def of_atoms(self, features: Features) -> tuple[Tensor, Tensor]:
        """The shares of the sender and of the receiver (with the bias), each (N, H)."""
        linear = self._joint.linear
        first, second, last = self.cut
        numbers, orders = features.numbers, features.orders
        sender = [self.source_direction_embedding(orders), self.source_atomic_embedding(numbers)]
        receiver = [self.target_direction_embedding(orders), self.target_atomic_embedding(numbers)]
        return (
            part(linear, first, second, torch.cat(sender, -1)),
            part(linear, second, last, torch.cat(receiver, -1)) + linear.bias,
        )

    def of_edges(self, atoms: tuple[Tensor, Tensor], basis: Tensor, at: Geometry) -> Tensor:
        """The attributes (R, H) of one block."""
        joint = self._joint

        # The joint layer is cut by its columns: shares of atoms are computed once an atom.
        joined = part(joint.linear, 0, self.cut[0], self.edge_distance_embedding(basis))
        joined += atoms[0].index_select(0, at.slots.sender)
        joined += atoms[1].index_select(0, at.slots.receiver)
        return joint.activate(joined)
