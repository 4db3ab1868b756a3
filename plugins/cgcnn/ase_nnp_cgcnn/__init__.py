"""CGCNN, the crystal graph convolutional network: the property model and the OC20 potential."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ase_nnp.registry.family import ModelFamily
from ase_nnp.registry.hookspecs import hookimpl

from .properties import PROPERTIES

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential

__all__ = ["CRYSTAL", "OC20", "register_models"]

CRYSTAL_DEFAULTS = {
    "property": None,
    "task": "regression",
    "orig_atom_fea_len": 92,
    "nbr_fea_len": None,
    "atom_fea_len": 64,
    "n_conv": 3,
    "h_fea_len": 128,
    "n_h": 1,
    "radius": 8.0,
    "max_num_nbr": 12,
    "dmin": 0.0,
    "step": 0.2,
    "normalizer": None,
}
OC20_DEFAULTS = {
    "atom_embedding_size": 64,
    "num_graph_conv_layers": 6,
    "fc_feat_size": 128,
    "num_fc_layers": 4,
    "cutoff": 6.0,
    "num_gaussians": 50,
    "max_neighbors": 50,
    "embeddings": "khot",
    "regress_forces": True,
    "use_pbc": True,
    "pbc": [True, True, False],
    "constructor": None,
    "normalizer": None,
    "long_range": None,  # ours: {"kind": "ewald" | "neural_atoms", ...}
}

#: What both models follow; the second and the third are about the data behind the weights.
XIE_2018 = """@article{cgcnn,
  author = {Xie, Tian and Grossman, Jeffrey C.},
  title = {Crystal Graph Convolutional Neural Networks for an Accurate and Interpretable Prediction
           of Material Properties},
  journal = {Physical Review Letters},
  volume = {120},
  pages = {145301},
  year = {2018},
  doi = {10.1103/PhysRevLett.120.145301}
}"""
MATERIALS_PROJECT = """@article{materials_project,
  author = {Jain, Anubhav and Ong, Shyue Ping and Hautier, Geoffroy and Chen, Wei and
            Richards, William Davidson and Dacek, Stephen and Cholia, Shreyas and Gunter, Dan and
            Skinner, David and Ceder, Gerbrand and Persson, Kristin A.},
  title = {Commentary: The Materials Project: A materials genome approach to accelerating materials
           innovation},
  journal = {APL Materials},
  volume = {1},
  pages = {011002},
  year = {2013},
  doi = {10.1063/1.4812323}
}"""
OC20_DATA = """@article{oc20,
  author = {Chanussot, Lowik and Das, Abhishek and Goyal, Siddharth and Lavril, Thibaut and
            Shuaibi, Muhammed and Riviere, Morgane and Tran, Kevin and Heras-Domingo, Javier and
            Ho, Caleb and Hu, Weihua and Palizhati, Aini and Sriram, Anuroop and Wood, Brandon and
            Yoon, Junwoong and Parikh, Devi and Zitnick, C. Lawrence and Ulissi, Zachary},
  title = {Open Catalyst 2020 (OC20) Dataset and Community Challenges},
  journal = {ACS Catalysis},
  volume = {11},
  pages = {6059--6072},
  year = {2021},
  doi = {10.1021/acscatal.0c04525}
}"""


def _build_crystal(config: dict[str, Any]) -> Potential:
    from .crystal import from_config

    return from_config(config)


def _knows_crystal(words: frozenset[str]) -> bool:
    names = {word.removeprefix("module.") for word in words}
    return {"embedding.weight", "conv_to_fc.weight", "fc_out.weight"} <= names


def _load_crystal(path: Any, **options: Any) -> Potential:
    from .loading import load_crystal

    return load_crystal(path, **options)


def _build_oc20(config: dict[str, Any]) -> Potential:
    from .oc20 import from_config

    return from_config(config)


def _knows_oc20(words: frozenset[str]) -> bool:
    return {"cgcnn", "state_dict", "config"} <= words


def _load_oc20(path: Any, **options: Any) -> Potential:
    from .loading import load_oc20

    return load_oc20(path, **options)


CRYSTAL = ModelFamily(
    name="cgcnn",
    summary="CGCNN 2018: a property of a crystal (gap, formation energy, moduli, ...)",
    build=_build_crystal,
    load=_load_crystal,
    knows=_knows_crystal,
    defaults=CRYSTAL_DEFAULTS,
    ignored=(
        "unit",
        "epoch",
        "best_mae_error",
        "args",
        "class_names",
        "classes",
        "n_parameters",
        "strict_load_of_state_dict_in_current_torch",
    ),
    config_extras=(),
    cite="https://doi.org/10.1103/PhysRevLett.120.145301",
    weights_license="none given for the files; their repository is MIT",
    bibtex=f"{XIE_2018}\n\n{MATERIALS_PROJECT}",
    cutoff=8.0,
    elements=range(1, 101),
    pbc="crystals only: all three lattice vectors repeat",
    functional="PBE and PBE+U, as in the Materials Project",
    training_data="Materials Project (published weights of 2018)",
    outputs=tuple(name for known in PROPERTIES for name in known.outputs),
    energy_kind="config",
    conservative=None,
    test_config={
        "property": "final-energy-per-atom",
        "atom_fea_len": 8,
        "n_conv": 2,
        "h_fea_len": 8,
        "radius": 6.0,
    },
    notes="One model, one property. Takes crystals: a cell is needed, and all three lattice "
    "vectors repeat. No forces. The result jumps where the twelfth neighbor changes.",
)

OC20 = ModelFamily(
    name="cgcnn_oc20",
    summary="CGCNN of OC20: adsorption energies and forces (S2EF), relaxed energies (IS2RE)",
    build=_build_oc20,
    load=_load_oc20,
    knows=_knows_oc20,
    defaults=OC20_DEFAULTS,
    ignored=("name", "otf_graph", "num_atoms", "show_timing_info"),
    config_extras=("constructor", "max_neighbors", "normalizer"),
    cite="https://doi.org/10.1021/acscatal.0c04525",
    weights_license="not with the files; see the Open Catalyst Project",
    bibtex=f"{XIE_2018}\n\n{OC20_DATA}",
    cutoff=6.0,
    elements=range(1, 101),
    pbc="published weights: no images along the third lattice vector",
    energy_reference="clean slab and gas-phase N2, H2O, CO, H2 (OC20)",
    functional="RPBE",
    training_data="OC20 (S2EF or IS2RE)",
    energy_kind="adsorption",
    test_config={
        "atom_embedding_size": 8,
        "num_graph_conv_layers": 2,
        "fc_feat_size": 8,
        "num_fc_layers": 2,
        "num_gaussians": 12,
        "pbc": [True, True, True],
    },
    violations={
        "energy_is_extensive": 0.6,
        "supercell_equals_primitive": 0.97,
        "mixed_pbc": 0.51,
        "cutoff_is_smooth": 0.1,
        "curvature_at_symmetric_sites": 1.5,
        "double_precision_is_double": 6e-8,
    },
    notes="The energy is a mean over atoms, so two slabs have the energy of one (a doubled cell is "
    "off by a factor of 2, one of 27 cells by 27, the forces with it). No envelope: the energy "
    "jumps where a neighbor crosses the cutoff or the fiftieth place (7 % of the energy in the "
    "test model), and in perfect crystals equal distances compete for that place: elastic "
    "constants depend on the step. Published models see no images along the third lattice vector: "
    "give such a cell vacuum, or pbc=. "
    "Centers of the Gaussians are single precision, as in the published weights.",
)


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Register ``cgcnn`` and ``cgcnn_oc20``."""
    register(CRYSTAL)
    register(OC20)
