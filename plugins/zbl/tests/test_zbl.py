"""The closed formula, the switch, and what any potential owes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

import ase_nnp
from ase_nnp.testing import conformance

# Slow here because the core's own tests run the suite over every registered correction.
test_conformance = pytest.mark.slow(conformance("zbl"))

PAIRS = [("H", "H"), ("C", "O"), ("Cu", "Cu"), ("Pt", "H"), ("U", "Xe")]


def by_hand(one, two, r):
    """The formula in plain floats, with the switch."""
    z1, z2 = atomic_numbers[one], atomic_numbers[two]
    a = 0.8854 * units.Bohr / (z1**0.23 + z2**0.23)
    phi = 0.0
    for c, d in ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4029), (0.02817, 0.2016)):
        phi += c * math.exp(-d * r / a)
    t = (r / (covalent_radii[z1] + covalent_radii[z2]) - 0.4) / 0.35
    t = min(max(t, 0.0), 1.0)
    switch = 1 - 10 * t**3 + 15 * t**4 - 6 * t**5
    return units.Hartree * units.Bohr * z1 * z2 / r * phi * switch


@pytest.fixture(scope="module")
def model():
    return ase_nnp.build_model("zbl", dtype="float64", device="cpu")


@pytest.mark.parametrize("part", [0.1, 0.3, 0.45, 0.6, 0.74])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_pair_has_the_energy_of_the_closed_formula(model, pair, part):
    r = part * sum(covalent_radii[atomic_numbers[s]] for s in pair)
    atoms = Atoms(pair, [[0, 0, 0], [0.6 * r, 0, 0.8 * r]])
    predicted = ase_nnp.predict(model, [atoms], ("energy",))[0]["energy"]
    assert predicted == pytest.approx(by_hand(*pair, r), rel=1e-10)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_it_repels_ever_less_and_vanishes_where_bonds_begin(model, pair):
    reach = sum(covalent_radii[atomic_numbers[s]] for s in pair)
    distances = np.linspace(0.05, 0.8, 60) * reach
    frames = [Atoms(pair, [[0, 0, 0], [r, 0, 0]]) for r in distances]
    results = ase_nnp.predict(model, frames, ("energy", "forces"))
    energy = np.array([f["energy"] for f in results])
    inside = distances < 0.74 * reach
    assert (np.diff(energy[inside]) < 0).all()
    assert all(f["forces"][1, 0] > 0 for f, near in zip(results, inside, strict=True) if near)
    assert (energy[distances > 0.75 * reach] == 0).all()


def test_the_second_derivative_is_continuous_at_both_ends_of_the_switch(model):
    x = torch.tensor([0.4, 0.75], dtype=torch.float64)
    for side in (-1e-7, 1e-7):
        at = (x + side).requires_grad_(True)
        first = torch.autograd.grad(model.switch(at).sum(), at, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), at)[0]
        assert first.detach().abs().max() < 1e-5
        assert second.abs().max() < 1e-3


def test_single_precision_agrees_and_a_crystal_at_rest_feels_nothing(model):
    single = ase_nnp.build_model("zbl", dtype="float32", device="cpu")
    squeezed = bulk("Cu", cubic=True, a=2.2)
    both = [ase_nnp.predict(m, [squeezed], ("energy",))[0]["energy"] for m in (model, single)]
    assert both[0] > 1
    assert both[1] == pytest.approx(both[0], rel=1e-5)
    rest = bulk("Cu", cubic=True, a=3.6)
    assert ase_nnp.predict(model, [rest], ("energy",))[0]["energy"] == 0


def test_a_switch_that_ends_before_it_begins_is_refused():
    with pytest.raises(ase_nnp.ConfigError, match="inner"):
        ase_nnp.build_model("zbl", {"inner": 0.8})
