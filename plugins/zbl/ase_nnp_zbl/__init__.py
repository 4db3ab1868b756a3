"""ZBL: the universal screened repulsion of two nuclei, what every potential owes at short range."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import Correction, ModelFamily, hookimpl

if TYPE_CHECKING:
    from .model import ZBL

NOTES = """\
No trained weights: a closed formula. It is meant to go beneath a trained model, whose bonds it
does not touch: beyond `outer` times the sum of the covalent radii it is exactly zero."""

BIBTEX = """@book{zbl,
  author = {Ziegler, J. F. and Biersack, J. P. and Littmark, U.},
  title = {The Stopping and Range of Ions in Solids},
  publisher = {Pergamon, New York},
  year = {1985}
}"""


CITE = "https://doi.org/10.1007/978-1-4615-8103-1_3"
#: Parts of the sum of covalent radii between which the term is switched off.
DEFAULTS = {"inner": 0.4, "outer": 0.75}


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Offer the family."""
    register(
        ModelFamily(
            name="zbl",
            build=_build,
            summary="ZBL: screened nuclear repulsion, switched off before bonds begin",
            cite=CITE,
            bibtex=BIBTEX,
            defaults=DEFAULTS,
            trainable=False,
            cutoff=3.9,
            functional="none: a closed formula",
            training_data="none: a closed formula",
            weights_license="no weights",
            notes=NOTES,
        )
    )


@hookimpl
def register_corrections(register: Callable[[Correction], None]) -> None:
    """Offer it as a term that goes with any model."""
    register(
        Correction(
            name="zbl",
            summary="screened repulsion of nuclei, for models that have none",
            build=_build,
            defaults=DEFAULTS,
            # Too short to tell the three structures of an adsorption energy apart.
            energy_kinds=("total", "adsorption", "formation"),
            cutoff=3.9,
            cite=CITE,
            bibtex=BIBTEX,
            notes=NOTES,
        )
    )


def _build(config: dict[str, Any]) -> ZBL:
    from .model import ZBL

    return ZBL(**config)
