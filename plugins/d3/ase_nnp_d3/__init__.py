"""DFT-D3 dispersion with zero or Becke-Johnson damping, for any model and any periodicity."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ase_nnp import Correction, hookimpl

if TYPE_CHECKING:
    from .model import D3

NOTES = """\
Two-body dispersion by default, as most periodic programs have it; `three_body` adds the
Axilrod-Teller-Muto term, whose cost grows with the square of the neighbors within its cutoff.
Reference C6, radii and the parameters of the functionals are those of tad-dftd3, which keeps them
equal to s-dftd3's. Every cutoff ends smoothly over the last `width` Angstrom. Radii of pairs are
single precision, as tad-dftd3 keeps them."""

BIBTEX = """@article{d3,
  author = {Grimme, Stefan and Antony, Jens and Ehrlich, Stephan and Krieg, Helge},
  title = {A consistent and accurate ab initio parametrization of density functional dispersion
           correction (DFT-D) for the 94 elements H-Pu},
  journal = {J. Chem. Phys.},
  volume = {132},
  pages = {154104},
  year = {2010},
  doi = {10.1063/1.3382344}
}
@article{d3bj,
  author = {Grimme, Stefan and Ehrlich, Stephan and Goerigk, Lars},
  title = {Effect of the damping function in dispersion corrected density functional theory},
  journal = {J. Comput. Chem.},
  volume = {32},
  pages = {1456},
  year = {2011},
  doi = {10.1002/jcc.21759}
}"""

#: Words of functionals that hold dispersion: added terms, and functionals made with one.
INCLUDED = (
    "d2", "d3", "d3bj", "d3zero", "d3m", "d3mbj", "d4", "vv10", "rvv10", "vdw", "mbd", "ts", "xdm",
    "3c", "b97d", "b97-d", "wb97x-d", "b97m-v", "wb97m-v", "wb97x-v",
)  # fmt: skip
#: Angstrom: 60, 40 and 40 Bohr, as s-dftd3 has them, and 1 Bohr for the switch.
DEFAULTS = {
    "three_body": False,
    "cutoff": 31.75063265418,
    "coordination_cutoff": 21.16708843612,
    "three_body_cutoff": 21.16708843612,
    "width": 0.529177210903,
}


@hookimpl
def register_corrections(register: Callable[[Correction], None]) -> None:
    """Offer both dampings."""
    for name, damping, cite in (
        ("d3bj", "Becke-Johnson", "https://doi.org/10.1002/jcc.21759"),
        ("d3zero", "zero", "https://doi.org/10.1063/1.3382344"),
    ):
        register(
            Correction(
                name=name,
                summary=f"DFT-D3 dispersion with {damping} damping",
                build=partial(_build, name.removeprefix("d3")),
                defaults=DEFAULTS,
                functionals=partial(_functionals, name.removeprefix("d3")),
                included_in=INCLUDED,
                cutoff=DEFAULTS["cutoff"],
                elements=range(1, 104),
                requires=("tad_dftd3",),
                install="pip install tad-dftd3",
                # Small cells see thousands of neighbors; a shorter reach tests the same physics.
                test_config={"functional": "pbe", "three_body": True, **SHORT},
                cite=cite,
                bibtex=BIBTEX,
                violations={"double_precision_is_double": 6e-8},
                notes=NOTES,
            )
        )


SHORT = {"cutoff": 8.0, "coordination_cutoff": 7.0, "three_body_cutoff": 6.0}


def _functionals(damping: str) -> list[str]:
    from .parameters import functionals

    return functionals(damping)


def _build(damping: str, config: dict[str, Any]) -> D3:
    from .model import D3

    return D3(damping, **config)
