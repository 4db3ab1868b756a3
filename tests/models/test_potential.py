"""The gradient module: one backward, training and evaluation, derivatives of derivatives."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule

from ase_nnp import ConfigError, Conservative, Potential, build_model
from ase_nnp.errors import PredictionError
from ase_nnp.models.atomic_energies import AtomicEnergies


class Learned(Conservative):
    """A pair potential with a weight, to train on forces."""

    cutoff = 4.0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.3, -0.2]))
        self.evaluations = 0

    def energies(self, graph):
        self.evaluations += 1
        r = graph.edge_vectors().norm(dim=-1)
        pair = (self.weight[0] / r + self.weight[1] / r**3) * (1 - (r / 4.0) ** 2) ** 3
        center = graph.batch[graph.edge_index[1]]
        return pair.new_zeros(graph.num_structures).index_add(0, center, pair)


@pytest.fixture
def model():
    return Learned().to(torch.float64)


@pytest.fixture
def graph(model):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    return model.make_graph([atoms, molecule("H2O")])


def test_evaluation_returns_detached_results_from_one_evaluation(model, graph):
    results = model.eval()(graph)
    assert set(results) == {"energy", "forces", "stress"}
    assert not any(v.requires_grad for v in results.values())
    assert model.evaluations == 1
    assert results["stress"].shape == (2, 3, 3)
    assert (results["stress"][1] == 0).all()  # the molecule has no volume


def test_an_energy_alone_takes_no_gradient(model, graph):
    model.eval()
    results = model.compute(graph, ("energy",))
    assert set(results) == {"energy"}
    assert not results["energy"].requires_grad


def test_a_loss_on_forces_reaches_the_weights(model, graph):
    results = model.train()(graph)
    (results["forces"].square().sum() + results["stress"].square().sum()).backward()
    assert (model.weight.grad.abs() > 0).all()


def test_forces_can_be_trained_to_a_target(model, graph):
    target = Learned().to(torch.float64).eval()
    target.weight.data[:] = torch.tensor([0.1, 0.4])
    wanted = target(graph)["forces"]
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (model.train()(graph)["forces"] - wanted).square().mean()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(loss)
    assert torch.allclose(model.weight, target.weight, atol=1e-5)


def test_a_hessian_comes_from_differentiable_evaluation(model):
    model.eval().differentiable = True
    graph = model.make_graph([molecule("H2O")])
    positions = graph.positions.clone().requires_grad_(True)
    forces = model.compute(graph.replace(positions=positions), ("energy", "forces"))["forces"]
    row = -torch.autograd.grad(forces[0, 2], positions)[0]
    step = torch.zeros_like(positions)
    step[1, 1] = 1e-5
    moved = [
        model.compute(graph.replace(positions=graph.positions + s), ("forces",))["forces"][0, 2]
        for s in (step, -step)
    ]
    assert row[1, 1].item() == pytest.approx(-(moved[0] - moved[1]).item() / 2e-5, rel=1e-6)


def test_atoms_that_see_nobody_have_no_forces(model):
    from ase import Atoms

    results = model.eval()(model.make_graph([Atoms("H2", positions=[[0, 0, 0], [9, 0, 0]])]))
    assert (results["forces"] == 0).all()
    assert results["forces"].shape == (2, 3)


def test_freezing_ends_with_training(model):
    model.freeze()
    assert not model.weight.requires_grad
    assert not model.training
    assert model.train().weight.requires_grad


def test_freezing_remembers_what_was_frozen_before(model):
    model.other = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    model.freeze()
    model.freeze().train()
    assert model.weight.requires_grad
    assert not model.other.requires_grad


def test_forces_are_right_under_inference_mode(model, graph):
    wanted = model.eval()(graph)["forces"]
    with torch.inference_mode():
        results = model(graph)["forces"]
        again = model(graph.clone())["forces"]
    torch.testing.assert_close(results, wanted)
    torch.testing.assert_close(again, wanted)


def test_a_model_must_write_forward():
    graph = build_model("lj").make_graph([molecule("H2O")])
    with pytest.raises(NotImplementedError, match="forward"):
        Potential()(graph)


@pytest.mark.parametrize("numbers", [[], [0, 1], [6, 6], [119], [-1]], ids=str)
def test_energies_of_atoms_want_elements_that_there_are(numbers):
    with pytest.raises(ConfigError, match="elements"):
        AtomicEnergies(numbers)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda energy: None,
        lambda energy: 1.0,
        lambda energy: energy[:, None],
        lambda energy: energy.sum(),
        lambda energy: energy.long(),
        lambda energy: {"energies": energy},
    ],
)
def test_energies_of_another_kind_are_refused_with_what_was_wanted(graph, wrong):
    class Wrong(Learned):
        def energies(self, graph):
            return wrong(super().energies(graph))

    with pytest.raises(PredictionError, match=r"energies\(graph\) gave .*wanted: .*\(B,\)"):
        Wrong().to(torch.float64)(graph)
