"""Embedded-atom potentials whose pair, density and embedding functions are cubic splines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from .model import SplineEAM

__all__ = ["register_models", "write_setfl"]

NOTES = """\
Pair interactions and a density an atom: no angles, so metals and their alloys, not molecules.
Files of LAMMPS (eam/alloy, eam/fs) are read as ASE reads them: not-a-knot splines through the
tabulated points. Beyond the tabulated densities the embedding goes on as a straight line, as in
LAMMPS. ase_nnp_spline_eam.write_setfl(model, path) writes a trained model for LAMMPS or ASE;
energies of free atoms then stand in the embedding functions."""

BIBTEX = """@article{eam,
  author = {Daw, Murray S. and Baskes, M. I.},
  title = {Embedded-atom method: Derivation and application to impurities, surfaces, and other
           defects in metals},
  journal = {Physical Review B},
  volume = {29},
  pages = {6443--6453},
  year = {1984},
  doi = {10.1103/PhysRevB.29.6443}
}"""

DEFAULTS: dict[str, Any] = {
    "elements": ["Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"],
    #: "alloy": a density an element; "fs": a density a pair of elements (Finnis-Sinclair).
    "kind": "alloy",
    "cutoff": 6.0,
    #: Points of the radial functions from 0 to r_max, and of the embedding from 0 to rho_max.
    "num_r": 31,
    "num_rho": 21,
    "r_max": None,
    "rho_max": 2.0,
    #: Whether radial functions vanish at the cutoff with two derivatives; files need not.
    "smooth": True,
}


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Offer the family."""
    register(
        ModelFamily(
            name="spline_eam",
            build=_build,
            load=_load,
            summary="EAM of cubic splines: trainable, reads and writes LAMMPS setfl",
            cite="https://doi.org/10.1103/PhysRevB.29.6443",
            bibtex=BIBTEX,
            defaults=DEFAULTS,
            outputs=("energy", "forces", "stress", "energies"),
            cutoff=6.0,
            elements=(13, 28, 29, 46, 47, 78, 79),
            weights_license="as the potential file says",
            functional="none: fresh weights, or those of a file",
            training_data="none: fresh weights, or those of a file",
            notes=NOTES,
            test_config={"elements": ["Cu", "O", "C"], "cutoff": 5.0},
        )
    )


def _build(config: dict[str, Any]) -> SplineEAM:
    from .model import SplineEAM

    return SplineEAM(**config)


def _load(path: Path, **options: Any) -> SplineEAM:
    from .setfl import read_setfl

    return read_setfl(path, **options)


def write_setfl(model: SplineEAM, path: str | Path, refine: int = 4) -> None:
    """Write a model for LAMMPS; see :func:`ase_nnp_spline_eam.setfl.write_setfl`."""
    from .setfl import write_setfl as write

    write(model, path, refine)
