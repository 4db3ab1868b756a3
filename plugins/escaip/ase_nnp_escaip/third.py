"""The network of generation 3 (fairchem-core 2.x): edges attend to the edges of the same atom.

Row 0 of an atom is the atom itself; what its slot holds is the atom's feature. Layers on joined
inputs are split into the part of the atoms, computed once per atom, and the part of the edges.
"""

from __future__ import annotations

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
    legendre,
    normalization,
    part,
)
from ase_nnp_escaip.slots import reduce_rows

__all__ = ["Backbone", "FeedForward"]


class InputLayer(EdgeAttributes):
    """First edge features."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.edge_attr_norm = normalization(settings)
        self.edge_ffn = feed_forward(settings, 1)

    def forward(self, features: Features) -> list[Tensor]:
        """Return edge features (R, H) of each block."""
        atoms = self.of_atoms(features)
        new_edges = []
        for basis, at in zip(features.basis, features.geometry, strict=True):
            e = self.edge_attr_norm(self.of_edges(atoms, basis, at))
            new_edges.append(e + self.edge_ffn(e))
        return new_edges


class GraphAttention(EdgeAttributes):
    """Messages on edges, and attention among the edges of an atom."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        s, size = settings, settings.hidden_size
        self.settings = s
        self.edge_attr_norm = normalization(s)
        self.node_hidden_linear = Activated(s, 2 * size, size)
        self.edge_hidden_linear = Activated(s, size, size)
        self.message_norm = normalization(s)

        if s.use_message_gate:
            self.gate_linear = nn.Sequential(nn.Linear(2 * size, size))
            self.candidate_linear = nn.Sequential(nn.Linear(2 * size, size))
        else:
            self.message_linear = Activated(s, 3 * size, size)

        self.attn_in_proj_q = nn.Linear(size, size)
        self.attn_in_proj_k = nn.Linear(size, size)
        self.attn_in_proj_v = nn.Linear(size, size)
        self.attn_out_proj = nn.Linear(size, size)

        heads = s.atten_num_heads
        if s.use_angle_embedding == "scalar":
            self.attn_scalar = nn.Parameter(torch.ones(heads))
        elif s.use_angle_embedding == "bias":
            width = s.angle_embedding_size
            self.attn_distance_embedding = Activated(s, s.edge_distance_expansion_size, width)
            self.attn_angle_embedding = Activated(s, s.angle_expansion_size + 1, width)
            self.attn_bias_projection = nn.Sequential(nn.Linear(width**3, heads))
        if s.use_graph_attention:
            self.attn_weight = nn.Parameter(torch.empty(1, 1, heads, s.head_size))
            nn.init.xavier_uniform_(self.attn_weight)

    def forward(
        self,
        nodes: Tensor,
        edges: list[Tensor],
        norm: nn.Module,
        features: Features,
        only_nodes: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the change of the nodes (N, H) and of the edges of each block.

        ``norm`` is applied to the edges; with ``only_nodes`` the edges are left out where that
        saves work.
        """
        size = self.settings.hidden_size
        atoms = self.of_atoms(features)
        hidden = self.node_hidden_linear.linear
        sender = part(hidden, 0, size, nodes)
        receiver = part(hidden, size, 2 * size, nodes) + hidden.bias

        of_nodes, of_edges = [], []
        # Without graph attention a node reads only its own row; no other has to ask.
        first = only_nodes and not self.settings.use_graph_attention
        for e, basis, at in zip(edges, features.basis, features.geometry, strict=True):
            pair = sender.index_select(0, at.slots.sender)
            pair += receiver.index_select(0, at.slots.receiver)
            pair = self.node_hidden_linear.activate(pair)
            attributes = self.edge_attr_norm(self.of_edges(atoms, basis, at))
            m = self._message(attributes, self.edge_hidden_linear(norm(e)), pair)
            del attributes, pair

            own = m.index_select(0, at.slots.own) if first else m
            out = attend(
                self.attn_in_proj_q(own),
                self.attn_in_proj_k(m),
                self.attn_in_proj_v(m),
                self.settings.atten_num_heads,
                at,
                self._angles(basis, at),
                first,
            )
            out = self.attn_out_proj(out)

            if first:
                of_nodes.append(out)
                continue
            if self.settings.use_graph_attention:
                of_nodes.append(self._pool(out, at))
            else:
                of_nodes.append(out.index_select(0, at.slots.own))
            of_edges.append(out)
        return torch.cat(of_nodes), of_edges

    def _message(self, attributes: Tensor, edges: Tensor, pair: Tensor) -> Tensor:
        size = self.settings.hidden_size
        if self.settings.use_message_gate:
            gate, candidate = self.gate_linear[0], self.candidate_linear[0]
            inputs = torch.cat([attributes, pair], -1)
            keep = torch.sigmoid(gate(inputs))
            message = keep * torch.tanh(candidate(inputs)) + (1 - keep) * edges
        else:
            linear = self.message_linear.linear
            message = functional.linear(attributes, linear.weight[:, :size], linear.bias)
            message = add_part(message, linear, size, 2 * size, edges)
            message = add_part(message, linear, 2 * size, 3 * size, pair)
            message = self.message_linear.activate(message)
        result: Tensor = self.message_norm(message)
        return result

    def _angles(self, basis: Tensor, at: Geometry) -> Tensor | None:
        kind = self.settings.use_angle_embedding
        if kind == "none":
            return None
        assert at.cosine is not None
        cosine = at.cosine.clamp(-1.0, 1.0)
        if kind == "scalar":
            return self.attn_scalar[:, None, None] * cosine[:, None]
        order = self.settings.node_direction_expansion_size
        angle = self.attn_angle_embedding(torch.stack(legendre(cosine, order), -1))
        distance = at.slots.pad(self.attn_distance_embedding(basis))
        pair = distance[:, :, None] * distance[:, None, :]
        outer = torch.einsum("nqka,nqkb,nqkc->nqkabc", angle, pair, pair).flatten(3)
        result: Tensor = self.attn_bias_projection(outer).permute(0, 3, 1, 2)
        return result

    def _pool(self, out: Tensor, at: Geometry) -> Tensor:
        """Attention over the rows of an atom with one learned query per head, (n, H)."""
        split = out.unflatten(-1, self.attn_weight.shape[-2:])
        score = functional.leaky_relu((split * self.attn_weight[0]).sum(-1), 0.2)
        padded = at.slots.pad(score).masked_fill(~at.slots.mask[..., None], -torch.inf)
        weight = at.slots.unpad(torch.softmax(padded, dim=1))
        return at.slots.sum((split * weight[..., None]).flatten(1))


class FeedForward(nn.Module):
    """The two feed-forward networks of a block."""

    def __init__(self, settings: Settings, edges: bool) -> None:
        super().__init__()
        self.mlp_node = feed_forward(settings, settings.ffn_hidden_layer_multiplier)
        self.mlp_edge = (
            feed_forward(settings, settings.ffn_hidden_layer_multiplier) if edges else nn.Identity()
        )


class Block(ResidualBlock):
    """Attention and feed-forward, each on normalized input and added to it."""

    def __init__(self, settings: Settings, last: bool) -> None:
        super().__init__()
        # With gradient forces nothing reads the edges of the last block.
        edges = not (last and settings.regress_forces and not settings.direct)
        self.depth = settings.stochastic_depth_prob
        self.graph_attention = GraphAttention(settings)
        self.feedforward = FeedForward(settings, edges)
        self.norm_attn_node = normalization(settings)
        self.norm_attn_edge = normalization(settings)
        self.norm_ffn_node = normalization(settings)
        self.norm_ffn_edge = normalization(settings) if edges else nn.Identity()

    def forward(
        self, nodes: Tensor, edges: list[Tensor], features: Features, only_nodes: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Return new nodes and edges; the edges are not meant to be used after ``only_nodes``."""
        change, changes = self.graph_attention(
            self.norm_attn_node(nodes), edges, self.norm_attn_edge, features, only_nodes
        )
        nodes = nodes + self._drop(change)
        nodes = nodes + self._drop(self.feedforward.mlp_node(self.norm_ffn_node(nodes)))
        if only_nodes:
            return nodes, edges

        def update(e: Tensor) -> Tensor:
            change: Tensor = self.feedforward.mlp_edge(self.norm_ffn_edge(e))
            return change

        return nodes, self._changed_edges(edges, changes, update)


class Readout(nn.Module):
    """What one depth of the network contributes to the output."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        size = settings.readout_hidden_layer_multiplier
        if settings.use_global_readout:
            self.global_ffn = feed_forward(settings, size)
            self.pre_global_norm = normalization(settings)
        self.node_ffn = feed_forward(settings, size)
        self.pre_node_norm = normalization(settings)
        if settings.edge_outputs:
            self.edge_ffn = feed_forward(settings, size)
            self.pre_edge_norm = normalization(settings)

    def read(self, what: str, x: Tensor) -> Tensor:
        """Return ``x`` plus its feed-forward; ``what`` is node, edge or global."""
        norm, ffn = getattr(self, f"pre_{what}_norm"), getattr(self, f"{what}_ffn")
        result: Tensor = x + ffn(norm(x))
        return result


class OutputProjection(nn.Module):
    """The readouts of all depths, joined by one layer."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        depths, size = settings.num_layers + 1, settings.hidden_size
        self.size = size
        kinds = ["global"] if settings.use_global_readout else []
        kinds += ["node", "edge"] if settings.edge_outputs else ["node"]
        for kind in kinds:
            setattr(self, f"{kind}_projection", Activated(settings, depths * size, size))
            setattr(self, f"output_norm_{kind}", normalization(settings))

    def add(self, kind: str, depth: int, x: Tensor, total: Tensor | None) -> Tensor:
        """Add the share of one depth, without holding the readouts of the others."""
        projection: Activated = getattr(self, f"{kind}_projection")
        linear = projection.linear
        first, last = depth * self.size, (depth + 1) * self.size
        if total is None:
            return functional.linear(x, linear.weight[:, first:last], linear.bias)
        return add_part(total, linear, first, last, x)

    def finish(self, kind: str, total: Tensor) -> Tensor:
        """Activation and norm of the joined readouts."""
        projection: Activated = getattr(self, f"{kind}_projection")
        result: Tensor = getattr(self, f"output_norm_{kind}")(projection.activate(total))
        return result


class InputBlock(nn.Module):
    """First features; an atom's own slot becomes its node feature."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.input_layer = InputLayer(settings)
        self.norm_node = normalization(settings)
        self.norm_edge = normalization(settings)

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        """Return nodes (N, H) and edges (R, H) of each block."""
        edges = self.input_layer(features)
        pairs = zip(edges, features.geometry, strict=True)
        nodes = torch.cat([e.index_select(0, at.slots.own) for e, at in pairs])
        return self.norm_node(nodes), [self.norm_edge(e) for e in edges]


class Backbone(nn.Module):
    """Input, transformer blocks, readouts."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        depth = settings.num_layers
        self.input_block = InputBlock(settings)
        self.transformer_blocks = nn.ModuleList(
            Block(settings, last=k == depth - 1) for k in range(depth)
        )
        self.readout_layers = nn.ModuleList(Readout(settings) for _ in range(depth + 1))
        self.output_projection = OutputProjection(settings)

    def forward(self, features: Features, edge_outputs: bool) -> dict[str, list[Tensor]]:
        """Return the features for the heads: ``node``, ``global`` and ``edge`` by block.

        ``edge_outputs`` says whether the edges are wanted; without them the last block and the
        readouts are cheaper.
        """
        settings = self.settings
        nodes, edges = self.input_block(features)
        totals: dict[str, list[Tensor | None]] = {"node": [None]}
        if settings.use_global_readout:
            totals["global"] = [None]
        if edge_outputs:
            totals["edge"] = [None] * len(edges)

        last = len(self.transformer_blocks)
        for depth, readout in enumerate(self.readout_layers):
            assert isinstance(readout, Readout)
            if depth:
                only_nodes = depth == last and not edge_outputs
                block = self.transformer_blocks[depth - 1]
                nodes, edges = block(nodes, edges, features, only_nodes)

            inputs = {"node": [nodes], "edge": edges}
            if settings.use_global_readout:
                inputs["global"] = [self._pool(nodes, features)]
            for kind, total in totals.items():
                for k, x in enumerate(inputs[kind]):
                    value = readout.read(kind, x)
                    total[k] = self.output_projection.add(kind, depth, value, total[k])

        return {
            kind: [self.output_projection.finish(kind, t) for t in total if t is not None]
            for kind, total in totals.items()
        }

    def _pool(self, nodes: Tensor, features: Features) -> Tensor:
        total = reduce_rows(nodes, features.batch, features.structures)
        if self.settings.energy_reduce == "sum":
            return total
        counts = torch.bincount(features.batch, minlength=features.structures)
        return total / counts[:, None].to(total.dtype)
