"""The network of generation 1 (the paper's published weights) and its successor, generation 2.

An atom's feature is the mean over its neighbors; the edges carry features only to the outputs, and
in generation 2 also into the messages.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ase_nnp_escaip.attention import Geometry, attend
from ase_nnp_escaip.config import Settings
from ase_nnp_escaip.edges import EdgeAttributes, Features
from ase_nnp_escaip.layers import (
    Activated,
    ResidualBlock,
    add_part,
    feed_forward,
    normalization,
    part,
)
from ase_nnp_escaip.slots import reduce_rows
from ase_nnp_escaip.third import FeedForward

__all__ = ["Exportable", "OutputBlock", "neighbor_mean"]


class FirstEdgeAttributes(EdgeAttributes):
    """As in generation 3, under the older name."""

    joint = "edge_linear"


class NodeEdgeNorm(nn.Module):
    """A norm for the atoms and one for the edges."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.node_norm = normalization(settings)
        self.edge_norm = normalization(settings)


def neighbor_mean(x: Tensor, at: Geometry) -> Tensor:
    """Mean of rows over each atom, (n, ...), with the published guard against no rows."""
    counts = at.slots.mask.sum(1, keepdim=True).to(x.dtype)

    # The guard is part of the trained function and stays.
    return at.slots.sum(x) / (counts + 1e-5)


class FirstInputLayer(FirstEdgeAttributes):
    """First edge features."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.edge_ffn = feed_forward(settings, 1)
        self.norm = normalization(settings)

    def forward(self, features: Features) -> list[Tensor]:
        """Return edge features (R, H) of each block."""
        atoms = self.of_atoms(features)
        new_edges = []
        for basis, at in zip(features.basis, features.geometry, strict=True):
            e = self.of_edges(atoms, basis, at)
            new_edges.append(e + self.edge_ffn(self.norm(e)))
        return new_edges


class FirstInputBlock(nn.Module):
    """First features of atoms and edges."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.input_layer = FirstInputLayer(settings)
        self.norm = NodeEdgeNorm(settings)

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        """Return nodes (N, H) and edges (R, H) of each block."""
        edges = self.input_layer(features)
        pairs = zip(edges, features.geometry, strict=True)
        nodes = torch.cat([neighbor_mean(e, at) for e, at in pairs])
        return self.norm.node_norm(nodes), [self.norm.edge_norm(e) for e in edges]


