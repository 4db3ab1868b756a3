"""Losses, weights, rates, batches and averages, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ase_nnp.models.graph import AtomGraph
from ase_nnp.training.batch_sampler import BudgetSampler
from ase_nnp.training.ema import Average
from ase_nnp.training.graph_loader import AtomGraphDataset, GraphBatch, GraphLoader
from ase_nnp.training.losses import LossFunction, combine, weight_at
from ase_nnp.training.normalization import apply_normalization, fit_normalization
from ase_nnp.training.schedules import RateSchedule
from ase_nnp.training.settings import Loss, Losses, Schedule, Settings


def batch_of(frames, energies, forces):
    graph = AtomGraph.from_atoms(frames, 3.0, dtype=torch.float64)
    targets = {"energy": torch.tensor(energies), "forces": torch.tensor(forces)}
    return GraphBatch(graph, targets, torch.arange(len(frames)))


@pytest.mark.parametrize("kind", ["mse", "mae", "huber", "l2mae"])
def test_each_kind_of_loss_is_its_formula(frames, kind):
    rng = np.random.default_rng(0)
    some = frames(2)
    true, pred = rng.normal(size=(2, 8, 3))
    energies, predicted = rng.normal(size=(2, 2))
    losses = Losses(
        energy={"kind": kind, "weight": 2.0, "delta": 0.1},
        forces={"kind": kind, "weight": 3.0, "delta": 0.1},
    )
    loss = LossFunction(losses)
    prediction = {"energy": torch.tensor(predicted), "forces": torch.tensor(pred)}
    parts = loss(prediction, batch_of(some, energies, true))
    value = float(combine(parts.sums, parts.counts, loss.weights(0.0)))

    def rho(x):
        size = np.abs(x)
        huber = np.where(size < 0.1, 0.5 * x**2, 0.1 * (size - 0.05))
        return {"mse": x**2, "mae": size, "huber": huber, "l2mae": size}[kind]

    e = rho((predicted - energies) / 4).mean()
    d = pred - true
    f = np.linalg.norm(d, axis=1).mean() if kind == "l2mae" else rho(d).mean()
    assert value == pytest.approx(2 * e + 3 * f, rel=1e-12)
    assert float(parts.errors[1] / parts.error_counts[1]) == pytest.approx(np.abs(d).mean())


def test_fixed_atoms_and_missing_labels_count_for_nothing(frames):
    from ase.constraints import FixAtoms

    some = frames(2)
    some[0].set_constraint(FixAtoms([0, 1]))
    true = np.zeros((8, 3))
    true[4:] = np.nan
    pred = np.arange(24.0).reshape(8, 3)
    prediction = {
        "energy": torch.zeros(2, dtype=torch.float64),
        "forces": torch.tensor(pred, requires_grad=True),
    }
    loss = LossFunction(Losses(energy={}, forces={"kind": "l2mae"}))
    parts = loss(prediction, batch_of(some, [1.0, np.nan], true))
    assert parts.counts.tolist() == [1, 2]
    assert float(parts.sums[1].detach()) == pytest.approx(np.linalg.norm(pred[2:4], axis=1).sum())
    parts.sums.sum().backward()
    assert torch.isfinite(prediction["forces"].grad).all()


@pytest.mark.parametrize(("kind", "half"), [("geometric", 10.0), ("linear", 50.5), ("switch", 1.0)])
def test_weights_follow_their_schedule(kind, half):
    term = Loss(weight=1.0, final_weight=100.0, weight_schedule=kind)
    assert weight_at(term, 0.5) == pytest.approx(half)
    assert weight_at(term, 1.0) == pytest.approx(100.0)


def test_the_learning_rate_warms_up_falls_as_a_cosine_and_drops_on_a_plateau():
    cosine = RateSchedule(Schedule(kind="cosine", warmup=4, floor=0.1), 104)
    assert [round(cosine.factor(k), 6) for k in range(4)] == [0.2, 0.4, 0.6, 0.8]
    assert cosine.factor(54) == pytest.approx(0.1 + 0.9 * 0.5)
    assert cosine.factor(104) == pytest.approx(0.1)
    plateau = RateSchedule(Schedule(kind="plateau", warmup=0.0, patience=2), 100)
    for loss in (3.0, 2.0, 2.5, 2.5):
        plateau.validated(loss)
    assert plateau.factor(50) == pytest.approx(0.5)


@pytest.mark.parametrize("batch", [{"max_structures": 5}, {"budget": 40}], ids=str)
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one(batch, world):
    sizes = np.random.default_rng(0).integers(2, 20, size=33)
    alone = BudgetSampler(sizes, seed=1, **batch)
    shares = [BudgetSampler(sizes, seed=1, rank=r, world_size=world, **batch) for r in range(world)]
    for sampler in (alone, *shares):
        sampler.set_epoch(3)
    seen = []
    for whole, parts in zip(alone, zip(*shares, strict=True), strict=True):
        together = [k for part in parts for k in part if k >= 0]
        assert sorted(together) == sorted(whole)
        assert all(parts)
        seen += whole
    assert sorted(seen) == list(range(33))


def test_a_process_without_a_structure_computes_one_without_labels(frames, pairs):
    shares = [BudgetSampler([4], 4, rank=rank, world_size=2).plan() for rank in range(2)]
    assert shares == [[[0]], [[0]]]
    loader = GraphLoader(AtomGraphDataset(frames(1), model=pairs()), 4, rank=1, world_size=2)
    (batch,) = loader
    assert batch.graph.num_atoms == 4
    assert all(torch.isnan(value).all() for value in batch.targets.values())


def test_graphs_are_built_once_within_the_memory_given(frames, pairs, monkeypatch):
    model = pairs()
    built = []
    original = model.make_graph
    monkeypatch.setattr(model, "make_graph", lambda *a, **k: built.append(1) or original(*a, **k))
    data = AtomGraphDataset(frames(6), model=model, labels=("energy",), cache_mb=100.0)
    loader = GraphLoader(data, max_structures=2)
    for _ in range(3):
        assert len(list(loader)) == 3
    assert len(built) == 6
    none = AtomGraphDataset(frames(6), model=model, labels=("energy",))
    for _ in range(2):
        assert len(list(GraphLoader(none, max_structures=2))) == 3
    assert len(built) == 6 + 12


def test_energies_keep_their_digits(frames, pairs):
    data = AtomGraphDataset(frames(2, shift=-25000.125), model=pairs(), labels=("energy",))
    energy = data[0].targets["energy"]
    assert energy.dtype == torch.float64
    assert float(energy) == frames(2, shift=-25000.125)[0].calc.results["energy"]


def test_the_average_is_the_weighted_mean_of_the_past(pairs):
    model = pairs()
    average = Average(model, 0.5)
    weight, mean = model.first.bias, torch.zeros_like(model.first.bias)
    mean.copy_(weight.detach())
    for step in range(1, 30):
        with torch.no_grad():
            weight += 1.0
        average.update(step)
        decay = min(0.5, step / (step + 10))
        mean = decay * mean + (1 - decay) * weight.detach()
    torch.testing.assert_close(average.model.first.bias.detach(), mean)


@pytest.mark.slow
def test_the_average_of_a_large_weight_follows_small_changes(pairs):
    model = pairs().float()
    with torch.no_grad():
        model.first.bias.fill_(1000.0)
    average = Average(model, 0.999)
    for step in range(1, 12000):
        if step == 5000:
            with torch.no_grad():
                model.first.bias += 0.05
            taken = Average(model, 0.999)
            taken.load_state_dict(average.state_dict())
            average = taken
        average.update(step)
    behind = model.first.bias.detach() - average.model.first.bias
    assert behind.abs().max() < 1e-3


def test_references_are_found_by_least_squares_and_the_saved_model_gives_totals(frames, pairs):
    some = frames(10)
    for atoms in some:
        free = {29: -3.0, 47: -7.0}
        atoms.calc.results["energy"] = sum(free[int(z)] for z in atoms.numbers)
    model = pairs()
    report = fit_normalization(some, model, Settings())
    assert report.references == pytest.approx({"Cu": -3.0, "Ag": -7.0})
    assert report.rank == 2
    apply_normalization(model, report)
    with torch.no_grad():
        model.embedding.weight.zero_()
        energy = model.eval()(model.make_graph(some))["energy"]
    assert energy.tolist() == pytest.approx([a.calc.results["energy"] for a in some])


@pytest.mark.parametrize("family", ["scn", "escaip", "facet", "cgcnn_oc20"])
def test_every_family_adds_its_references_and_saves_them(frames, family, tmp_path):
    import ase_nnp

    made_by = ase_nnp.list_models()[family]
    config = {**made_by.test_config}
    if "energy_kind" in made_by.defaults:
        config["energy_kind"] = "total"
    model = ase_nnp.build_model(family, config, seed=0, device="cpu", dtype="float64")
    some = frames(2)
    before = model(model.make_graph(some))["energy"].detach()
    if family == "cgcnn_oc20":
        model.set_scales({}, mean=-2.0, energy=1.0)
        expected = before - 2.0
    else:
        model.set_scales({29: -1000.0, 47: -2000.0}, energy=1.0)
        own = [sum(-1000.0 if z == 29 else -2000.0 for z in a.numbers) for a in some]
        expected = before + torch.tensor(own, dtype=torch.float64)
    after = model(model.make_graph(some))["energy"].detach()
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-8)
    ase_nnp.save_model(model, tmp_path / "m.nnp")
    again = ase_nnp.load_model(tmp_path / "m.nnp", device="cpu", dtype="float64")
    loaded = again(again.make_graph(some))["energy"].detach()
    torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-8)
