"""MPNN: neural message passing with an edge network, the smallest whole example of a family."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl

if TYPE_CHECKING:
    from .model import MPNN

__all__ = ["register_models"]

NOTES = """\
Messages are matrices made from distances alone: exact invariance, no directions, so structures
with the same distances around every atom have one energy. Beside the paper: a smooth cutoff
instead of a complete graph with bond orders, and a gated sum over atoms instead of set2set, which
is not extensive."""

BIBTEX = """@inproceedings{mpnn,
  author = {Gilmer, Justin and Schoenholz, Samuel S. and Riley, Patrick F. and Vinyals, Oriol and
            Dahl, George E.},
  title = {Neural Message Passing for Quantum Chemistry},
  booktitle = {Proceedings of the 34th International Conference on Machine Learning},
  series = {PMLR},
  volume = {70},
  pages = {1263--1272},
  year = {2017}
}"""

DEFAULTS: dict[str, Any] = {
    "elements": ["H", "C", "N", "O", "F", "Al", "Si", "P", "S", "Cl", "Ni", "Cu", "Pt"],
    "cutoff": 5.0,
    "hidden": 48,
    #: Rounds of messages, all with the same weights.
    "steps": 3,
    #: Functions of the distance, and hidden numbers of the edge network.
    "num_basis": 24,
    "edge_hidden": 16,
}


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Offer the family."""
    register(
        ModelFamily(
            name="mpnn",
            build=_build,
            summary="MPNN: messages through an edge network and a gated unit (Gilmer 2017)",
            cite="https://arxiv.org/abs/1704.01212",
            bibtex=BIBTEX,
            defaults=DEFAULTS,
            outputs=("energy", "forces", "stress", "energies"),
            cutoff=5.0,
            elements=(1, 6, 7, 8, 9, 13, 14, 15, 16, 17, 28, 29, 78),
            functional="none: fresh weights",
            training_data="none: fresh weights",
            notes=NOTES,
            test_config={"hidden": 8, "num_basis": 8, "edge_hidden": 6},
        )
    )


def _build(config: dict[str, Any]) -> MPNN:
    from .model import MPNN

    return MPNN(**config)
