"""The parts of the network by themselves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from e3nn import o3

import ase_nnp_facet.blocks as block_module
import ase_nnp_facet.grid as grid_module
import ase_nnp_facet.layer as layer_module
import ase_nnp_facet.moments as moments_module
import ase_nnp_facet.places as places_module
import ase_nnp_facet.products as products_module
from ase_nnp_facet.angular import Harmonics
from ase_nnp_facet.grid import SphereMixer, quadrature
from ase_nnp_facet.irreps import Irreps, paths
from ase_nnp_facet.radial import envelope, make_basis
from ase_nnp_facet.settings import DEFAULTS

GRID = DEFAULTS["self_connection"]["s2_grid"]
RADIAL = DEFAULTS["edge_embed"]["radial_basis"]


def test_harmonics_are_those_of_e3nn():
    vectors = torch.randn(20, 3, dtype=torch.float64)
    wanted = o3.spherical_harmonics(
        list(range(5)), vectors, normalize=True, normalization="component"
    )
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(Harmonics(4).double()(unit), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "options", "degree"),
    [
        ("lebedev", {"degree": 17}, 17),
        ("soft", {"res_beta": 18, "res_alpha": 19}, 17),
        ("gausslegendre", {"res_beta": 9, "res_alpha": 18}, 17),
    ],
)
def test_quadratures_integrate_harmonics(kind, options, degree):
    points, weights = quadrature({**GRID, "quadrature": kind, **options})
    assert weights.sum() == pytest.approx(1.0, abs=1e-13)
    values = Harmonics(degree).double()(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(weights @ values[:, 1:], 0, atol=1e-11)


def test_a_function_survives_the_grid_unchanged():
    irreps = Irreps((6, 4, 4, 2))
    for kind in ("lebedev", "soft", "gausslegendre"):
        mlp = {**DEFAULTS["self_connection"]["mlp"], "num_heads": 1}
        mixer = SphereMixer(irreps, {**GRID, "quadrature": kind}, mlp).double()
        torch.testing.assert_close(
            mixer.from_grid @ mixer.to_grid,
            torch.eye(16, dtype=torch.float64),
            rtol=0,
            atol=1e-13,
        )


def test_spline_functions_are_cubic_pieces_that_add_to_a_constant():
    basis = make_basis({**RADIAL, "kind": "spline", "num_basis": 9}).double()
    cutoff = torch.tensor([6.0], dtype=torch.float64)
    d = torch.linspace(0.01, 5.99, 500, dtype=torch.float64)[:, None]
    values = basis(d, cutoff)
    torch.testing.assert_close(values.sum(1), torch.full((500,), 1.5, dtype=torch.float64))
    inside = torch.tensor([[2.1], [2.3], [2.5], [2.7], [2.9]], dtype=torch.float64)
    fourth = np.diff(basis(inside, cutoff).numpy(), n=4, axis=0)  # between two knots
    np.testing.assert_allclose(fourth, 0, atol=1e-13)


@pytest.mark.parametrize("kind", ["smooth", "exp", "xplor", "polynomial"])
def test_envelopes_go_from_one_to_zero(kind):
    cutoff = torch.tensor([5.0], dtype=torch.float64)
    d = torch.linspace(0.0, 6.0, 601, dtype=torch.float64)
    values = envelope(d, cutoff, kind, 0.8)
    assert values[0] == pytest.approx(1.0, abs=1e-12)
    assert torch.all(values[500:].abs() < 1e-12)
    assert torch.all(values.diff() <= 1e-12)


def test_o3_keeps_the_products_that_inversion_allows():
    irreps = Irreps((4, 2, 1))
    both = paths(irreps, 2, irreps, "SO(3)")
    kept = paths(irreps, 2, irreps, "O(3)")
    assert len(both) == 15
    assert [p for p in both if (p.l1 + p.l2 + p.l3) % 2 == 0] == kept


@pytest.mark.parametrize("irreps", [["8x0e + 4x1o + 4x2e"] * 2, ["8x0e + 2x1e + 4x2e + 2x3e"]])
def test_all_orders_of_summation_agree(tiny, structures, irreps):
    results = []
    for summation in ("moments", "messages", "paths"):
        model = tiny(hidden_irreps=irreps, interaction={"message": {"max_ell": 3}})
        model.summation = summation  # no configuration says "paths", which is for a trace
        results.append(model(model.make_graph(structures)))
    for key in ("energy", "forces", "stress"):
        for other in results[1:]:
            torch.testing.assert_close(results[0][key], other[key], rtol=1e-10, atol=1e-12)
    assert results[0]["forces"].abs().max() > 1e-2


def test_small_blocks_change_nothing(tiny, structures, monkeypatch):
    model = tiny()
    graph = model.make_graph(structures)
    whole = model(graph)
    monkeypatch.setattr(block_module, "ATOMS", 3)
    monkeypatch.setattr(places_module, "ATOMS", 3)
    monkeypatch.setattr(moments_module, "HELD", 0)
    monkeypatch.setattr(products_module, "VALUES", 0)
    torch.testing.assert_close(model(graph)["forces"], whole["forces"], rtol=1e-10, atol=1e-12)


MIXERS = [
    {"kind": "s2-polynomial"},
    {"kind": "s2-polynomial", "polynomial": {"order": 1, "channels": 4}},
    {"kind": "s2-mlp-mixer"},
    {"kind": "gate"},
    {"kind": "linear"},
]


@pytest.mark.parametrize("own", MIXERS, ids=lambda own: own["kind"])
@pytest.mark.parametrize("norm", ["identity", "layer"])
def test_an_evaluation_has_the_numbers_of_the_differentiable_network(tiny, structures, own, norm):
    linear = {"linear_intro": norm == "layer", "message": {"max_ell": 3}}
    model = tiny(self_connection=own, norm=norm, norm_eps=1e-2, interaction=linear).freeze()
    graph = model.make_graph(structures)
    fast = model(graph)
    model.differentiable = True
    slow = model(graph)
    for key in ("energy", "energies", "forces", "stress"):
        torch.testing.assert_close(fast[key], slow[key].detach(), rtol=1e-10, atol=1e-12)
    assert fast["forces"].abs().max() > 1e-3


def test_weights_that_change_by_any_door_are_seen(tiny, structures):
    model = tiny().freeze()
    graph = model.make_graph(structures)
    model(graph)
    model.layers[1].conv.radial.kernels[0].data.mul_(1.5)
    fast = model(graph)
    model.differentiable = True
    torch.testing.assert_close(fast["forces"], model(graph)["forces"].detach())


def test_a_second_derivative_of_an_evaluation_is_refused(tiny, structures):
    model = tiny().freeze()
    graph = model.make_graph(structures[2])
    positions = graph.positions.requires_grad_()
    energy = model.energies_once(graph.replace(positions=positions))["energy"].sum()
    (slope,) = torch.autograd.grad(energy, positions, create_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        torch.autograd.grad(slope.sum(), positions)


def test_values_made_again_in_the_backward_pass_are_the_same(tiny, structures, monkeypatch):
    model = tiny(self_connection={"kind": "s2-mlp-mixer"})
    graph = model.make_graph(structures)
    kept = model(graph)
    monkeypatch.setattr(layer_module, "RECOMPUTE_ABOVE", 0)
    monkeypatch.setattr(grid_module, "BLOCK", 2000)
    again = model(graph)
    for key in ("energy", "forces", "stress"):
        torch.testing.assert_close(again[key], kept[key], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("summation", "kind"), [("moments", "s2-polynomial"), ("messages", "s2-mlp-mixer")]
)
def test_gradients_of_a_force_loss_reach_every_parameter_and_are_right(
    tiny, structures, summation, kind
):
    edge = {"r_max": 4.6, "r_max_trainable": True}
    model = tiny(
        summation=summation,
        edge_embed=edge,
        self_connection={"kind": kind, "polynomial": {"channels": 4}},
    )
    model.train()
    batch = model.make_graph([structures[2], structures[4]])

    def loss(one):
        out = one(batch)
        return out["forces"].square().mean() + out["energy"].square().sum() * 1e-3

    value = loss(model)
    value.backward()
    step = 1e-5
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        largest = parameter.grad.abs().argmax()
        assert parameter.grad.flatten()[largest] != 0, name
        ends = []
        for sign in (1, -1):
            other = copy.deepcopy(model)
            with torch.no_grad():
                dict(other.named_parameters())[name].view(-1)[largest] += sign * step
            ends.append(loss(other).item())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(parameter.grad.flatten()[largest].item(), rel=1e-4), name
