from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

import ase_nnp

TINY = {
    "hidden_irreps": ["8x0e + 4x1o + 4x2e", "8x0e + 4x1o + 2x2e"],
    "outs_per_node": 8,
    "node_embed": {"embed_dim": 8},
    "edge_embed": {"r_max": 4.5},
    "self_connection": {"polynomial": {"channels": 4}},
}


@pytest.fixture
def tiny():
    """Make a tiny model in double precision; keyword arguments are configuration keys."""

    def make(**options):
        config = {**TINY, **options}
        return ase_nnp.build_model("facet", config, seed=3, device="cpu", dtype="float64")

    return make


@pytest.fixture
def structures() -> list[Atoms]:
    """A crystal, a slab, a molecule, a lonely atom and a pair out of reach, all distorted."""
    crystal = bulk("MgO", "rocksalt", a=4.3, cubic=True)
    slab = fcc111("Al", (2, 2, 2), vacuum=6.0)
    made = [crystal, slab, molecule("CH3CH2OH"), Atoms("Si"), Atoms("H2", [[0, 0, 0], [0, 0, 9]])]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed)
    return made
