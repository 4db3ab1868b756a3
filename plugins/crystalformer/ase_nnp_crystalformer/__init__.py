"""Crystalformer: attention between all atoms of an endless crystal, for one of its properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl

if TYPE_CHECKING:
    from .model import Crystalformer

__all__ = ["register_models"]

NOTES = """\
One model, one property a structure; no forces. Lattice sums run over all images within the cutoff,
beyond which their Gaussians, of a width that is held below 0.18 of it, are less than 1e-6. Cells
may be periodic along any axes; a molecule is a crystal without images."""

BIBTEX = """@inproceedings{crystalformer,
  author = {Taniai, Tatsunori and Igarashi, Ryo and Suzuki, Yuta and Chiba, Naoya and Saito, Kotaro
            and Ushiku, Yoshitaka and Ono, Kanta},
  title = {Crystalformer: Infinitely Connected Attention for Periodic Structure Encoding},
  booktitle = {International Conference on Learning Representations},
  year = {2024}
}"""

DEFAULTS: dict[str, Any] = {
    #: The name of what it gives; labels stand in atoms.info under it.
    "property": "formation_energy_per_atom",
    "unit": "eV/atom",
    "width": 128,
    "heads": 8,
    "layers": 4,
    "hidden": 512,
    #: Gaussians of the distance in the values, up to r_max (Angstrom).
    "num_basis": 64,
    "r_max": 14.0,
    #: Unit and least part of the widths of the attention (Angstrom).
    "r_0": 1.4,
    "least": 0.5,
    "cutoff": 11.0,
}


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Offer the family."""
    register(
        ModelFamily(
            name="crystalformer",
            build=_build,
            summary="Crystalformer: infinitely connected attention, properties of crystals",
            cite="https://arxiv.org/abs/2403.11686",
            bibtex=BIBTEX,
            defaults=DEFAULTS,
            outputs=("formation_energy_per_atom",),
            energy_kind="none",
            conservative=False,
            cutoff=11.0,
            elements=range(1, 99),
            functional="none: fresh weights",
            training_data="none: fresh weights",
            notes=NOTES,
            test_config={"width": 8, "heads": 2, "layers": 2, "hidden": 8, "num_basis": 6},
        )
    )


def _build(config: dict[str, Any]) -> Crystalformer:
    from .model import Crystalformer

    return Crystalformer(**config)
