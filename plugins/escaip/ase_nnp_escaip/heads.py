"""Heads of generation 3: energy, direct forces, and the energy of a gradient head."""

from __future__ import annotations

from torch import Tensor, nn

from ase_nnp_escaip.config import Settings
from ase_nnp_escaip.layers import OutputLayer, normalization

__all__ = ["EnergyHead", "ForceHead", "Wrapped", "make_head"]


class EnergyHead(nn.Module):
    """Energy of each atom, or of each structure where a global feature is read.

    The head of gradient models owns a norm and does not use it.
    """

    def __init__(self, settings: Settings, *, normalized: bool) -> None:
        super().__init__()
        self.energy_layer = OutputLayer(settings, 1)
        self.node_norm = normalization(settings)
        self.normalized = normalized

    def forward(self, features: Tensor) -> Tensor:
        """Return (N,) or (B,) from features (N or B, H)."""
        x = self.node_norm(features) if self.normalized else features
        result: Tensor = self.energy_layer(x)[:, 0]
        return result


class ForceHead(nn.Module):
    """Direct forces: three numbers an edge, and a magnitude an atom."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.force_direction_layer = OutputLayer(settings, 3)
        self.force_magnitude_layer = OutputLayer(settings, 1)
        self.node_norm = normalization(settings)
        self.edge_norm = normalization(settings)

    def of_edges(self, edges: Tensor) -> Tensor:
        """Return (R, 3) from edge features (R, H)."""
        result: Tensor = self.force_direction_layer(self.edge_norm(edges))
        return result

    def magnitude(self, nodes: Tensor) -> Tensor:
        """Return (N, 1) from node features (N, H)."""
        result: Tensor = self.force_magnitude_layer(self.node_norm(nodes))
        return result


class Wrapped(nn.Module):
    """A head under ``head.``, as the wrapper for several data sets names it."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head


def make_head(settings: Settings, kind: str, wrapped: bool) -> nn.Module:
    """Return the head of that kind: ``energy``, ``force`` or ``grad``."""
    head = (
        ForceHead(settings)
        if kind == "force"
        else EnergyHead(settings, normalized=kind == "energy")
    )
    return Wrapped(head) if wrapped else head
