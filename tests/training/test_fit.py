"""Training as a whole: it learns, goes on where it stopped, and says why it cannot."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch

import ase_nnp
from ase_nnp.errors import ConfigError, DatasetError, TrainingError
from ase_nnp.training import Settings, fit

QUICK = {"batch": {"structures": 4}, "optimizer": {"lr": 1e-2}, "progress": False}


def rmse(model, frames, name):
    rows = ase_nnp.predict(model, frames, (name,), progress=False)
    pairs = [
        (np.asarray(r[name]).ravel() - np.asarray(a.calc.results[name]).ravel())
        for r, a in zip(rows, frames, strict=True)
    ]
    return float(np.sqrt(np.mean(np.concatenate(pairs) ** 2)))


def same(first, second):
    one, two = first.model.state_dict(), second.model.state_dict()
    return all(torch.allclose(one[k], two[k], rtol=1e-6, atol=1e-9) for k in one)


def without_time(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.slow
def test_training_learns_total_energies_and_forces_of_unseen_structures(frames, pairs, tmp_path):
    # 5 eV an atom more than EMT gives: references take it up, the network need not.
    train, held = frames(24, shift=-5.0), frames(8, seed=1, shift=-5.0)
    settings = Settings(**{**QUICK, "epochs": 40, "ema": 0.9})
    result = fit(pairs(), train, held, settings, folder=tmp_path)
    spread = np.std([a.get_potential_energy() for a in held])
    assert rmse(result.model, held, "energy") < 0.5 * spread
    still = np.sqrt(np.mean([np.square(a.get_forces()).mean() for a in held]))
    assert rmse(result.model, held, "forces") < 0.2 * still
    again = ase_nnp.load_model(tmp_path / "model.nnp", device="cpu")
    assert again.elements == {29, 47}
    assert again.provenance["training"]["epoch"] == result.best_epoch
    mae = np.mean(
        [
            abs(r["energy"] - a.get_potential_energy()) / len(a)
            for r, a in zip(ase_nnp.predict(again, held), held, strict=True)
        ]
    )
    row = result.history[result.best_epoch - 1]
    assert row["valid_energy_mae"] == pytest.approx(mae, rel=1e-5)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["epoch"]) for r in rows] == list(range(1, 41))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["data"]["structures"] == 24
    assert record["settings"]["epochs"] == 40
    assert record["versions"]["torch"] == torch.__version__


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["between epochs", "within an epoch"])
@pytest.mark.parametrize("kind", ["plateau", "cosine"])
def test_an_interrupted_run_goes_on_bit_for_bit(frames, pairs, tmp_path, stop, kind):
    train, held = frames(15), frames(4, seed=1)
    options = {**QUICK, "epochs": 5, "schedule": {"kind": kind, "patience": 1, "warmup": 3}}
    whole = fit(pairs(), train, held, Settings(**options), folder=tmp_path / "whole")
    cut = {"minutes": 1e-9} | ({"checkpoint_every": 2} if "within" in stop else {})
    part = fit(pairs(), train, held, Settings(**options, **cut), folder=tmp_path / "cut")
    assert part.stopped
    assert len(part.history) < 5
    rest = fit(pairs(), train, held, Settings(**options), folder=tmp_path / "cut")
    assert same(whole, rest)
    assert without_time(whole.history) == without_time(rest.history)


def test_a_run_in_worker_processes_is_the_same_run(frames, pairs, tmp_path):
    train = frames(8)
    settings = Settings(**QUICK, epochs=2)
    here = fit(pairs(), train, None, settings, folder=tmp_path / "a")
    small = settings.model_copy(update={"cache_mb": 0.0})
    there = fit(pairs(), train, None, small, folder=tmp_path / "b")
    assert same(here, there)


def test_a_folder_with_another_run_is_refused(frames, pairs, tmp_path):
    train = frames(6)
    fit(pairs(), train, None, Settings(**QUICK, epochs=1), folder=tmp_path)
    changed = Settings(**{**QUICK, "optimizer": {"lr": 1e-3}}, epochs=1)
    with pytest.raises(ConfigError, match=r"optimizer\.lr \(0\.01 there, 0\.001 now\)"):
        fit(pairs(), train, None, changed, folder=tmp_path)
    with pytest.raises(ConfigError, match="data"):
        fit(pairs(), train[:4], None, Settings(**QUICK, epochs=1), folder=tmp_path)
    longer = fit(pairs(), train, None, Settings(**QUICK, epochs=3), folder=tmp_path)
    assert len(longer.history) == 3


def test_labels_that_are_all_met_stop_the_run(frames, pairs, tmp_path):
    model = pairs()
    with torch.no_grad():
        model.embedding.weight.zero_()
    flat = frames(4)
    for atoms in flat:
        atoms.calc.results["forces"] = np.zeros((len(atoms), 3))
    settings = Settings(**QUICK, losses={"energy": None, "forces": {}})
    with pytest.raises(TrainingError, match="exactly 0"):
        fit(model, flat, None, settings, folder=tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_structures(frames, pairs, tmp_path):
    settings = Settings(**{**QUICK, "optimizer": {"lr": 1e18, "clip": None, "name": "sgd"}})
    with pytest.raises(TrainingError, match="structures"):
        fit(pairs(), frames(8), None, settings, folder=tmp_path)


def test_weights_that_do_not_move_stop_the_run(frames, pairs, tmp_path):
    settings = Settings(**{**QUICK, "optimizer": {"lr": 1e-30, "name": "sgd"}})
    with pytest.raises(TrainingError, match="No weight changed"):
        fit(pairs(), frames(8), None, settings, folder=tmp_path)


def test_parameters_that_no_gradient_reaches_are_named(frames, pairs, tmp_path):
    model = pairs()
    model.register_parameter("spare", torch.nn.Parameter(torch.ones(3)))
    from ase_nnp.training.graph_loader import AtomGraphDataset
    from ase_nnp.training.losses import LossFunction
    from ase_nnp.training.sanity_checks import first_step
    from ase_nnp.training.settings import Losses

    data = AtomGraphDataset(frames(3), model=model, labels=("energy", "forces"))
    loss = LossFunction(Losses())
    assert first_step(model, loss, data.__getitems__([0, 1, 2])) == ["spare"]


def test_a_label_that_is_nowhere_is_asked_for_before_training(frames, pairs, tmp_path):
    bare = frames(4)
    for atoms in bare:
        del atoms.calc.results["forces"]
    with pytest.raises(DatasetError, match="none of the 4 structures"):
        fit(pairs(), bare, None, Settings(**QUICK), folder=tmp_path)
    energies = Settings(**QUICK, epochs=1, losses={"forces": None})
    result = fit(pairs(), bare, None, energies, folder=tmp_path)
    assert set(result.history[0]) >= {"train_energy_mae"}
    gap = Settings(losses={"forces": None, "scalars": {"band_gap": {}}})
    with pytest.raises(ConfigError, match="band_gap"):
        fit(pairs(), bare, None, gap, folder=tmp_path)


def test_patience_ends_a_run_that_gets_no_better(frames, pairs, tmp_path):
    settings = Settings(**{**QUICK, "optimizer": {"lr": 1e-7}}, epochs=30, patience=2, ema=0.0)
    held = frames(4, seed=3)
    for atoms in held:  # whatever is learnt, this does not become better for long
        atoms.calc.results["forces"] = -atoms.calc.results["forces"]
    result = fit(pairs(), frames(8), held, settings, folder=tmp_path)
    assert len(result.history) == 30 or "no better" in result.stopped


def test_stress_and_missing_labels_are_learnt_from_as_far_as_they_go(frames, pairs, tmp_path):
    some = frames(8)
    for atoms in some[::2]:
        del atoms.calc.results["stress"]
    settings = Settings(**QUICK, epochs=2, losses={"stress": {"weight": 10.0, "kind": "huber"}})
    result = fit(pairs(), some, None, settings, folder=tmp_path)
    assert math.isfinite(result.history[-1]["train_stress_mae"])
    assert any("4 structures have no stress" in note for note in result.report.notes)


def test_bf16_is_opt_in_and_trains(frames, pairs, tmp_path):
    settings = Settings(**QUICK, epochs=3, precision="bf16")
    result = fit(pairs(), frames(8), None, settings, folder=tmp_path)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_tensorboard_gets_a_point_an_epoch(frames, pairs, tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    settings = Settings(**QUICK, epochs=2, tensorboard=True)
    result = fit(pairs(), frames(4), None, settings, folder=tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points = {}
    for file in (tmp_path / "tensorboard").iterdir():
        events = EventAccumulator(str(file)).Reload()
        points |= {e.step: e.value for e in events.Scalars("loss")}
    assert points == pytest.approx({r["step"]: r["loss"] for r in result.history}, rel=1e-6)
