"""Element-embracing symmetry functions: one descriptor and one network for all elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl

if TYPE_CHECKING:
    from .model import SymmetryFunctionNetwork

__all__ = ["register_models"]

NOTES = """\
Elements enter as factors of the sums over neighbors (period, places in the s and p, d and f blocks,
and mirror images), so the descriptor is as long for ten elements as for one, and elements may be
added to the data without changing the network. Descriptors are scaled by the first batch of a
training, whose means and spreads are saved with the model."""

BIBTEX = """@article{eeacsf,
  author = {Eckhoff, Marco and Reiher, Markus},
  title = {Lifelong Machine Learning Potentials},
  journal = {Journal of Chemical Theory and Computation},
  volume = {19},
  pages = {3509--3525},
  year = {2023},
  doi = {10.1021/acs.jctc.3c00279}
}"""

DEFAULTS: dict[str, Any] = {
    "cutoff": 5.0,
    #: Factors of a neighbor's element in the sums: "1", "n" (period), "m" (place in the s and p
    #: block), "n'" and "m'" (counted from the other end), "d", "f" (places in those blocks).
    "factors": ["1", "n", "m", "n'", "m'", "d", "f"],
    #: Gaussians of the distance, in the radial and in the angular functions.
    "num_radial": 16,
    "num_angular": 6,
    "zetas": [1, 2, 4],
    "lambdas": [-1, 1],
    "hidden": [96, 64],
}


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Offer the family."""
    register(
        ModelFamily(
            name="eeacsf",
            build=_build,
            summary="element-embracing symmetry functions, one network for all elements",
            cite="https://doi.org/10.1021/acs.jctc.3c00279",
            bibtex=BIBTEX,
            defaults=DEFAULTS,
            outputs=("energy", "forces", "stress", "energies"),
            cutoff=5.0,
            elements=range(1, 119),
            functional="none: fresh weights",
            training_data="none: fresh weights",
            notes=NOTES,
            test_config={"num_radial": 6, "num_angular": 3, "hidden": [8, 8]},
        )
    )


def _build(config: dict[str, Any]) -> SymmetryFunctionNetwork:
    from .model import SymmetryFunctionNetwork

    return SymmetryFunctionNetwork(**config)
