"""Gradients of the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule

from ase_nnp.errors import ConfigError

ALL_PARTS = {
    "use_angle_embedding": "bias",
    "angle_expansion_size": 4,
    "use_graph_attention": True,
    "use_global_readout": True,
    "use_message_gate": True,
}


def loss_of(model, graph, forces: bool = True):
    out = model(graph)
    loss = out["energy"].square().sum()
    return loss + out["forces"].square().sum() if forces else loss


@pytest.mark.parametrize(
    ("options", "spare"),
    [
        ({}, ()),
        (ALL_PARTS, ()),
        ({"use_angle_embedding": "scalar"}, ()),
        # Gradient heads own a norm that they do not use, as published.
        ({"direct_forces": False}, ("head.node_norm",)),
        ({"generation": 1}, ()),
        # Generation 1 reads its edges nowhere but in direct forces.
        (
            {"generation": 1, "direct_force": False},
            ("mlp_edge", "edge_norm", "input_block.norm.edge"),
        ),
    ],
    ids=str,
)
def test_gradients_reach_every_parameter(make, slab, options, spare):
    model = make(**options).train()
    loss_of(model, model.make_graph(slab)).backward()
    for name, p in model.named_parameters():
        if any(part in name for part in spare):
            assert p.grad is None
            continue
        reached = p.grad is not None and bool((p.grad != 0).any())
        # A shift of all logits of a softmax changes nothing.
        assert reached or name.endswith("attn_in_proj_k.bias"), name


@pytest.mark.parametrize(
    "options", [{"direct_forces": False}, {"generation": 1, "direct_force": False}], ids=str
)
def test_the_second_derivative_of_gradient_forces_is_right(make, crystal, options):
    model = make(**options).train()
    graph = model.make_graph(crystal)
    loss_of(model, graph).backward()
    chosen = [n for n, p in model.named_parameters() if p.grad is not None and p.ndim == 2][::9]
    named = dict(model.named_parameters())
    assert len(chosen) > 3
    for name in chosen:
        p = named[name]
        place = np.unravel_index(int(p.grad.abs().argmax()), p.shape)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p[place] += sign * 1e-5
            values.append(float(loss_of(model, graph).detach()))
            with torch.no_grad():
                p[place] -= sign * 1e-5
        slope = (values[0] - values[1]) / 2e-5
        assert float(p.grad[place]) == pytest.approx(slope, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"direct_forces": False}, marks=pytest.mark.slow),
        pytest.param({"generation": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_few_structures_can_be_learnt_by_heart(make, options):
    model = make(**options).train()
    rng = np.random.default_rng(0)
    structures = [molecule("H2O"), molecule("CO"), molecule("NH3")]
    graph = model.make_graph(structures)
    energy = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    forces = torch.from_numpy(rng.normal(scale=0.1, size=(graph.num_atoms, 3)))
    if model.conservative:
        forces = torch.zeros_like(forces)  # a flat place: no other set is surely a gradient
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        out = model(graph)
        loss = (out["energy"] - energy).square().mean() + (out["forces"] - forces).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses) < 0.1 * losses[0]


def test_dropout_acts_in_training_only(make, crystal):
    model = make(mlp_dropout=0.3, atten_dropout=0.3, stochastic_depth_prob=0.2)
    graph = model.make_graph(crystal)
    torch.testing.assert_close(model(graph), model(graph))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(graph)["energy"], model(graph)["energy"])


def test_a_fused_kernel_refuses_to_train_gradient_forces(make, crystal):
    model = make(direct_forces=False, attention="fused")
    graph = model.make_graph(crystal)
    model(graph)  # one derivative is fine
    model.train()
    with pytest.raises(ConfigError, match="second derivative"):
        model(graph)


def test_a_direct_model_may_train_with_fused_attention(make, crystal):
    model = make(attention="fused").train()
    loss_of(model, model.make_graph(crystal)).backward()
    assert all(p.grad is not None for p in model.parameters())
