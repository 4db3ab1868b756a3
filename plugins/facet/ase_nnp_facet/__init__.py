"""Facet: an equivariant potential with radial splines and an MLP on the sphere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl

from .settings import CONFIG_EXTRAS, DEFAULTS

if TYPE_CHECKING:
    from .model import Facet


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Offer the family."""
    register(
        ModelFamily(
            name="facet",
            build=_build,
            summary="Facet: equivariant messages with radial splines and an MLP on the sphere",
            cite="https://arxiv.org/abs/2509.08418",
            defaults=DEFAULTS,
            config_extras=CONFIG_EXTRAS,
            test_config={
                "hidden_irreps": ["8x0e + 4x1o + 4x2e"],
                "outs_per_node": 8,
                "node_embed": {"embed_dim": 8},
                "edge_embed": {"r_max": 4.0},
                "self_connection": {"polynomial": {"channels": 4}},
            },
        )
    )


def _build(config: dict[str, Any]) -> Facet:
    from .model import Facet

    return Facet(config)