class PackedProjections(nn.Module):
    """Weights of a multi-head attention with queries, keys and values in one matrix."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * size))
        self.out_proj = nn.Linear(size, size)
        nn.init.xavier_uniform_(self.in_proj_weight)


class FirstAttention(FirstEdgeAttributes):
    """Messages on edges, and attention among the edges of an atom."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        s, size = settings, settings.hidden_size
        self.settings = s
        self.node_linear = Activated(s, 2 * size, size)
        self.message_linear = Activated(s, (2 if s.generation == 1 else 3) * size, size)
        packed = PackedProjections(size)
        if s.atten_name == "xformers":  # that backend keeps them one level higher
            self.in_proj_weight, self.in_proj_bias = packed.in_proj_weight, packed.in_proj_bias
            self.out_proj = packed.out_proj
        else:
            self.multi_head_attention = packed
        if s.use_angle_embedding != "none":
            self.angle_scalar = nn.Parameter(torch.ones(s.atten_num_heads))

    def forward(
        self, nodes: Tensor, edges: list[Tensor], features: Features, only_nodes: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the change of the nodes (N, H) and of the edges of each block."""
        settings, size = self.settings, self.settings.hidden_size
        packed: Any = self if settings.atten_name == "xformers" else self.multi_head_attention
        weight, bias = packed.in_proj_weight, packed.in_proj_bias

        atoms = self.of_atoms(features)
        linear = self.node_linear.linear
        sender = part(linear, 0, size, nodes)
        receiver = part(linear, size, 2 * size, nodes) + linear.bias

        of_nodes, of_edges = [], []
        for e, basis, at in zip(edges, features.basis, features.geometry, strict=True):
            pair = sender.index_select(0, at.slots.sender)
            pair += receiver.index_select(0, at.slots.receiver)
            attributes = self.of_edges(atoms, basis, at)
            message = self._message(attributes, self.node_linear.activate(pair), e)
            q, k, v = functional.linear(message, weight, bias).chunk(3, dim=-1)
            extra = None
            if settings.use_angle_embedding != "none":
                assert at.cosine is not None
                extra = self.angle_scalar[:, None, None] * at.cosine.clamp(-1.0, 1.0)[:, None]
            out = attend(q, k, v, settings.atten_num_heads, at, extra, first=False)

            if only_nodes:  # the projection of a mean is the mean of the projections
                mean = neighbor_mean(out, at)
                share = neighbor_mean(torch.ones_like(out[:, :1]), at)
                mean = functional.linear(mean, packed.out_proj.weight)
                of_nodes.append(mean + share * packed.out_proj.bias)
                continue
            out = packed.out_proj(out)
            of_nodes.append(neighbor_mean(out, at))
            of_edges.append(out)
        return torch.cat(of_nodes), of_edges

    def _message(self, attributes: Tensor, pair: Tensor, edges: Tensor) -> Tensor:
        size = self.settings.hidden_size
        linear = self.message_linear.linear
        message = functional.linear(attributes, linear.weight[:, :size], linear.bias)
        if self.settings.generation == 2:
            message = add_part(message, linear, size, 2 * size, edges)
        message = add_part(message, linear, linear.in_features - size, linear.in_features, pair)
        result: Tensor = self.message_linear.activate(message)
        return result


class FirstBlock(ResidualBlock):
    """Attention and feed-forward, each added to its input."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.depth = settings.stochastic_depth_prob
        self.graph_attention = FirstAttention(settings)
        self.feedforward = FeedForward(settings, edges=True)
        self.norm_attn = normalization(settings)
        self.norm_ffn = NodeEdgeNorm(settings)

    def forward(
        self, nodes: Tensor, edges: list[Tensor], features: Features, only_nodes: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Return new nodes and edges; with ``only_nodes`` the edges stay as they were."""
        change, changes = self.graph_attention(self.norm_attn(nodes), edges, features, only_nodes)
        nodes = nodes + self._drop(change)
        nodes = nodes + self._drop(self.feedforward.mlp_node(self.norm_ffn.node_norm(nodes)))
        if only_nodes:
            return nodes, edges

        def update(e: Tensor) -> Tensor:
            change: Tensor = self.feedforward.mlp_edge(self.norm_ffn.edge_norm(e))
            return change

        return nodes, self._changed_edges(edges, changes, update)


class FirstReadout(nn.Module):
    """What one depth of the network contributes to energy and forces."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        size = settings.readout_hidden_layer_multiplier
        self.energy_ffn = feed_forward(settings, size)
        self.energy_norm = normalization(settings)
        if settings.edge_outputs:
            self.force_ffn = feed_forward(settings, size)
            self.force_norm = normalization(settings)

    def nodes(self, x: Tensor) -> Tensor:
        """Return the node readout."""
        result: Tensor = x + self.energy_ffn(self.energy_norm(x))
        return result

    def edges(self, x: Tensor) -> Tensor:
        """Return the edge readout."""
        result: Tensor = x + self.force_ffn(self.force_norm(x))
        return result


class FirstOutputLayer(nn.Module):
    """Residual feed-forward between two norms, and a last layer without bias."""

    def __init__(self, settings: Settings, outputs: int) -> None:
        super().__init__()
        self.ffn = feed_forward(settings, settings.output_hidden_layer_multiplier)
        self.pre_norm = normalization(settings)
        self.post_norm = normalization(settings)
        self.final_output = nn.Sequential(nn.Linear(settings.hidden_size, outputs, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs) from (..., H)."""
        result: Tensor = self.final_output(self.post_norm(x + self.ffn(self.pre_norm(x))))
        return result


class OutputBlock(nn.Module):
    """Joined readouts, energy and direct forces."""

    avg_num_nodes: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        size = settings.hidden_size
        self.size, joined = size, (settings.num_layers + 1) * size
        self.register_buffer("avg_num_nodes", torch.tensor(float(settings.avg_num_nodes)))
        self.node_input_projection = Activated(settings, joined, size)
        self.energy_layer = FirstOutputLayer(settings, 1)
        if settings.edge_outputs:
            self.edge_input_projection = Activated(settings, joined, size)
            self.force_direction_layer = FirstOutputLayer(settings, 3)
            self.force_magnitude_layer = FirstOutputLayer(settings, 1)

    def add(self, projection: Activated, depth: int, x: Tensor, total: Tensor | None) -> Tensor:
        """Add the share of one depth, without holding the readouts of the others."""
        linear = projection.linear
        first, last = depth * self.size, (depth + 1) * self.size
        if total is None:
            return functional.linear(x, linear.weight[:, first:last], linear.bias)
        return add_part(total, linear, first, last, x)


class Exportable(nn.Module):
    """The whole network."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.input_block = FirstInputBlock(settings)
        self.transformer_blocks = nn.ModuleList(
            FirstBlock(settings) for _ in range(settings.num_layers)
        )
        self.readout_layers = nn.ModuleList(
            FirstReadout(settings) for _ in range(settings.num_layers + 1)
        )
        self.output_block = OutputBlock(settings)

    def forward(
        self, features: Features, edge_outputs: bool
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Return energies (B,); with ``edge_outputs`` also numbers (R, 3) by block, magnitudes."""
        out = self.output_block
        nodes, edges = self.input_block(features)
        node_total: Tensor | None = None
        edge_totals: list[Tensor | None] = [None] * len(edges)
        last = len(self.transformer_blocks)
        # Generation 1 reads the edges nowhere but in the forces.
        spare = self.settings.generation == 1
        for depth, readout in enumerate(self.readout_layers):
            assert isinstance(readout, FirstReadout)
            if depth:
                only_nodes = not edge_outputs and (spare or depth == last)
                block = self.transformer_blocks[depth - 1]
                nodes, edges = block(nodes, edges, features, only_nodes)
            node_total = out.add(out.node_input_projection, depth, readout.nodes(nodes), node_total)
            if edge_outputs:
                for k, e in enumerate(edges):
                    value = readout.edges(e)
                    total = out.add(out.edge_input_projection, depth, value, edge_totals[k])
                    edge_totals[k] = total
        assert node_total is not None
        node = out.node_input_projection.activate(node_total)
        each = out.energy_layer(node)[:, 0]

        # As published: a sum over atoms over the mean size of the training structures.
        energy = reduce_rows(each, features.batch, features.structures) / out.avg_num_nodes
        if not edge_outputs:
            return energy, [], None
        activation = out.edge_input_projection.activate
        numbers = [
            out.force_direction_layer(activation(total))
            for total in edge_totals
            if total is not None
        ]
        return energy, numbers, out.force_magnitude_layer(node)
