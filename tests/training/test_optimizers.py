"""Optimizers by name."""

from __future__ import annotations

import copy

import pytest
import torch

from ase_nnp.training.optimizers import make_optimizers
from ase_nnp.training.settings import Optimizer


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_in_one_pass_takes_torchs_plain_steps(pairs, name, amsgrad):
    settings = Optimizer(name=name, lr=0.01, weight_decay=0.1, amsgrad=amsgrad)
    one = pairs().double()
    two = copy.deepcopy(one)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    plain = kind(two.parameters(), lr=0.01, weight_decay=0.1, amsgrad=amsgrad, fused=False)
    (made,) = make_optimizers(one, settings)
    assert made.param_groups[0]["fused"]
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=rng, dtype=p.dtype)
            q.grad = p.grad.clone()
        made.step()
        plain.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_a_resumed_run_keeps_the_kind_of_step_it_began_with(pairs):
    model = pairs()
    plain = torch.optim.AdamW(model.parameters(), fused=False)
    (made,) = make_optimizers(model, Optimizer())
    made.load_state_dict(plain.state_dict())
    assert not made.param_groups[0]["fused"]
