"""ZBL beneath a model that was trained with it: repulsion where no training structure was."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, covalent_radii

import ase_nnp
from ase_nnp import predict
from ase_nnp.models.corrections import add_corrections
from ase_nnp.registry.installed import installed

pytest.importorskip("lightning", reason="needs the extra 'train'")

ELEMENTS = ["H", "C", "N", "O", "Ni", "Cu", "Mo", "Rh", "Pd", "Ag", "Ir", "Pt", "Au"]


PAIRS = list(combinations_with_replacement(ELEMENTS, 2))


def labeled(atoms):
    """Springs between all atoms, at rest at the sum of their covalent radii."""
    radii = covalent_radii[atoms.numbers]
    energy, forces = 0.0, np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for j in range(i):
            line = atoms.positions[i] - atoms.positions[j]
            r = np.linalg.norm(line)
            longer = r - radii[i] - radii[j]
            energy += longer**2
            forces[i] -= 2 * longer * line / r
            forces[j] += 2 * longer * line / r
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def structures(count):
    """Clusters of four, and every pair at 0.8 to 1.2 of its bond: what a training set may hold.

    ZBL of H and H ends at 0.47 Angstrom, so at 0.5 it is the training that must know.
    """
    rng, frames = np.random.default_rng(0), []
    for pair in PAIRS:
        r = sum(covalent_radii[atomic_numbers[s]] for s in pair)
        frames += [Atoms(pair, [[0, 0, 0], [part * r, 0, 0]]) for part in (0.8, 1.2)]
    for _ in range(count):
        symbols = rng.choice(ELEMENTS, 4)
        sides = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) * 0.75
        radii = np.array([covalent_radii[atomic_numbers[s]] for s in symbols])
        atoms = Atoms(list(symbols), sides * 2 * radii.mean() + rng.normal(0, 0.1, (4, 3)))
        frames.append(atoms)
    return [labeled(atoms) for atoms in frames]


@pytest.mark.slow
def test_all_pairs_of_a_freshly_trained_model_repel_at_half_an_angstrom(tmp_path):
    from ase_nnp.training import Settings, fit

    if "facet" not in installed().families:
        pytest.skip("needs the family 'facet'")
    config = {
        "species": [atomic_numbers[s] for s in ELEMENTS],
        "hidden_irreps": ["8x0e + 4x1o"],
        "outs_per_node": 8,
        "node_embed": {"embed_dim": 8},
        "edge_embed": {"r_max": 4.0},
        "self_connection": {"polynomial": {"channels": 4}},
    }
    fresh = ase_nnp.build_model("facet", config, seed=0, device="cpu")
    settings = Settings(epochs=10, batch={"structures": 8}, optimizer={"lr": 5e-3}, progress=False)
    under = add_corrections(fresh, ["zbl"])
    model = fit(under, structures(60), settings=settings, folder=tmp_path).model
    assert model.corrections == ("zbl",)

    assert len(PAIRS) == 91
    frames = [Atoms(pair, [[0, 0, 0], [0.5, 0, 0]]) for pair in PAIRS]
    rows = predict(model, frames, ("energy", "forces"))
    attracted = [p for p, row in zip(PAIRS, rows, strict=True) if row["forces"][1, 0] <= 0]
    assert not attracted
    bare = predict(model.base, frames, ("energy", "forces"))
    print(sum(row["forces"][1, 0] <= 0 for row in bare), "of 91 attract without it")
