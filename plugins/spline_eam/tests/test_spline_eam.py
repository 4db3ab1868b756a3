"""Conformance, closed forms, and how fast splines come near the functions they stand for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.testing import conformance
from ase_nnp_spline_eam.splines import coefficients, evaluate

test_conformance = pytest.mark.slow(
    conformance("spline_eam")
)  # fast in tests/testing, for every family


def small(**config):
    return ase_nnp.build_model("spline_eam", config, seed=0, device="cpu", dtype="float64")


def spline_of(function, count, x):
    table = torch.as_tensor(coefficients(function(np.linspace(0, 1, count))))[None]
    row = torch.zeros(len(x), dtype=torch.int64)
    return evaluate(table, row, torch.as_tensor(x) * (count - 1)).numpy()


def test_the_error_of_a_spline_falls_with_the_fourth_power_of_the_distance_of_its_points():
    def function(x):
        return np.exp(-2 * x) * np.sin(5 * x)

    x = np.linspace(0, 1, 3001)
    errors = [np.abs(spline_of(function, n, x) - function(x)).max() for n in (41, 81, 161)]
    assert errors[0] < 1e-4
    for coarse, fine in pairwise(errors):
        assert 12 < coarse / fine < 20


def test_a_cubic_is_its_own_spline_between_and_beyond_the_points():
    def cubic(x):
        return 1 - 2 * x + 3 * x**2 - 0.7 * x**3

    x = np.linspace(-0.2, 1.3, 50)
    assert np.allclose(spline_of(cubic, 6, x), cubic(x), rtol=0, atol=1e-12)


def sutton_chen(r, epsilon=0.0124, a=3.61, n=9, m=6, c=39.4):
    """Pair energy and density of Sutton and Chen's copper; F = -epsilon c sqrt(rho)."""
    return epsilon * (a / r) ** n, (a / r) ** m, epsilon * c


def test_tables_of_sutton_chen_give_its_energy_of_three_atoms():
    count, cutoff = 4001, 6.0
    model = small(
        elements=["Cu"], cutoff=cutoff, num_r=count, num_rho=count, rho_max=40.0, smooth=False
    )
    r = np.linspace(0, cutoff, count)
    r[:1000] = r[1000]  # a table is finite where no atoms are
    pair, density, depth = sutton_chen(r)
    rho = np.linspace(0, 40.0, count)
    model.set_tables(pair[None], density[None], -depth * np.sqrt(rho)[None])

    atoms = Atoms("Cu3", [[0, 0, 0], [2.4, 0, 0], [0.3, 2.7, 0.2]])
    distances = atoms.get_all_distances()
    pairs, densities, depth = sutton_chen(distances[np.triu_indices(3, 1)])
    sums = np.zeros(3)
    for (i, j), value in zip(zip(*np.triu_indices(3, 1), strict=True), densities, strict=True):
        sums[[i, j]] += value
    wanted = pairs.sum() - depth * np.sqrt(sums).sum()
    got = ase_nnp.predict(model, [atoms], ("energy",), progress=False)[0]["energy"]
    assert got == pytest.approx(wanted, rel=1e-9)


def test_beyond_its_table_the_embedding_is_a_straight_line():
    model = small(elements=["Cu"], num_rho=6, rho_max=2.0)
    x = torch.tensor([-2.0, -1.0, 0.0, 2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
    y = model.embed(x, torch.zeros(6, dtype=torch.int64))
    (slope,) = torch.autograd.grad(y.sum(), x)
    y, slope = y.detach(), slope.detach()
    assert y[1] - y[0] == pytest.approx(float(y[2] - y[1]))
    assert y[5] - y[4] == pytest.approx(float(y[4] - y[3]))
    inside = torch.tensor([1e-9, 2.0 - 1e-9], dtype=torch.float64, requires_grad=True)
    (near,) = torch.autograd.grad(model.embed(inside, torch.zeros(2).long()).sum(), inside)
    assert torch.allclose(near[0], slope[:2], atol=1e-6)
    assert torch.allclose(near[1], slope[4:], atol=1e-6)


def test_densities_of_pairs_are_those_of_the_neighbor_at_the_center():
    model = small(elements=["Cu", "Ag"], kind="fs")
    graph = model.make_graph(Atoms("CuAg", [[0, 0, 0], [2.5, 0, 0]]))
    before = model.energies(graph)["energies"].detach()
    with torch.no_grad():
        model.density[1 * 2 + 0] += 0.3  # of silver at a copper atom
    after = model.energies(graph)["energies"].detach()
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize(
    "config",
    [
        {"elements": []},
        {"elements": ["Cu", "Cu"]},
        {"elements": ["Qq"]},
        {"kind": "meam"},
        {"num_r": 3},
        {"rho_max": 0.0},
    ],
)
def test_what_is_no_potential_is_refused(config):
    with pytest.raises(ConfigError):
        small(**config)


@pytest.mark.slow
def test_it_learns_copper_with_silver_from_emt(tmp_path):
    from ase_nnp.training import Settings, fit

    rng = np.random.default_rng(3)
    frames = []
    for _ in range(60):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.numbers[rng.choice(32, 6, replace=False)] = 47
        atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.05), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)

    settings = Settings(
        epochs=60,
        batch={"structures": 5},
        optimizer={"name": "adamw", "lr": 1e-2},
        progress=False,
    )
    fresh = ase_nnp.build_model("spline_eam", {"elements": ["Cu", "Ag"]}, seed=0, device="cpu")
    result = fit(fresh, frames[:50], frames[50:], settings, folder=tmp_path)
    forces = [a.get_forces() for a in frames[50:]]
    got = ase_nnp.predict(result.model, frames[50:], ("forces",), progress=False)
    error = np.mean([np.abs(g["forces"] - f).mean() for g, f in zip(got, forces, strict=True)])
    # EMT is of this form but for its neighbors' screening; without learning the error is the size
    # of the forces.
    assert error < 0.05 * np.mean([np.abs(f).mean() for f in forces])
