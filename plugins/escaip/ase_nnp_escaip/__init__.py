"""EScAIP (arXiv:2410.24169): attention on neighbors, in its published generations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp import ModelFamily, hookimpl
from ase_nnp_escaip.config import COMMON, GEN1, GEN3, OWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase_nnp.models.potential import Potential

BIBTEX = """@inproceedings{escaip,
  author = {Qu, Eric and Krishnapriyan, Aditi S.},
  title = {The Importance of Being Scalable: Improving the Speed and Accuracy of Neural Network
           Interatomic Potentials Across Chemical Domains},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {37},
  year = {2024},
  eprint = {2410.24169},
  archivePrefix = {arXiv}
}"""


def _build(config: dict[str, Any]) -> Potential:
    from ase_nnp_escaip.build import build  # torch is imported here

    return build(config)


def _knows(words: frozenset[str]) -> bool:
    return any("escaip" in word.lower() for word in words)


def _load(path: str | Path, **options: Any) -> Potential:
    from ase_nnp_escaip.checkpoint import load

    return load(path, **options)


FAMILY = ModelFamily(
    name="escaip",
    summary="EScAIP: attention on neighbors, direct or gradient forces; made to be fast",
    build=_build,
    load=_load,
    knows=_knows,
    defaults={**COMMON, **GEN1, **GEN3, **OWN},
    # Parts of published files that do not change a number.
    ignored=(
        "name",
        "model",
        "dataset_list",
        "batch_size",
        "max_batch_size",
        "max_atoms",
        "max_num_nodes_per_batch",
        "knn_pad_size",
        "use_padding",
        "use_compile",
        "use_export",
        "use_fp16_backbone",
        "enforce_max_neighbors_strictly",
        "otf_graph",
        "use_pbc_single",
    ),
    config_extras=("normalizer", "heads", "generation", "element_references"),
    cite="https://arxiv.org/abs/2410.24169",
    license="MIT",
    weights_license="published weights: see the README; none are shipped",
    bibtex=BIBTEX,
    energy_reference="by the checkpoint: total, or OC20's clean slab and gas-phase molecules",
    functional="that of the checkpoint's data (OC20: RPBE)",
    training_data="that of the checkpoint",
    outputs=("energy", "forces", "stress"),
    energy_kind="config",
    conservative=None,
    violations={
        "forces_rotate_with_the_atoms": 3.0,
        "curvature_at_symmetric_sites": 1.6,
        "acoustic_modes_vanish": 2.0,
        "double_precision_is_double": 6e-8,  # of generation 1
    },
    notes=(
        "Direct forces depend on the axes: with random weights the difference between turned "
        "forces and forces of the turned structure is 0.5 to 2.7 of their size (six seeds). "
        "rotations=3 makes them exactly equivariant at no cost. Energies and gradient forces are "
        "exact. The published graphs make jumps where a neighbor leaves; smooth_graph=True "
        "(generation 3) has none. "
        "Bond orders are norms of sums that vanish at perfect lattice sites, where the energy has "
        "a kink: elastic constants of perfect crystals depend on the step. Direct forces do not "
        "add up to zero. Generation 1 holds the centers of its distances in single precision, as "
        "its published weights do."
    ),
    test_config={
        "generation": 3,
        "hidden_size": 16,
        "num_layers": 2,
        "atten_num_heads": 2,
        "freequency_list": [3, 2, 3],
        "max_radius": 5.0,
        "knn_k": 20,
        "node_direction_expansion_size": 4,
        "atom_embedding_size": 8,
        "node_direction_embedding_size": 4,
        "edge_distance_embedding_size": 16,
        "edge_distance_expansion_size": 32,
    },
)


@hookimpl
def register_models(register: Callable[[ModelFamily], None]) -> None:
    """Register the family."""
    register(FAMILY)
