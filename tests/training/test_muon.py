"""Muon for the matrices and AdamW for the rest, as training uses them."""

from __future__ import annotations

import pytest
import torch

from ase_nnp.training import Settings, fit
from ase_nnp.training.optimizers import muon_with_adamw


def test_a_matrix_moves_along_the_signs_of_its_singular_values_and_the_rest_as_adam_does():
    torch.manual_seed(1)
    matrix = torch.nn.Parameter(torch.zeros(6, 2, dtype=torch.float64))
    vector = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizers = muon_with_adamw([matrix, vector], lr=0.01)
    assert [type(o).__name__ for o in optimizers] == ["Muon", "AdamW"]
    matrix.grad, vector.grad = torch.randn_like(matrix), torch.randn_like(vector)
    for optimizer in optimizers:
        optimizer.step()

    # The step is four times the rate and the root of the aspect ratio long in every singular
    # direction; five Newton-Schulz steps leave values between about 0.7 and 1.2.
    u, _, v = torch.linalg.svd(matrix.grad, full_matrices=False)
    values = -(u.T @ matrix.detach() @ v.T) / (0.04 * 3**0.5)
    assert values.diagonal().min() > 0.6
    assert values.diagonal().max() < 1.25
    assert (values - torch.diag(values.diagonal())).abs().max() < 1e-10
    torch.testing.assert_close(vector.detach(), -0.01 * vector.grad.sign(), rtol=1e-4, atol=0)


SHAPES = [(3, 7), (7, 3), (3, 7), (5, 5), (1, 4), (64, 1)]


def matrices(dtype):
    torch.manual_seed(4)
    made = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    for matrix in made:
        matrix.grad = torch.randn_like(matrix)
    return made


def test_singular_values_follow_the_polynomial_of_newton_and_schulz():
    one = matrices(torch.float64)
    before = [m.detach().clone() for m in one]
    (optimizer,) = muon_with_adamw(one, lr=0.01, weight_decay=0.5)
    optimizer.step()
    for old, new in zip(before, one, strict=True):
        # The first mean is 0.05 of the gradient, and Nesterov's look ahead 0.05 + 0.95 * 0.05.
        u, s, v = torch.linalg.svd(new.grad, full_matrices=False)
        s = s / s.norm()
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        step = 0.04 * max(1.0, old.shape[0] / old.shape[1]) ** 0.5 * (u * s) @ v
        wanted = old * (1 - 0.01 * 0.5) - step
        torch.testing.assert_close(new.detach(), wanted, rtol=1e-10, atol=1e-12)


def test_it_goes_on_from_the_state_of_torchs_own_and_takes_its_steps():
    ours, theirs = matrices(torch.float32), matrices(torch.float32)
    (one,) = muon_with_adamw(ours, lr=0.01)
    other = torch.optim.Muon(theirs, lr=0.04, weight_decay=0.0)
    other.step()
    for mine, matrix in zip(ours, theirs, strict=True):
        mine.data.copy_(matrix.data)
    one.load_state_dict({**one.state_dict(), "state": other.state_dict()["state"]})
    before = [m.detach().clone() for m in ours]
    for optimizer in (one, other):
        optimizer.step()
    for old, mine, matrix in zip(before, ours, theirs, strict=True):
        # torch computes in bfloat16.
        step, wanted = mine.detach() - old, matrix.detach() - old
        assert float((step - wanted).norm() / wanted.norm()) < 0.03


def test_both_follow_the_rate_of_their_layer_and_shrink_weights_alike():
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,))]
    group = {"params": weights, "factor": 0.1}
    for optimizer in muon_with_adamw([group], lr=0.01, weight_decay=0.5):
        for weight in (w for g in optimizer.param_groups for w in g["params"]):
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
    for weight in weights:
        torch.testing.assert_close(weight.detach(), torch.full_like(weight, 1 - 0.001 * 0.5))


@pytest.mark.parametrize("parts", [["matrix"], ["vector"]])
def test_a_model_of_one_kind_of_weights_needs_one_optimizer(parts):
    weights = {
        "matrix": torch.nn.Parameter(torch.ones(2, 2)),
        "vector": torch.nn.Parameter(torch.ones(2)),
    }
    assert len(muon_with_adamw([weights[p] for p in parts], lr=0.1)) == 1


def test_weights_that_come_alone_are_moved_in_one_group():
    weights = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3)]
    slow = {"params": [torch.nn.Parameter(torch.ones(2, 2))], "factor": 0.1}

    (one,) = muon_with_adamw([*weights[:2], slow, weights[2]], lr=0.1)

    assert sorted(len(g["params"]) for g in one.param_groups) == [1, 3]


def test_a_run_with_muon_goes_on_as_if_never_stopped(frames, pairs, tmp_path):
    options = {
        "batch": {"structures": 4},
        "optimizer": {"name": "muon", "lr": 1e-2},
        "progress": False,
    }
    whole = fit(pairs(), frames(8), None, Settings(**options, epochs=3), folder=tmp_path / "whole")
    cut = {"checkpoint_every": 3, "minutes": 1e-9}
    fit(pairs(), frames(8), None, Settings(**options, epochs=3, **cut), folder=tmp_path / "cut")
    rest = fit(pairs(), frames(8), None, Settings(**options, epochs=3), folder=tmp_path / "cut")
    for name, value in whole.model.state_dict().items():
        other = rest.model.state_dict()[name]
        torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-9)
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]
