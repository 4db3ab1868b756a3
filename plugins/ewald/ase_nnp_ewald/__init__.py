"""Coulomb energies of point charges under any model: Ewald sums, slabs, molecules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import Correction, hookimpl

if TYPE_CHECKING:
    from .model import Electrostatics

NOTES = """\
Coulomb energies do not end: two charged groups never stop to see each other (energy_is_extensive),
and an atom beyond the real-space cutoff is still felt. A slab with a dipole in a cell that repeats
along its normal feels its own images, which one that is open there does not (mixed_pbc). A crystal
with a net charge gets the usual uniform background; a slab with one is refused, and so is a
structure that repeats along one axis alone."""

BIBTEX = """@article{torchpme,
  author = {Loche, Philip and Huguenin-Dumittan, Kevin K. and Honarmand, Melika and Xu, Qianjun and
            Rumiantsev, Egor and How, Wei Bin and Langer, Marcel F. and Ceriotti, Michele},
  title = {Fast and flexible long-range models for atomistic machine learning},
  journal = {J. Chem. Phys.},
  volume = {162},
  pages = {142501},
  year = {2025},
  doi = {10.1063/5.0251713}
}"""

DEFAULTS = {"charges": None, "method": "ewald", "cutoff": 9.0, "accuracy": 1e-9}


@hookimpl
def register_corrections(register: Callable[[Correction], None]) -> None:
    """Offer the term."""
    register(
        Correction(
            name="ewald",
            summary="electrostatics of given charges: crystals, slabs, molecules",
            build=_build,
            defaults=DEFAULTS,
            cutoff=9.0,
            requires=("torchpme",),
            install="pip install torch-pme",
            test_config={"charges": {"Cu": 1.0, "O": -3.0, "C": 0.0}},
            violations={"energy_is_extensive": 0.03, "mixed_pbc": 0.06, "cutoff_is_smooth": 1e-5},
            cite="https://doi.org/10.1063/5.0251713",
            bibtex=BIBTEX,
            notes=NOTES,
        )
    )


def _build(config: dict[str, Any]) -> Electrostatics:
    from .model import Electrostatics

    return Electrostatics(**config)
