"""The potentials of matgl: M3GNet, CHGNet, TensorNet, SO3Net and QET."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from ase_nnp import Potential

__all__ = ["FAMILY", "register_models"]

BIBTEX = """@article{matgl,
  author = {Ko, Tsz Wai and Deng, Bowen and Nassar, Marcel and Barroso-Luque, Luis and Liu, Runze
            and Qi, Ji and Thakur, Atul C. and Mishra, Adesh Rohan and Liu, Elliott and Ceder,
            Gerbrand and Miret, Santiago and Ong, Shyue Ping},
  title = {Materials Graph Library (MatGL), an open-source graph deep learning library for materials
           science and chemistry},
  journal = {npj Computational Materials},
  volume = {11},
  year = {2025},
  doi = {10.1038/s41524-025-01742-y}
}"""

#: ``model`` names the class, ``hyperparameters`` are its own; the rest is what matgl's Potential
#: puts around it: ``energy = data_std * network + data_mean + sum of element_refs [+ repulsion]``.
DEFAULTS: dict[str, Any] = {
    "model": "TensorNet",
    "hyperparameters": {},
    "element_types": None,
    "data_mean": 0.0,
    "data_std": 1.0,
    "element_refs": None,
    "calc_repuls": False,
    "zbl_trainable": False,
}


def _build(config: dict[str, Any]) -> Potential:
    from ase_nnp_matgl.model import MatglPotential

    return MatglPotential(config)


def _knows(words: frozenset[str]) -> bool:
    # A model is a folder, or the JSON file in it, which has no pickled words.
    return not words


def _load(path: Path, **options: Any) -> Potential:
    from ase_nnp_matgl.folder import load

    return load(path, FAMILY, **options)


def _locate(name: str) -> Path:
    from ase_nnp_matgl.folder import locate

    return locate(name)


FAMILY = ModelFamily(
    name="matgl",
    summary="matgl's potentials (M3GNet, CHGNet, TensorNet, SO3Net, QET) from its model folders",
    build=_build,
    load=_load,
    knows=_knows,
    locate=_locate,
    defaults=DEFAULTS,
    cite="https://doi.org/10.1038/s41524-025-01742-y",
    license="MIT (this plugin); BSD-3-Clause (matgl)",
    weights_license="see the model card of each folder",
    outputs=("energy", "forces", "stress"),
    requires=("matgl",),
    install='pip install "ase_nnp[matgl]"',
    bibtex=BIBTEX,
    cutoff=5.0,
    functional="that of the model folder",
    training_data="that of the model folder",
    test_config={
        "element_types": ["H", "C", "O", "Cu"],
        "hyperparameters": {"units": 8, "nblocks": 1, "num_rbf": 8},
    },
    # CHGNet's: 5.5 meV/Angstrom with random weights, in units of 1 meV/Angstrom.
    violations={"forces_end_at_the_cutoff": 10.0, "double_precision_is_double": 6e-8},
    notes="Networks are those of the matgl package; graph, strain and gradients are ours. CHGNet's "
    "forces jump at the cutoff by some meV/Angstrom (forces_end_at_the_cutoff); it also gives "
    "magmoms. SO3Net's coupling coefficients are single precision. QET gives charges and reads the "
    "total charge. M3GNet without use_smooth=True has an energy that jumps at the cutoff. Models "
    "of a property (is_intensive=True) and models that want state features are refused.",
)


@hookimpl
def register_models(register: Any) -> None:
    """Offer matgl's potentials."""
    register(FAMILY)
