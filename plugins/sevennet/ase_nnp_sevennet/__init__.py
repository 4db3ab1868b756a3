"""SevenNet, the scalable equivariant potential of Park et al., through the ``sevenn`` package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, Pretrained, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from ase_nnp import Potential

__all__ = ["FAMILY", "register_models"]

#: Hyper-parameters under the names of a SevenNet checkpoint, then the channel of a model that was
#: trained on several functionals.
DEFAULTS: dict[str, Any] = {
    "chemical_species": ["C", "Cu", "H", "O"],
    "cutoff": 4.5,
    "channel": 32,
    "irreps_manual": False,
    "lmax": 1,
    "lmax_edge": -1,
    "lmax_node": -1,
    "is_parity": True,
    "num_convolution_layer": 3,
    "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 8},
    "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6},
    "act_radial": "silu",
    "act_scalar": {"e": "silu", "o": "tanh"},
    "act_gate": {"e": "silu", "o": "tanh"},
    "weight_nn_hidden_neurons": [64, 64],
    "conv_denominator": 35.0,
    "train_denominator": False,
    "train_shift_scale": False,
    "use_bias_in_linear": False,
    "readout_as_fcn": False,
    "readout_fcn_hidden_neurons": [30, 30],
    "readout_fcn_activation": "relu",
    "self_connection_type": "nequip",
    "interaction_type": "nequip",
    "_normalize_sph": True,
    "shift": 0.0,
    "scale": 1.0,
    "use_modality": False,
    "_modal_map": {},
    "use_modal_node_embedding": False,
    "use_modal_self_inter_intro": False,
    "use_modal_self_inter_outro": False,
    "use_modal_output_block": False,
    "use_modal_wise_shift": False,
    "use_modal_wise_scale": False,
    "modal": None,
    "radial_splines": None,  # [splines, intervals] of ase_nnp.models.splines.splinify
}

# The elements of MPtrj.
_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga "
    "Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd "
    "Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Ac Th Pa U Np Pu "
)
ELEMENTS = tuple(_SYMBOLS.split())

BIBTEX = """@article{sevennet,
  author = {Park, Yutack and Kim, Jaesun and Hwang, Seungwoo and Han, Seungwu},
  title = {Scalable Parallel Algorithm for Graph Neural Network Interatomic Potentials in Molecular
           Dynamics Simulations},
  journal = {Journal of Chemical Theory and Computation},
  volume = {20},
  pages = {4857--4868},
  year = {2024},
  doi = {10.1021/acs.jctc.4c00190}
}"""

_MPTRJ = "MPtrj (Materials Project relaxations)"


def _build(config: dict[str, Any]) -> Potential:
    from ase_nnp_sevennet.model import SevenNet

    return SevenNet(config)


def _knows(words: frozenset[str]) -> bool:
    return {"config", "model_state_dict", "_type_map"} <= words


def _load(path: Path, **options: Any) -> Potential:
    from ase_nnp_sevennet.checkpoint import load

    return load(path, FAMILY, **options)


def _offer(
    name: str,
    summary: str,
    file: str,
    size: float,
    sha256: str,
    functional: str = "PBE, PBE+U",
    training_data: str = _MPTRJ,
) -> Pretrained:
    return Pretrained(
        name=name,
        summary=summary,
        source=f"sevenn:pretrained_potentials/{file}",
        size_mb=size,
        sha256=sha256,
        license="MIT",
        functional=functional,
        training_data=training_data,
        elements=ELEMENTS,
        cutoff=5.0,
    )


_0711 = (
    "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    10.3,
    "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
)

FAMILY = ModelFamily(
    name="sevennet",
    summary="SevenNet: equivariant universal potential, the weights inside the sevenn package",
    build=_build,
    load=_load,
    knows=_knows,
    defaults=DEFAULTS,
    cite="https://doi.org/10.1021/acs.jctc.4c00190",
    license="MIT",
    weights_license="MIT",
    pretrained=(
        _offer("7net-0", "SevenNet-0 of 11 July 2024", *_0711),
        _offer("7net-0_11July2024", "the same as 7net-0", *_0711),
        _offer(
            "7net-0_22May2024",
            "the first SevenNet-0",
            "SevenNet_0__22May2024/checkpoint_sevennet_0.pth",
            10.3,
            "5d389fafd512e6ae2830d74d0b66ffc49a55d3832653ff8e7bf7f1343013c1d1",
        ),
        _offer(
            "7net-l3i5",
            "features up to l = 3: more accurate, slower",
            "SevenNet_l3i5/checkpoint_l3i5.pth",
            14.3,
            "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
        ),
        _offer(
            "7net-mf-0",
            "two functionals in one model: modal='PBE' or 'R2SCAN'",
            "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
            10.3,
            "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
            functional="PBE (modal='PBE') or r2SCAN (modal='R2SCAN')",
            training_data="MPtrj and r2SCAN calculations of the Materials Project",
        ),
    ),
    outputs=("energy", "forces", "stress", "energies"),
    requires=("sevenn",),
    install='pip install "ase_nnp[sevennet]"',
    bibtex=BIBTEX,
    cutoff=4.5,
    test_config={
        "channel": 8,
        "num_convolution_layer": 2,
        "weight_nn_hidden_neurons": [16],
        "self_connection_type": "linear",
    },
    notes="Total energies on the scale of the training data (PBE without corrections). Networks "
    "and weights are those of the sevenn package; neighbors, strain and gradients are ours. "
    "energies are the network's shares of the atoms.",
)


@hookimpl
def register_models(register: Any) -> None:
    """Offer SevenNet."""
    register(FAMILY)
