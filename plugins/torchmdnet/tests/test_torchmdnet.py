"""Conformance, symmetry of the two groups, and the algebra of the nine components."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.testing import conformance
from ase_nnp.testing.suite import CHECKS, make_subject, run_check
from ase_nnp_torchmdnet.tensors import basis, products_of_unit_vectors

test_conformance = pytest.mark.slow(
    conformance("torchmdnet")
)  # fast in tests/testing, for every family
SUBJECTS: list = []
TWO = {"model": "tensornet2", "q_dim": 3, "repulsion": True, "embedding_dimension": 8, "num_rbf": 8}
COULOMB = {"output_model": "ScalarPlusWeightedCoulomb", "q_weights": [1.0, 1.0, 1.0]}
# What is missing of the charge is shared by all atoms of a structure, near or far, and 1e-6 is
# added to what it is divided by, once a structure of whatever size. Charges at a distance push
# with 0.02 meV/Angstrom less when an atom leaves the cutoff of the network.
SHARED = {
    "energy_is_extensive": 5e-3,
    "supercell_equals_primitive": 5e-5,
    "mixed_pbc": 5e-5,
    "forces_end_at_the_cutoff": 0.03,
}


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_conformance_of_tensornet2(check):
    if not SUBJECTS:
        family = replace(ase_nnp.list_models()["torchmdnet"], violations=SHARED)
        SUBJECTS.append(make_subject(family, **TWO, **COULOMB, coulomb_cutoff=7.0))
    outcome = run_check(check, SUBJECTS[0])
    assert outcome.ok, outcome.message


def small(**config):
    config = {"embedding_dimension": 8, "num_rbf": 8, **config}
    return ase_nnp.build_model("torchmdnet", config, seed=1, device="cpu", dtype="float64")


def energy(model, atoms):
    return ase_nnp.predict(model, [atoms], ("energy",), progress=False)[0]["energy"]


def test_nine_matrices_are_orthogonal_and_span_all():
    matrices = basis().reshape(9, 9)
    products = matrices @ matrices.T
    assert torch.equal(products, torch.diag(products.diagonal()))
    assert torch.linalg.matrix_rank(matrices) == 9


def test_components_of_a_unit_vector_make_its_matrices():
    unit = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64))
    components = products_of_unit_vectors(unit, basis())
    scalar, vector, tensor = (
        torch.einsum("ek,kab->eab", components[:, part], basis()[part])
        for part in (slice(0, 1), slice(1, 4), slice(4, 9))
    )
    assert torch.allclose(scalar, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    other = torch.randn(5, 3, dtype=torch.float64)
    cross = torch.linalg.cross(unit, other)
    assert torch.allclose(torch.einsum("eab,eb->ea", vector, other), cross)
    outer = unit[:, :, None] * unit[:, None, :] - torch.eye(3, dtype=torch.float64) / 3
    assert torch.allclose(tensor, outer)


@pytest.mark.parametrize(("group", "same"), [("O(3)", True), ("SO(3)", False)])
def test_one_group_tells_mirror_images_apart_and_the_other_does_not(group, same):
    model = small(equivariance_invariance_group=group)
    atoms = Atoms("CHFClO", [[0, 0, 0], [1.1, 0, 0], [-0.4, 1.3, 0], [-0.5, -0.8, 1.5], [0, 1, -1]])
    mirror = atoms.copy()
    mirror.positions[:, 0] *= -1
    difference = abs(energy(model, atoms) - energy(model, mirror))
    assert (difference < 1e-12) == same


def test_the_charge_is_that_of_the_structure():
    model = small()
    atoms, twin = molecule("CH3OH"), molecule("CH3OH")
    twin.info["charge"] = 1
    neutral, charged = (energy(model, a) for a in (atoms, twin))
    assert abs(neutral - charged) > 1e-6
    together = ase_nnp.predict(model, [twin, atoms], ("energy",), progress=False)
    assert [r["energy"] for r in together] == pytest.approx([charged, neutral], abs=1e-12)


@pytest.mark.parametrize(
    "config",
    [
        {"activation": "relu"},
        {"rbf_type": "bessel"},
        {"equivariance_invariance_group": "SE(3)"},
        {"cutoff_lower": 5.0},
        {"embedding_dimension": 0},
        {"max_z": 0},
    ],
)
def test_what_is_no_tensornet_is_refused(config):
    with pytest.raises(ConfigError):
        small(**config)


@pytest.mark.slow
def test_it_learns_a_charged_and_a_neutral_form(tmp_path):
    """Without the charge both forms of a structure would have one energy."""
    from ase.calculators.singlepoint import SinglePointCalculator

    from ase_nnp.training import Settings, fit

    rng = np.random.default_rng(0)
    frames = []
    for number in range(40):
        atoms = molecule("H2O")
        # Nearly one geometry: what tells the two energies apart is the charge.
        atoms.rattle(0.002, rng=rng)
        atoms.info["charge"] = 2 * (number % 2)
        atoms.calc = SinglePointCalculator(atoms, energy=float(number % 2))
        frames.append(atoms)
    settings = Settings(
        # A fresh model hardly feels the charge, which enters as a factor of 1 + q / 10: it leaves
        # that plateau with small steps at a rate that does not fall.
        epochs=150,
        schedule={"kind": "constant"},
        batch={"structures": 8},
        losses={"energy": {"kind": "mse"}, "forces": None},
        optimizer={"lr": 1e-3},
        progress=False,
    )
    fresh = ase_nnp.build_model("torchmdnet", {"embedding_dimension": 16}, seed=0, device="cpu")
    result = fit(fresh, frames[:32], frames[32:], settings, folder=tmp_path)
    got = [energy(result.model, a) for a in frames[32:]]
    wanted = [a.get_potential_energy() for a in frames[32:]]
    assert np.abs(np.subtract(got, wanted)).mean() < 0.1
