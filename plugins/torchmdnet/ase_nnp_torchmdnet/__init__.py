"""TensorNet of TorchMD-Net: Cartesian tensors, total charge, and the package's checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ase_nnp import Correction, ModelFamily, hookimpl
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from ase_nnp import Potential

    from .model import TensorNet

__all__ = ["FAMILY", "register_corrections", "register_models"]

NOTES = """\
Reads checkpoints (.ckpt) of torchmd-net 2 and 3 with model "tensornet" or "tensornet2", without
running code in them. Their files say no unit unless a prior does: energies are taken as eV and
lengths as Angstrom unless load_model gets unit="kcal/mol" or another name of ase.units. The total
charge comes from atoms.info["charge"] (O(3) models use it in every layer, SO(3) models at the
layers' ends; TensorNet2 through charges that it predicts).
Priors (ZBL, D2, Coulomb, Atomref) become corrections and energies of free atoms. SO(3) checkpoints
of release 3 are taken to be trained with its kernels, whose tensors have the other handedness
(tensors="full" in load_model says otherwise). The cutoff function of the paper has a jump in its
second derivative at the cutoff."""

BIBTEX = """@inproceedings{tensornet,
  author = {Simeon, Guillem and De Fabritiis, Gianni},
  title = {TensorNet: Cartesian Tensor Representations for Efficient Learning of Molecular
           Potentials},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {36},
  year = {2023}
}"""

#: Names and defaults of the package.
DEFAULTS: dict[str, Any] = {
    "embedding_dimension": 128,
    "num_layers": 2,
    "num_rbf": 32,
    "rbf_type": "expnorm",
    "trainable_rbf": False,
    "activation": "silu",
    "cutoff_lower": 0.0,
    "cutoff_upper": 4.5,
    "max_z": 100,
    "equivariance_invariance_group": "O(3)",
    "model": "tensornet",
    #: Of "tensornet2" alone.
    "q_dim": 16,
    "output_model": "Scalar",
    "q_weights": [],
    "coulomb_cutoff": None,
    "output_mlp_num_layers": 0,
    "repulsion": False,
    #: Ours: as torchmd-net held tensors when the model was trained; "full" or "compact".
    "tensors": "full",
}


#: Keys that TensorNet itself does not have.
LATER = (
    *("q_dim", "output_model", "q_weights", "coulomb_cutoff"),
    *("output_mlp_num_layers", "repulsion"),
)


def _build(config: dict[str, Any]) -> TensorNet:
    from .model import TensorNet
    from .tensornet2 import TensorNet2

    options = {k: v for k, v in config.items() if k not in ("model", *LATER)}
    if config["model"] == "tensornet2":
        return TensorNet2(**options, **{k: config[k] for k in LATER})
    if config["model"] != "tensornet":
        raise ConfigError(f"model must be tensornet or tensornet2, not {config['model']!r}.")
    strange = [k for k in LATER if config[k] != DEFAULTS[k]]
    if strange:
        raise ConfigError(f"{', '.join(strange)}: TensorNet has none; model 'tensornet2' has.")
    return TensorNet(**options)


def _knows(words: frozenset[str]) -> bool:
    return {"hyper_parameters", "state_dict", "equivariance_invariance_group"} <= words


def _load(path: Path, **options: Any) -> Potential:
    from .checkpoint import load

    return load(path, FAMILY, **options)


FAMILY = ModelFamily(
    name="torchmdnet",
    build=_build,
    load=_load,
    knows=_knows,
    summary="TensorNet and TensorNet2 of TorchMD-Net: Cartesian tensors, charges",
    cite="https://arxiv.org/abs/2306.06482",
    bibtex=BIBTEX,
    defaults=DEFAULTS,
    outputs=("energy", "forces", "stress", "energies"),
    cutoff=4.5,
    elements=range(1, 100),
    required_inputs=("charge",),
    weights_license="as the checkpoint's authors say",
    functional="none: fresh weights, or as the checkpoint's authors say",
    training_data="none: fresh weights, or as the checkpoint's authors say",
    notes=NOTES,
    test_config={"embedding_dimension": 8, "num_rbf": 8},
)


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Offer the family."""
    register(FAMILY)


def _term(name: str, config: dict[str, Any]) -> Potential:
    from . import terms

    kind: type[Potential] = getattr(terms, name)
    return kind(**config)


NOTES_OF_TERMS = """\
The form in which torchmd-net adds it to its networks; checkpoints that have the prior are read with
this term beneath."""
#: e^2 / (4 pi eps0), eV Angstrom.
COULOMB = 14.399645

CORRECTIONS = (
    Correction(
        name="torchmdnet_zbl",
        summary="ZBL repulsion that half a cosine ends, as torchmd-net's prior",
        build=partial(_term, "ZBL"),
        defaults={"cutoff": 4.0, "strength": COULOMB},
        energy_kinds=("total", "adsorption", "formation"),
        cutoff=4.0,
        cite="https://doi.org/10.1007/978-1-4615-8103-1_3",
        notes=NOTES_OF_TERMS,
    ),
    Correction(
        name="torchmdnet_d2",
        summary="DFT-D2 dispersion up to a distance, as torchmd-net's prior",
        build=partial(_term, "Dispersion"),
        defaults={"cutoff": 15.0, "s6": 1.0},
        violations={"cutoff_is_smooth": 5e-3},
        included_in=("d2", "d3", "d4", "vv10", "nl"),
        cutoff=15.0,
        elements=range(1, 55),
        cite="https://doi.org/10.1002/jcc.20495",
        notes=NOTES_OF_TERMS + " The energy jumps at the cutoff (cutoff_is_smooth).",
    ),
    Correction(
        name="torchmdnet_coulomb",
        summary="charges that do not see each other when close, as torchmd-net's prior",
        build=partial(_term, "Coulomb"),
        defaults={
            "charges": None,
            "lower": 4.0,
            "upper": 8.0,
            "strength": COULOMB,
            "cutoff": None,
        },
        test_config={"charges": {"Cu": 1.0, "O": -3.0, "C": 0.5}, "cutoff": 10.0},
        violations={"cutoff_is_smooth": 5e-4},
        cite="https://arxiv.org/abs/2402.17660",
        notes=NOTES_OF_TERMS
        + " Without a cutoff it counts every pair of a molecule. Energies near 0 make what an atom "
        "feels of charges nearer than the cutoff look like a jump there (cutoff_is_smooth).",
    ),
)


@hookimpl
def register_corrections(register: Callable[[Correction], None]) -> None:
    """Offer the terms that checkpoints may have beneath them, for any model."""
    for correction in CORRECTIONS:
        register(correction)
