"""Small models and structures that several tests use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule

from ase_nnp import build_model

TINY: dict[str, Any] = {
    "generation": 3,
    "hidden_size": 16,
    "num_layers": 2,
    "atten_num_heads": 2,
    "freequency_list": [3, 2, 3],
    "max_radius": 4.5,
    "knn_k": 14,
    "node_direction_expansion_size": 4,
    "atom_embedding_size": 8,
    "node_direction_embedding_size": 4,
    "edge_distance_embedding_size": 16,
    "edge_distance_expansion_size": 32,
}
FIRST: dict[str, Any] = {
    **{k: v for k, v in TINY.items() if k not in ("freequency_list", "knn_k")},
    "generation": 1,
    "max_neighbors": 12,
    "avg_num_nodes": 4.0,
}


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """A generation-3 configuration that runs in milliseconds."""
    return TINY


@pytest.fixture(scope="session")
def make():
    """Build a small float64 model: ``make(direct_forces=False)``, ``make(generation=1)``."""

    def build(**options: Any):
        config = FIRST if options.get("generation") == 1 else TINY
        return build_model("escaip", {**config, **options}, seed=1, device="cpu", dtype="float64")

    return build


@pytest.fixture(scope="session")
def slab() -> Atoms:
    """A copper slab with carbon monoxide, periodic in the plane, atoms off their sites."""
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop", mol_index=1)
    atoms.pbc = (True, True, False)
    rng = np.random.default_rng(0)
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return atoms


@pytest.fixture(scope="session")
def crystal() -> Atoms:
    """A triclinic crystal of four atoms."""
    atoms = bulk("Cu", cubic=True)
    atoms.numbers[:2] = 79
    rng = np.random.default_rng(1)
    atoms.set_cell(atoms.cell.array + rng.normal(scale=0.2, size=(3, 3)), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.1, size=(4, 3))
    return atoms
