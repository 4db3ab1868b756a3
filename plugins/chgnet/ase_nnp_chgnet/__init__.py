"""CHGNet, the charge-informed universal potential of Deng et al., through ``chgnet``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, Pretrained, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from ase_nnp import Potential

__all__ = ["FAMILY", "register_models"]

#: Hyper-parameters under the names and with the defaults of the package.
DEFAULTS: dict[str, Any] = {
    "atom_fea_dim": 64,
    "bond_fea_dim": 64,
    "angle_fea_dim": 64,
    "composition_model": "MPtrj",
    "num_radial": 31,
    "num_angular": 31,
    "n_conv": 4,
    "atom_conv_hidden_dim": 64,
    "update_bond": True,
    "bond_conv_hidden_dim": 64,
    "update_angle": True,
    "angle_layer_hidden_dim": 0,
    "conv_dropout": 0,
    "read_out": "ave",
    "mlp_hidden_dims": [64, 64, 64],
    "mlp_dropout": 0,
    "mlp_first": True,
    "is_intensive": True,
    "non_linearity": "silu",
    "atom_graph_cutoff": 6,
    "bond_graph_cutoff": 3,
    "cutoff_coeff": 8,
    "learnable_rbf": True,
    "gMLP_norm": "layer",
    "readout_norm": "layer",
    "conv_norm": None,
    "mlp_out_bias": False,
    "final_mlp": "MLP",
}
#: Keys of published checkpoints that do not touch the numbers; one is a spelling mistake.
IGNORED = ("graph_converter_algorithm", "version", "skip_connection", "cutofff_coeff")

# The elements of MPtrj.
_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga "
    "Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd "
    "Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Ac Th Pa U Np Pu "
)
ELEMENTS = tuple(_SYMBOLS.split())

BIBTEX = """@article{chgnet,
  author = {Deng, Bowen and Zhong, Peichen and Jun, KyuJung and Riebesell, Janosh and Han, Kevin and
            Bartel, Christopher J. and Ceder, Gerbrand},
  title = {CHGNet as a pretrained universal neural network potential for charge-informed atomistic
           modelling},
  journal = {Nature Machine Intelligence},
  volume = {5},
  pages = {1031--1041},
  year = {2023},
  doi = {10.1038/s42256-023-00716-3}
}"""

_MPTRJ = "MPtrj (Materials Project relaxations, 2022.09)"


def _build(config: dict[str, Any]) -> Potential:
    from ase_nnp_chgnet.model import CHGNet

    return CHGNet(config)


def _knows(words: frozenset[str]) -> bool:
    return {"model", "state_dict", "model_args"} <= words


def _load(path: Path, **options: Any) -> Potential:
    from ase_nnp_chgnet.checkpoint import load

    return load(path, FAMILY, **options)


def _offer(
    name: str, summary: str, file: str, sha256: str, functional: str, cutoff: float = 6.0
) -> Pretrained:
    return Pretrained(
        name=name,
        summary=summary,
        source=f"chgnet:pretrained/{file}",
        sha256=sha256,
        size_mb=4.9,
        license="modified BSD (Regents of the University of California)",
        functional=functional,
        training_data=_MPTRJ,
        elements=ELEMENTS,
        cutoff=cutoff,
    )


FAMILY = ModelFamily(
    name="chgnet",
    summary="CHGNet: universal potential with magnetic moments, the weights inside chgnet",
    build=_build,
    load=_load,
    knows=_knows,
    defaults=DEFAULTS,
    ignored=IGNORED,
    cite="https://doi.org/10.1038/s42256-023-00716-3",
    license="MIT (this plugin); modified BSD (chgnet)",
    weights_license="modified BSD (Regents of the University of California)",
    pretrained=(
        _offer(
            "0.3.0",
            "the published model, trained on MPtrj",
            "0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
            "d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
            "PBE, PBE+U, with the Materials Project's corrections",
        ),
        _offer(
            "0.2.0",
            "the model of the preprint, kept for comparison",
            "0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
            "ef624f78b6db9d315b4ef256f1bb3207449924191b91720dc17d3f60c5df980e",
            "PBE, PBE+U, with the Materials Project's corrections",
            cutoff=5.0,
        ),
        _offer(
            "r2scan",
            "0.3.0 trained further on r2SCAN",
            "r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
            "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
            "r2SCAN",
        ),
    ),
    outputs=("energy", "forces", "stress", "energies", "magmoms"),
    requires=("chgnet",),
    install='pip install "ase_nnp[chgnet]"',
    bibtex=BIBTEX,
    cutoff=6.0,
    test_config={
        "atom_fea_dim": 8,
        "bond_fea_dim": 8,
        "angle_fea_dim": 8,
        "atom_conv_hidden_dim": 8,
        "bond_conv_hidden_dim": 8,
        "mlp_hidden_dims": [8],
        "num_radial": 5,
        "num_angular": 5,
        "n_conv": 3,
    },
    violations={"double_precision_is_double": 6e-8},
    notes="Total energies: the network's share of each atom plus the composition model. Layers "
    "and weights are those of the chgnet package; graph, strain and gradients are ours. magmoms "
    "are absolute values in Bohr magnetons. One constant of the package's angular "
    "basis, 1 / sqrt(2), is single precision.",
)


@hookimpl
def register_models(register: Any) -> None:
    """Offer CHGNet."""
    register(FAMILY)
