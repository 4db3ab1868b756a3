"""Muon against its formulas, torch's Adam, and a restart."""

from __future__ import annotations

import copy

import pytest
import torch

from ase_nnp.errors import ConfigError
from ase_nnp.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 40)])
def test_the_step_keeps_the_singular_vectors_and_levels_the_values(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    made = u.T @ orthogonalised(matrix) @ v.T
    values = made.diagonal()
    assert (made - torch.diag(values)).abs().max() < 1e-12
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_zero_stays_zero():
    assert not orthogonalised(torch.zeros(4, 3)).any()


def test_a_matrix_moves_by_its_rate_along_the_signs_of_its_singular_values():
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.zeros(6, 2, dtype=torch.float64))
    gradient = torch.randn(6, 2, dtype=torch.float64)
    optimiser = Muon([weight], lr=0.01, ratio=4.0, momentum=0.5)
    momentum, expected = torch.zeros_like(gradient), torch.zeros_like(gradient)
    for _ in range(3):
        weight.grad = gradient.clone()
        optimiser.step()
        momentum = 0.5 * momentum + gradient
        expected -= 0.04 * 3**0.5 * orthogonalised(gradient + 0.5 * momentum)
    assert torch.allclose(weight, expected, atol=1e-14)


def test_what_is_no_matrix_takes_adamws_steps():
    torch.manual_seed(2)
    own = torch.nn.Parameter(torch.randn(7, dtype=torch.float64))
    theirs = torch.nn.Parameter(own.detach().clone())
    ours = Muon([own], lr=0.02, weight_decay=0.3)
    adam = torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.3)
    for _ in range(5):
        own.grad = torch.randn(7, dtype=torch.float64)
        theirs.grad = own.grad.clone()
        ours.step()
        adam.step()
    assert torch.allclose(own, theirs, atol=1e-14)


def test_a_restart_from_the_state_goes_on_the_same_way():
    torch.manual_seed(3)
    net = torch.nn.Linear(3, 4)
    optimiser = Muon(net.parameters(), lr=0.01)
    x, y = torch.randn(16, 3), torch.randn(16, 4)

    def go(net, optimiser, steps):
        for _ in range(steps):
            optimiser.zero_grad()
            (net(x) - y).square().mean().backward()
            optimiser.step()

    go(net, optimiser, 3)
    twin = copy.deepcopy(net)
    other = Muon(twin.parameters(), lr=0.01)
    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    go(net, optimiser, 3)
    go(twin, other, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"momentum 1\.5"):
        Muon([torch.nn.Parameter(torch.zeros(2, 2))], momentum=1.5)
