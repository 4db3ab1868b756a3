"""Conformance, closed forms for two and three atoms, and one length for any number of elements."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.testing import conformance
from ase_nnp_eeacsf.elements import FACTORS, element_factors

test_conformance = pytest.mark.slow(
    conformance("eeacsf")
)  # fast in tests/testing, for every family

SMALL = {"num_radial": 5, "num_angular": 3, "zetas": [1, 2, 4], "hidden": [8, 8], "cutoff": 5.0}


def small(**config):
    return ase_nnp.build_model("eeacsf", {**SMALL, **config}, seed=0, device="cpu", dtype="float64")


def descriptor(model, atoms):
    return model.functions(model.make_graph(atoms)).detach().numpy()


def gaussians(r, last, count):
    centers = np.linspace(0.6, last, count)
    width = centers[1] - centers[0]
    return np.exp(-0.5 * ((r - centers) / width) ** 2) * (1 - (r / 5.0) ** 2) ** 3


def test_two_atoms_have_radial_functions_alone():
    values = descriptor(small(), Atoms("CO", [[0, 0, 0], [0.3, -0.4, 1.1]]))
    r = np.sqrt(0.09 + 0.16 + 1.21)
    factors = element_factors()
    for atom, neighbor in ((0, 8), (1, 6)):
        wanted = np.outer(gaussians(r, 5.0, 5), factors[neighbor]).ravel()
        assert np.allclose(values[atom, : wanted.size], wanted, rtol=0, atol=1e-12)
        assert np.abs(values[atom, wanted.size :]).max() < 1e-12


def test_three_atoms_have_the_angular_functions_of_their_angles():
    atoms = Atoms("OHCl", [[0, 0, 0], [0.9, 0.2, 0.1], [-0.5, 1.4, 0.6]])
    values = descriptor(small(), atoms)
    factors = element_factors()
    for center in range(3):
        one, two = (k for k in range(3) if k != center)
        r = [atoms.get_distance(center, k) for k in (one, two)]
        cosine = np.cos(np.deg2rad(atoms.get_angle(one, center, two)))
        both = gaussians(r[0], 4.0, 3) * gaussians(r[1], 4.0, 3)
        product = factors[atoms.numbers[one]] * factors[atoms.numbers[two]]
        angles = [
            2.0 ** (1 - zeta) * (1 + sign * cosine) ** zeta
            for zeta in (1, 2, 4)
            for sign in (-1, 1)
        ]
        wanted = np.einsum("k,h,q->khq", both, product, angles).ravel()
        got = values[center, 5 * len(FACTORS) :]
        assert np.allclose(got, wanted, rtol=0, atol=1e-12)


def test_sums_over_pairs_are_those_of_a_crystal_counted_one_by_one():
    atoms = bulk("NaCl", "rocksalt", a=4.1)
    atoms.rattle(0.1, seed=1)
    model = small(cutoff=4.0, zetas=[3], lambdas=[1], factors=["m"])
    graph = model.make_graph(atoms)
    vectors = graph.edge_vectors().numpy()
    target = graph.edge_index[1].numpy()
    place = element_factors()[graph.atomic_numbers[graph.edge_index[0]].numpy(), 2]
    centers = np.linspace(0.6, 3.2, 3)
    wanted = np.zeros((2, 3))
    for center in range(2):
        mine = np.flatnonzero(target == center)
        for a, one in enumerate(mine):
            for two in mine[:a]:
                r = np.linalg.norm(vectors[[one, two]], axis=1)
                cosine = vectors[one] @ vectors[two] / r.prod()
                both = np.exp(-0.5 * ((r[:, None] - centers) / 1.3) ** 2).prod(0)
                both *= ((1 - (r / 4.0) ** 2) ** 3).prod()
                wanted[center] += place[one] * place[two] * (1 + cosine) ** 3 / 4 * both
    assert np.allclose(descriptor(model, atoms)[:, 5:], wanted, rtol=1e-10)


def test_the_length_does_not_depend_on_the_number_of_elements():
    model = small()
    one = bulk("Cu", cubic=True) * (3, 3, 3)
    many = one.copy()
    many.numbers = np.arange(1, 109)
    assert descriptor(model, one).shape == descriptor(model, many).shape == (108, 7 * (5 + 18))
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == (7 * 23 + 7 + 1) * 8 + 9 * 8 + 9


def test_no_two_elements_have_the_same_factors():
    table = element_factors()[1:]
    assert len(np.unique(table, axis=0)) == 118
    assert table.min() >= 0
    assert table.max() <= 1


@pytest.mark.parametrize(
    ("symbol", "places"),
    [
        ("H", (1, 1, 0, 0)),
        ("He", (1, 8, 0, 0)),
        ("C", (2, 4, 0, 0)),
        ("Mg", (3, 2, 0, 0)),
        ("Fe", (4, 2, 6, 0)),
        ("Br", (4, 7, 0, 0)),
        ("Eu", (6, 2, 0, 7)),
        ("Pt", (6, 2, 8, 0)),
        ("Tl", (6, 3, 0, 0)),
        ("U", (7, 2, 0, 4)),
        ("Og", (7, 8, 0, 0)),
    ],
)
def test_places_are_those_of_the_periodic_table(symbol, places):
    row = element_factors()[chemical_symbols.index(symbol)]
    n, m, d, f = places
    assert row == pytest.approx([1, n / 7, m / 8, (8 - n) / 7, (9 - m) / 8, d / 10, f / 14])


def test_the_first_batch_of_a_training_scales_the_descriptors_and_no_other_does():
    model = small()
    graph = model.make_graph([bulk("Cu", cubic=True), bulk("NaCl", "rocksalt", a=5.6)])
    model.eval().atom_energies(graph)
    assert not model.scaled
    model.train().atom_energies(graph)
    first = model.mean.clone()
    assert torch.allclose(first, model.functions(graph).mean(0))
    model.atom_energies(model.make_graph([bulk("Al", cubic=True)]))
    assert torch.equal(first, model.mean)


@pytest.mark.parametrize(
    "config",
    [
        {"factors": ["1", "z"]},
        {"factors": []},
        {"zetas": [0]},
        {"zetas": [1.5]},
        {"lambdas": [2]},
        {"hidden": []},
        {"cutoff": -1.0},
        {"num_angular": 1},
    ],
)
def test_what_is_no_descriptor_is_refused(config):
    with pytest.raises(ConfigError):
        small(**config)
