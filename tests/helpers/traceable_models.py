"""Small networks of families that can be traced, by name; ``lj`` is a formula."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "facet": {
        "hidden_irreps": ["8x0e + 4x1o + 4x2e", "8x0e + 4x1o + 2x2e"],
        "outs_per_node": 8,
        "node_embed": {"embed_dim": 8},
        "edge_embed": {"r_max": 4.5},
        "self_connection": {"polynomial": {"channels": 4}},
    },
    "cgcnn_oc20": {
        "atom_embedding_size": 16,
        "num_graph_conv_layers": 2,
        "fc_feat_size": 16,
        "num_fc_layers": 2,
        "pbc": (True, True, True),
    },
    "lj": {},
}
