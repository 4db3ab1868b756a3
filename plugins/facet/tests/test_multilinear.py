"""Sums over neighbors for training: every derivative, against finite differences."""

from __future__ import annotations

import pytest
import torch

import ase_nnp_facet.places as places_module
from ase_nnp_facet.model import Facet
from ase_nnp_facet.multilinear import Layout, neighbor_sum
from ase_nnp_facet.places import sort_edges


@pytest.fixture
def case(monkeypatch):
    """Five atoms in blocks of two, one of them without neighbors."""
    monkeypatch.setattr(places_module, "ATOMS", 2)
    source = torch.tensor([1, 2, 0, 3, 1, 0, 2, 2, 3])
    target = torch.tensor([0, 0, 1, 1, 2, 3, 3, 1, 0])
    places = sort_edges(source, target, 5, torch.float64)
    layout = Layout(places.source, places.slices)
    torch.manual_seed(0)
    shapes = ((5, 6), (9, 4), (3, 2, 3, 4))
    # Small numbers: the third derivative is judged by finite differences of high powers of them.
    inputs = [(0.3 * torch.randn(s, dtype=torch.float64)).requires_grad_() for s in shapes]

    def total(x, g, w):
        return neighbor_sum(x, g[places.edge] * places.mask, w, layout)

    return places, (source, target), total, inputs


def test_the_sum_is_the_sum_over_edges(case):
    places, (source, target), total, (x, g, w) = case
    rows = x.detach() if places.order is None else x.detach()[torch.argsort(places.order)]
    messages = torch.einsum("eiu,ej,iuqj->euq", rows[source].unflatten(1, (3, 2)), g, w)
    wanted = torch.zeros(5, 2, 3, dtype=torch.float64).index_add(0, target, messages)
    if places.order is not None:
        wanted = wanted[places.order]
    torch.testing.assert_close(total(x, g, w), wanted.permute(1, 2, 0))


@pytest.mark.slow
def test_first_second_and_third_derivatives_are_right(case):
    _, _, total, (x, g, w) = case
    assert torch.autograd.gradcheck(total, (x, g, w))
    assert torch.autograd.gradgradcheck(total, (x, g, w))

    def slopes(x, g):
        energy = total(x, g, w).square().sum()
        dx, dg = torch.autograd.grad(energy, (x, g), create_graph=True)
        return dx.square().sum() + dg.pow(3).sum()

    assert torch.autograd.gradgradcheck(slopes, (x, g))


def test_a_training_step_has_the_gradients_of_plain_autograd(tiny, structures, monkeypatch):
    model = tiny().train()
    batch = model.make_graph([structures[0], structures[1], structures[3]])

    def step():
        model.zero_grad()
        output = model(batch)
        (output["forces"].square().mean() + output["stress"].square().sum()).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    ours = step()
    monkeypatch.setattr(Facet, "_written", lambda self, graph: False)
    plain = step()
    assert ours.keys() == plain.keys()
    assert max(gradient.abs().max() for gradient in plain.values()) > 1e-4
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("train", [False, True])
def test_under_autocast_the_plain_network_answers(tiny, structures, monkeypatch, train):
    model = tiny().float().train(train)
    batch = model.make_graph(structures[:2])

    def low():
        with torch.autocast("cpu", torch.bfloat16):
            return model(batch)["forces"].detach()

    ours = low()
    monkeypatch.setattr(Facet, "_written", lambda self, graph: False)
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours, low())
