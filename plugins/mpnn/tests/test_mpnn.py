"""Conformance, the order of the sums, and that it learns a small set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.testing import conformance
from ase_nnp_mpnn.model import GatedUnit, smooth_step_down

test_conformance = pytest.mark.slow(conformance("mpnn"))  # fast in tests/testing, for every family


def small(**config):
    config = {"hidden": 8, "num_basis": 8, "edge_hidden": 6, **config}
    return ase_nnp.build_model("mpnn", config, seed=0, device="cpu", dtype="float64")


def test_messages_are_matrices_of_the_edge_times_states_of_the_neighbors():
    model = small(steps=1)
    graph = model.make_graph(molecule("CH3OH"))
    source, target = graph.edge_index
    r = graph.edge_vectors().norm(dim=1)
    width = model.cutoff / 7
    states = model.first(model.species[graph.atomic_numbers])
    wanted = torch.zeros_like(states)
    for edge in range(graph.num_edges):
        basis = torch.exp(-0.5 * ((r[edge] - model.centers) / width) ** 2)
        hidden = model.edge_network(basis) * smooth_step_down(r[edge] / model.cutoff)
        # A(e), as a matrix from the neighbor's state to the message.
        matrix = torch.einsum("k,akb->ab", hidden, model.matrices.weight.view(8, 6, 8))
        wanted[target[edge]] += matrix @ states[source[edge]]
    wanted = model.update(states, wanted + model.matrices.bias)
    gate = torch.sigmoid(model.gate(torch.cat([wanted, states], dim=1)))
    energies = (gate * model.value(wanted))[:, 0]
    assert torch.allclose(model.atom_energies(graph), energies, rtol=0, atol=1e-12)


def test_the_gated_unit_is_torchs():
    unit, oracle = GatedUnit(5).double(), torch.nn.GRUCell(5, 5).double()
    with torch.no_grad():
        oracle.weight_ih.copy_(unit.of_message.weight)
        oracle.bias_ih.copy_(unit.of_message.bias)
        oracle.weight_hh.copy_(unit.of_state.weight)
        oracle.bias_hh.copy_(unit.of_state.bias)
    state, message = torch.randn(2, 7, 5, dtype=torch.float64)
    assert torch.allclose(unit(state, message), oracle(message, state), rtol=0, atol=1e-14)


def test_the_step_and_its_derivatives_end_at_the_cutoff():
    x = torch.tensor([1 - 1e-4], dtype=torch.float64, requires_grad=True)
    y = smooth_step_down(x)
    for _ in range(3):
        assert abs(y.detach().item()) < 0.05
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert smooth_step_down(torch.tensor([0.0, 1.0, 1.5])).tolist() == [1.0, 0.0, 0.0]


def test_angles_alone_are_not_seen_in_one_round():
    """The price of distances: stated, so that nobody is surprised."""
    model = small(steps=1, elements=["H", "C"], cutoff=3.0)
    bent, straight = (
        Atoms("HCH", [[np.cos(a), np.sin(a), 0], [0, 0, 0], [1.0, 0, 0]]) for a in (2.2, np.pi)
    )
    one, two = (model.energies(model.make_graph(a))["energy"] for a in (bent, straight))
    wide = small(steps=1, elements=["H", "C"], cutoff=1.5)
    assert not torch.allclose(one, two)  # the hydrogens see each other
    one, two = (wide.energies(wide.make_graph(a))["energy"] for a in (bent, straight))
    assert torch.allclose(one, two, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [{"hidden": 0}, {"steps": 0}, {"num_basis": 1}, {"cutoff": 0}, {"steps": 2_000_000_000}],
)
def test_what_is_no_network_is_refused(config):
    with pytest.raises(ConfigError):
        small(**config)


@pytest.mark.slow
def test_it_learns_a_small_set(tmp_path):
    from ase_nnp.training import Settings, fit

    rng = np.random.default_rng(0)
    frames = []
    for _ in range(60):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.05, rng=rng)
        atoms.calc = LennardJones(sigma=1.2, epsilon=0.3, rc=6.0)
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    settings = Settings(epochs=60, batch={"structures": 5}, optimizer={"lr": 5e-3}, progress=False)
    config = {"elements": ["H", "C", "O"], "hidden": 16, "num_basis": 16}
    fresh = ase_nnp.build_model("mpnn", config, seed=0, device="cpu")
    result = fit(fresh, frames[:50], frames[50:], settings, folder=tmp_path)
    got = ase_nnp.predict(result.model, frames[50:], ("forces",), progress=False)
    wanted = np.array([a.get_forces() for a in frames[50:]])
    error = np.abs(np.array([g["forces"] for g in got]) - wanted).mean()
    assert error < 0.2 * np.abs(wanted).mean()
