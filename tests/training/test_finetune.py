"""Fine-tuning: what is frozen stays, what is merged is the same, what is old is remembered."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.training import Settings, fit
from ase_nnp.training.finetune import (
    add_low_rank,
    freeze_parts,
    importance,
    keep_close,
    merge_low_rank,
    mix,
)
from ase_nnp.training.references import refit_references

QUICK = {"batch": {"structures": 4}, "optimizer": {"lr": 1e-2}, "progress": False, "ema": 0.0}


def test_frozen_parts_and_slow_layers_keep_their_rates(frames, pairs, tmp_path):
    model = pairs()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert freeze_parts(model, ["embedding*"]) == ["embedding.weight"]
    rates = {"lr": 1e-3, "name": "adam", "clip": None, "layer_rates": {"first.*": 0.01}}
    settings = Settings(
        **{**QUICK, "optimizer": rates}, epochs=1, schedule={"kind": "constant", "warmup": 0.0}
    )
    one = settings.model_copy(update={"batch": settings.batch.model_copy(update={"structures": 9})})
    result = fit(model, frames(8), None, one, folder=tmp_path)  # one step of Adam: lr each
    moved = {n: (p - before[n]).abs().max().item() for n, p in result.model.named_parameters()}
    assert moved["embedding.weight"] == 0.0
    assert moved["second.weight"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["first.weight"] == pytest.approx(1e-5, rel=1e-2)


def test_patterns_that_fit_nothing_are_refused(frames, pairs, tmp_path):
    with pytest.raises(ConfigError, match="no parameter is called"):
        freeze_parts(pairs(), ["decoder*"])
    with pytest.raises(ConfigError, match="leaves no parameter"):
        freeze_parts(pairs(), ["*"])
    with pytest.raises(ConfigError, match="linear layer"):
        add_low_rank(pairs(), 2, patterns=["decoder*"])
    rates = Settings(**{**QUICK, "optimizer": {"layer_rates": {"decoder*": 0.1}}})
    with pytest.raises(ConfigError, match="layer_rates"):
        fit(pairs(), frames(4), None, rates, folder=tmp_path)


def test_low_rank_additions_start_at_nothing_train_alone_and_merge(frames, pairs, tmp_path):
    model, some = pairs(), frames(8)
    graph = model.make_graph(some)
    before = model(graph)["energy"].detach()
    torch.manual_seed(0)
    assert add_low_rank(model, rank=2) == ["first", "second"]
    torch.testing.assert_close(model(graph)["energy"].detach(), before)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{layer}.{part}" for layer in ("first", "second") for part in "ab"}
    plain = pairs()
    result = fit(model, some, None, Settings(**QUICK, epochs=3), folder=tmp_path)
    state = result.model.state_dict()
    assert set(state) == set(plain.state_dict())  # a plain model on disk
    change = state["second.weight"] - plain.state_dict()["second.weight"]
    assert torch.linalg.matrix_rank(change, atol=1e-6) == 2
    assert torch.equal(state["embedding.weight"], plain.state_dict()["embedding.weight"])
    model.eval()
    with_additions = model(graph)["energy"].detach()
    merge_low_rank(model)
    torch.testing.assert_close(model(graph)["energy"].detach(), with_additions)


def test_references_of_another_functional_are_refitted_with_a_report(frames, pairs):
    model, some = pairs(), frames(10)
    predicted = ase_nnp.predict(model, some, ("energy",), progress=False)
    for atoms, row in zip(some, predicted, strict=True):
        offset = sum({29: 1.5, 47: -2.5}[int(z)] for z in atoms.numbers)
        atoms.calc.results["energy"] = row["energy"] + offset
    report = refit_references(model, some)
    assert report.shift == pytest.approx({"Cu": 1.5, "Ag": -2.5}, abs=1e-4)
    assert abs(report.before["mean"]) > 0.4
    assert abs(report.after["mean"]) < 1e-4
    now = ase_nnp.predict(model, some, ("energy",), progress=False)
    for atoms, row in zip(some, now, strict=True):
        assert row["energy"] == pytest.approx(atoms.calc.results["energy"], abs=1e-3)


@pytest.mark.parametrize("family", ["scn", "escaip", "facet"])
def test_every_family_shifts_its_references(frames, family):
    made_by = ase_nnp.list_models()[family]
    model = ase_nnp.build_model(family, made_by.test_config, seed=0, device="cpu", dtype="float64")
    some = frames(2)
    before = model(model.make_graph(some))["energy"].detach()
    model.shift_references({29: 2.0, 47: -1.0})
    own = torch.tensor(
        [sum(2.0 if z == 29 else -1.0 for z in a.numbers) for a in some], dtype=torch.float64
    )
    after = model(model.make_graph(some))["energy"].detach()
    torch.testing.assert_close(after, before + own, rtol=0, atol=1e-9)


def test_replay_mixes_in_the_asked_part_of_old_structures(frames):
    new, old = frames(10), frames(40, seed=1)
    assert len(mix(new, old, 0.5)) == 20
    assert len(mix(new, old, 0.2)) == 12
    assert len(mix(new, old[:3], 0.5)) == 13


def test_the_penalty_is_its_formula_and_importance_is_the_squared_gradient(frames, pairs):
    from ase_nnp.training.graph_loader import AtomGraphDataset
    from ase_nnp.training.losses import LossFunction, combine
    from ase_nnp.training.settings import Losses

    model = pairs()
    data = AtomGraphDataset(frames(2), model=model, labels=("energy", "forces"))
    loss = LossFunction(Losses())
    weights = importance(model, loss, [data[0], data[1]])
    expected = 0.0
    for k in range(2):
        parts = loss(model.compute(data[k].graph, loss.names), data[k])
        model.zero_grad()
        combine(parts.sums, parts.counts, [1.0, 10.0]).backward()
        expected = expected + model.second.weight.grad.square() / 2
    torch.testing.assert_close(weights["second.weight"], expected)
    penalty = keep_close(model, 3.0, weights)
    assert float(penalty(model).detach()) == 0.0
    with torch.no_grad():
        model.second.weight += 0.1
    value = 0.5 * 3.0 * 0.01 * float(weights["second.weight"].sum())
    assert float(penalty(model).detach()) == pytest.approx(value, rel=1e-4)


@pytest.mark.slow
def test_an_old_domain_is_forgotten_less_with_replay(frames, pairs, tmp_path):
    old, new = frames(24), frames(12, seed=7, rattle=0.3)
    settings = Settings(**{**QUICK, "epochs": 60, "schedule": {"warmup": 0.0}})
    fit(pairs(), old, None, settings, folder=tmp_path / "old")

    def error(model):
        rows = ase_nnp.predict(model, old, ("forces",), progress=False)
        return np.mean(
            [np.abs(r["forces"] - a.get_forces()).mean() for r, a in zip(rows, old, strict=True)]
        )

    def start():
        return ase_nnp.load_model(tmp_path / "old" / "model.nnp", device="cpu")

    before = error(start())
    alone = fit(start(), new, None, settings, folder=tmp_path / "alone")
    both = fit(start(), mix(new, old, 0.6), None, settings, folder=tmp_path / "replay")
    grown = error(alone.model) - before
    assert grown > 0
    assert error(both.model) - before < 0.5 * grown
