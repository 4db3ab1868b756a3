"""MODNet: descriptors chosen by mutual information and a small network for properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl

if TYPE_CHECKING:
    from .model import DescriptorMLP
    from .preparation import prepared
    from .selection import mutual_information, normalized_mutual_information, select_features

__all__ = [
    "mutual_information",
    "normalized_mutual_information",
    "prepared",
    "register_models",
    "select_features",
]

NOTES = """\
Scalar properties a structure, one or several at once; no forces. `prepared(frames, properties)`
chooses the descriptors and their units from data and gives a fresh model; an ensemble of such
models gives error bars. Density, volume and packing are those of the cell, and left out (zero)
where it is not periodic along all three vectors: a slab with vacuum in a periodic cell has others
than one with two periodic axes, by 7 % of the result in the test model. Train and use one kind."""

BIBTEX = """@article{modnet,
  author = {De Breuck, Pierre-Paul and Hautier, Geoffroy and Rignanese, Gian-Marco},
  title = {Materials property prediction for limited datasets enabled by feature selection and
           joint learning with {MODNet}},
  journal = {npj Computational Materials},
  volume = {7},
  pages = {83},
  year = {2021},
  doi = {10.1038/s41524-021-00552-2}
}"""

DEFAULTS: dict[str, Any] = {
    #: Name and unit of each property; labels stand in atoms.info under the name.
    "properties": {"formation_energy_per_atom": "eV/atom"},
    #: "own", made of the graph, or "matminer".
    "descriptors": "own",
    #: Names of those that are read; None for all.
    "selected": None,
    "cutoff": 6.0,
    #: Widths of the layers that all properties share, and of those that each has of its own.
    "shared": [128, 64],
    "separate": [32],
}


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Offer the family."""
    register(
        ModelFamily(
            name="descriptor_mlp",
            build=_build,
            summary="MODNet: descriptors chosen by mutual information, joint properties",
            cite="https://doi.org/10.1038/s41524-021-00552-2",
            bibtex=BIBTEX,
            defaults=DEFAULTS,
            outputs=("formation_energy_per_atom",),
            energy_kind="none",
            conservative=False,
            cutoff=6.0,
            elements=range(1, 95),
            functional="none: fresh weights",
            training_data="none: fresh weights",
            requires=("pymatgen",),
            violations={"mixed_pbc": 0.1},
            notes=NOTES,
            test_config={"shared": [16], "separate": [8]},
        )
    )


def _build(config: dict[str, Any]) -> DescriptorMLP:
    from .model import DescriptorMLP

    return DescriptorMLP(**config)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    # Listing the families must load neither scipy nor torch.
    for module in ("preparation", "selection"):
        if name in __all__ and hasattr(found := import_module(f".{module}", __name__), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
