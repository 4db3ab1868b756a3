"""TensorNet of TorchMD-Net: Cartesian tensors, total charge, and the package's checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from .model import TensorNet

__all__ = ["FAMILY", "register_models"]

NOTES = """\
Reads checkpoints (.ckpt) of torchmd-net 2 and 3 with model "tensornet", without running code in
them. Their files say no unit: energies are taken as eV and lengths as Angstrom unless load_model
gets unit="kcal/mol" or another name of ase.units. The total charge comes from
atoms.info["charge"] (O(3) models use it in every layer, SO(3) models at the layers' ends).
Atomref is the one prior that is read; ZBL and dispersion are corrections here. SO(3) checkpoints
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
    #: Ours: as torchmd-net held tensors when the model was trained; "full" or "compact".
    "tensors": "full",
}


def _build(config: dict[str, Any]) -> TensorNet:
    from .model import TensorNet

    return TensorNet(**config)


def _knows(words: frozenset[str]) -> bool:
    return {"hyper_parameters", "state_dict", "equivariance_invariance_group"} <= words


def _load(path: Path, **options: Any) -> TensorNet:
    from .checkpoint import load

    return load(path, FAMILY, **options)


FAMILY = ModelFamily(
    name="torchmdnet",
    build=_build,
    load=_load,
    knows=_knows,
    summary="TensorNet of TorchMD-Net: Cartesian tensors, charged molecules",
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
