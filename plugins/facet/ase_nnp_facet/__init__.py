"""Facet: an equivariant potential with trainable radial functions and a mixer on the sphere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, Pretrained, hookimpl

from .settings import CONFIG_EXTRAS, DEFAULTS

if TYPE_CHECKING:
    from .model import Facet

NOTES = """\
Default: full O(3), exact to rounding (polynomial mixer, 38 points on the sphere for lmax 2).
The published mixer (s2-mlp-mixer) is equivariant up to its grid. Largest force error under rotation
over the largest force, a small model trained briefly on acetylacetone: 110 Lebedev points 2.8e-2,
194 points 9e-3, 434 points 1.6e-3; the published 18 x 17 grid (306 points) 1.6e-2, 26 x 25 4e-3.
Labels 0e, 1e, 2e in hidden_irreps, as published, mean SO(3): inversion changes the energy.
reference=True keeps the published energy formula, in which the energy an atom depends on the size
of the cell, the published envelope, and max_neighbors; without it the energy is a sum over atoms,
the cutoff is smooth (three derivatives), every neighbor within it counts, and norm_eps is 3
instead of 1e-6, which would put a corner into the energy where an atom's site is symmetric."""

BIBTEX = """@misc{facet,
  author = {Miklaucic, Nicholas and Wei, Lai and Dong, Rongzhi and Fu, Nihang and
            Omee, Sadman Sadeed and Li, Qingyang and Dey, Sourin and Fung, Victor and Hu, Jianjun},
  title = {Facet: highly efficient E(3)-equivariant networks for interatomic potentials},
  year = {2025},
  eprint = {2509.08418},
  archivePrefix = {arXiv}
}"""

#: Beside its weights lie a model card and a fitted uncertainty; ``data/shipped`` made them.
METALS = Pretrained(
    name="facet-metals-2",
    summary="metals, alloys, surfaces, adsorbates, small molecules; SevenNet-0's labels",
    source="weights/facet-metals-2.nnp",
    uncertainty="weights/facet-metals-2.uq",
    card="weights/model_card.md",
    default=True,
    size_mb=0.68,
    license="MIT",
    functional="PBE(+U), through SevenNet-0",
    training_data="metals, alloys, slabs, adsorbates, molecules, labeled by SevenNet-0",
    elements=("H", "C", "N", "O", "Ni", "Cu", "Mo", "Rh", "Pd", "Ag", "Ir", "Pt", "Au"),
)


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Offer the family."""
    register(
        ModelFamily(
            name="facet",
            build=_build,
            summary="Facet: equivariant messages, linear radial functions, a mixer on the sphere",
            cite="https://arxiv.org/abs/2509.08418",
            defaults=DEFAULTS,
            config_extras=CONFIG_EXTRAS,
            pretrained=(METALS,),
            weights_license="facet-metals-2: MIT; the paper's are not published",
            notes=NOTES,
            bibtex=BIBTEX,
            cutoff=6.0,
            test_config={
                "hidden_irreps": ["8x0e + 4x1o + 4x2e"],
                "outs_per_node": 8,
                "node_embed": {"embed_dim": 8},
                "edge_embed": {"r_max": 5.0},
                "self_connection": {"polynomial": {"channels": 4}},
            },
        )
    )


def _build(config: dict[str, Any]) -> Facet:
    from .model import Facet

    return Facet(config)
