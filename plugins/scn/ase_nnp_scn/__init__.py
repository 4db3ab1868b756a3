"""SCN, the spherical channel network of the Open Catalyst Project (arXiv:2206.14331)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from ase_nnp import Potential

#: Hyper-parameters under their published names and defaults, then the options of this package.
SCN_DEFAULTS: dict[str, Any] = {
    "cutoff": 8.0,
    "max_num_neighbors": 20,
    "max_num_elements": 90,
    "num_interactions": 8,
    "lmax": 6,
    "mmax": 1,
    "num_resolutions": 2,
    "sphere_channels": 128,
    "sphere_channels_reduce": 128,
    "hidden_channels": 256,
    "num_taps": -1,
    "use_grid": True,
    "num_bands": 1,
    "num_sphere_samples": 128,
    "num_basis_functions": 128,
    "distance_function": "gaussian",
    "basis_width_scalar": 1.0,
    "distance_resolution": 0.02,
    "use_pbc": True,
    "regress_forces": True,
    "normalizer": None,
    "element_references": None,
    "energy_kind": "adsorption",
    "frames": 1,
    "forces": "direct",
    "random_training_frames": False,
}

#: Published keys that do not touch the numbers.
IGNORED = (
    "name",
    "use_pbc_single",
    "otf_graph",
    "direct_forces",
    "show_timing_info",
    "num_atoms",
    "bond_feat_dim",
    "num_targets",
)

BIBTEX = """@inproceedings{scn,
  author = {Zitnick, C. Lawrence and Das, Abhishek and Kolluru, Adeesh and Lan, Janice and
            Shuaibi, Muhammed and Sriram, Anuroop and Ulissi, Zachary and Wood, Brandon},
  title = {Spherical Channels for Modeling Atomic Interactions},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {35},
  year = {2022},
  eprint = {2206.14331},
  archivePrefix = {arXiv}
}

@article{oc20,
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


def _build(config: dict[str, Any]) -> Potential:
    from ase_nnp_scn.model import SCN

    return SCN(config)


def _knows(words: frozenset[str]) -> bool:
    return {"scn", "state_dict", "config"} <= words


def _load(path: Path, **options: Any) -> Potential:
    from ase_nnp_scn.checkpoint import load

    return load(path, FAMILY, **options)


FAMILY = ModelFamily(
    name="scn",
    summary="Spherical channel network: OC20 adsorption energies and direct forces",
    build=_build,
    load=_load,
    knows=_knows,
    defaults=SCN_DEFAULTS,
    ignored=IGNORED,
    config_extras=("normalizer",),
    cite="https://arxiv.org/abs/2206.14331",
    weights_license="not stated separately (OC20 data: CC-BY-4.0, reference code: MIT)",
    bibtex=BIBTEX,
    cutoff=8.0,
    elements=range(1, 90),
    energy_reference="OC20: clean slab and gas-phase N2, H2O, CO, H2; total on request",
    functional="RPBE",
    training_data="OC20 S2EF (published weights)",
    outputs=("energy", "forces"),
    energy_kind="config",
    conservative=None,
    violations={
        "energy_is_invariant_under_rotation": 5e-5,
        "energy_is_that_of_the_mirror_image": 5e-6,
        "forces_rotate_with_the_atoms": 0.8,
        "supercell_equals_primitive": 0.1,
        "cutoff_is_smooth": 1e-3,
        "curvature_at_symmetric_sites": 1.5,
        "acoustic_modes_vanish": 2.0,
        "double_precision_is_double": 6e-8,
    },
    notes="Nonlinear layers act on values at points of a sphere and a grid, so rotations and "
    "mirror images hold only approximately; there is no envelope at the cutoff. Edge "
    "frames are fixed to the cell, so other lattice vectors of the same crystal give another "
    "energy within the noise of the frames. At perfect lattice sites energies and forces jump: "
    "equal distances decide which neighbors the cap keeps (fcc, bcc) and how edges are framed "
    "(diamond, rocksalt); take elastic constants and phonons from another model. Direct forces "
    "are not the gradient of the energy "
    "(forces='gradient' gives that). Offsets of the distance functions are single precision, as in "
    "the published weights.",
    test_config={
        "num_interactions": 2,
        "lmax": 4,
        "sphere_channels": 6,
        "sphere_channels_reduce": 4,
        "hidden_channels": 8,
        "num_sphere_samples": 20,
        "num_basis_functions": 8,
        "distance_resolution": 0.2,
        "cutoff": 5.0,
    },
)


@hookimpl
def register_models(register: Any) -> None:
    """Offer the family."""
    register(FAMILY)
