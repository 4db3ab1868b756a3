"""CoRe against its published equations, written out a weight at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ase_nnp.errors import ConfigError

pytest.importorskip("pydantic", reason="needs the extra 'train'")
from ase_nnp.training.core_optimizer import CoRe


def by_the_equations(w, gradients, lr, decay, history, frozen, steps=(1e-6, 1e-2)):
    """Plain floats, one weight after the other; the order of the lines is the papers'."""
    b1a, b1b, b1c, b2, eps = 0.7375, 0.8125, 250.0, 0.99, 1e-8
    n = len(w)
    w, g, h = list(w), [0.0] * n, [0.0] * n
    s, score = [lr] * n, [0.0] * n
    for t, big in enumerate(gradients, start=1):
        beta = b1b + (b1a - b1b) * math.exp(-(((t - 1) / b1c) ** 2))
        ranked = sorted(range(n), key=lambda k: score[k], reverse=True)
        held = set(ranked[: int(frozen * n)]) if history and t > history else set()
        for k in range(n):
            plastic = 0.0 if k in held else 1.0
            old = g[k]
            g[k] = beta * old + (1 - beta) * big[k]
            h[k] = b2 * h[k] + (1 - b2) * big[k] ** 2
            sign = old * g[k] * plastic
            if sign > 0:
                s[k] = min(1.2 * s[k], steps[1])
            elif sign < 0:
                s[k] = max(0.7375 * s[k], steps[0])
            u = g[k] / (1 - beta**t) / (math.sqrt(h[k] / (1 - b2**t)) + eps)
            if history:
                forget = 1.0 if t <= history else 1 - 1 / history
                score[k] = forget * score[k] + g[k] * u * plastic * s[k] / history
            move = u * plastic * s[k]
            w[k] = (1 - decay * abs(move)) * w[k] - move
    return w


@pytest.mark.parametrize(
    ("decay", "history", "frozen"), [(0.0, 0, 0.0), (0.1, 0, 0.0), (0.1, 5, 0.3)]
)
def test_core_takes_the_published_steps(decay, history, frozen):
    rng = np.random.default_rng(1)
    start = rng.normal(size=10)
    gradients = rng.normal(size=(40, 10)) + 0.3
    expected = by_the_equations(start, gradients.tolist(), 1e-3, decay, history, frozen)
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = CoRe([weight], lr=1e-3, weight_decay=decay, score_history=history, frozen=frozen)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12)


def test_core_finds_the_minimum_of_an_uneven_bowl():
    point = torch.nn.Parameter(torch.tensor([-1.2, 0.5], dtype=torch.float64))
    optimizer = CoRe([point], lr=1e-3, weight_decay=0.0, step_sizes=(1e-8, 1e-2))
    for _ in range(1500):
        optimizer.zero_grad()
        ((point[0] - 1) ** 2 + 100 * (point[1] - 1) ** 2).backward()
        optimizer.step()
    np.testing.assert_allclose(point.detach().numpy(), [1.0, 1.0], atol=1e-3)


def test_a_held_weight_does_not_move():
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    optimizer = CoRe([weight], lr=1e-3, score_history=3, frozen=0.25)
    for _ in range(3):
        weight.grad = torch.tensor([1.0, 0.1, 0.1, 0.1], dtype=torch.float64)
        optimizer.step()
    before = weight.detach().clone()
    weight.grad = torch.ones(4, dtype=torch.float64)
    optimizer.step()
    assert (weight.detach() == before).tolist() == [True, False, False, False]


def test_settings_out_of_range_are_refused():
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ConfigError, match="etas"):
        CoRe([weight], etas=(1.2, 0.7))
