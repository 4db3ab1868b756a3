"""Training that starts from a trained model keeps what that model has learnt."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import ase_nnp
from ase_nnp.errors import ConfigError, TrainingError, UnsupportedElementError
from ase_nnp.models.potential import model_name
from ase_nnp.models.provenance import is_fresh
from ase_nnp.training import Settings, fit
from ase_nnp.training.new_elements import add_elements, train_new_elements_only
from ase_nnp.training.references import ReferenceReport

QUICK = {"batch": {"structures": 4}, "optimizer": {"lr": 1e-4}, "progress": False, "ema": 0.0}


@pytest.fixture(scope="module")
def trained(frames, tmp_path_factory):
    """The file of a model that was trained for a while."""
    folder = tmp_path_factory.mktemp("trained")
    model = ase_nnp.build_model("pairs", seed=0, device="cpu")
    settings = Settings(**{**QUICK, "optimizer": {"lr": 1e-2}}, epochs=30)
    fit(model, frames(24, shift=-5.0), frames(8, seed=1, shift=-5.0), settings, folder=folder)
    return folder / "model.nnp"


def forces_error(model, frames):
    rows = ase_nnp.predict(model, frames, ("forces",), progress=False)
    pairs = zip(rows, frames, strict=True)
    return float(np.mean([np.abs(r["forces"] - a.calc.results["forces"]).mean() for r, a in pairs]))


def test_weights_are_fresh_until_they_change_whatever_their_precision(pairs, tmp_path):
    model = pairs()
    assert is_fresh(model)
    assert is_fresh(copy.deepcopy(model).double())
    with torch.no_grad():  # somebody's own training loop
        model.second.weight += 0.01
    assert not is_fresh(model)
    ase_nnp.save_model(model, tmp_path / "own.nnp")
    assert not is_fresh(ase_nnp.load_model(tmp_path / "own.nnp", device="cpu"))


def test_a_model_of_somebodys_own_loop_keeps_its_references(frames, pairs, tmp_path):
    model = pairs()
    model.set_scales({29: -100.0, 47: -200.0}, energy=0.5)
    with torch.no_grad():
        model.second.weight += 0.01
    some = frames(8)
    rows = ase_nnp.predict(model, some, progress=False)
    for k, (atoms, row) in enumerate(zip(some, rows, strict=True)):
        # Every composition is too high as often as it is too low.
        atoms.calc.results["energy"] = row["energy"] + (0.1 if k // 2 % 2 else -0.1)
    result = fit(model, some, None, Settings(**QUICK, epochs=1), folder=tmp_path)
    assert result.report.source == "kept"
    assert result.model.table[29] == -100.0
    assert result.model.scale == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("shift", [-5.0, 3.0], ids=["same functional", "another functional"])
def test_references_are_kept_or_shifted_by_what_the_labels_say(trained, frames, shift, tmp_path):
    model = ase_nnp.load_model(trained, device="cpu")
    before, scale = list(model.table), model.scale
    held = frames(6, seed=3, shift=shift)
    result = fit(
        model, frames(12, seed=2, shift=shift), held, Settings(**QUICK, epochs=1), folder=tmp_path
    )
    moved = [result.model.table[z] - before[z] for z in (29, 47)]
    # The labels differ by 8 eV an atom or not at all; the model itself errs by some hundredths.
    assert moved == pytest.approx([shift + 5.0] * 2, abs=0.2)
    assert result.model.scale == scale
    assert result.untouched["valid_energy_mae"] < 0.1
    assert result.untouched["valid_forces_mae"] < 0.05
    assert forces_error(result.model, held) < 0.05
    started = result.model.provenance["started_from"]
    assert started["provenance"]["source"] == "model.nnp"


def test_a_first_epoch_that_spoils_the_model_stops_the_run_each_time(trained, frames, tmp_path):
    held = frames(6, seed=3, shift=-5.0)
    wild = Settings(**{**QUICK, "optimizer": {"lr": 1.0}, "epochs": 2, "schedule": {"warmup": 0}})
    for _ in range(2):
        model = ase_nnp.load_model(trained, device="cpu")
        before = forces_error(model, held)
        with pytest.raises(TrainingError, match=r"much worse .* of forces .*lower optimizer\.lr"):
            fit(model, frames(8, seed=2, shift=-5.0), held, wild, folder=tmp_path)
    kept = ase_nnp.load_model(tmp_path / "model.nnp", device="cpu")
    assert forces_error(kept, held) == pytest.approx(before, rel=1e-4)  # the untouched one
    assert kept.provenance["training"]["epoch"] == 0
    model = ase_nnp.load_model(trained, device="cpu")
    with pytest.raises(TrainingError, match="much worse"):  # without a validation set, too
        fit(model, frames(8, seed=2, shift=-5.0), None, wild, folder=tmp_path / "none")
    model = ase_nnp.load_model(trained, device="cpu")
    asked = wild.model_copy(update={"keep_learnt": False})
    assert len(fit(model, frames(8), held, asked, folder=tmp_path / "asked").history) == 2


def test_a_run_that_never_gets_better_gives_the_untouched_model_back(trained, frames, tmp_path):
    held = frames(6, seed=3, shift=-5.0)
    model = ase_nnp.load_model(trained, device="cpu")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    noise = np.random.default_rng(0)
    for atoms, row in zip(held, ase_nnp.predict(model, held, progress=False), strict=True):
        # Its own answers, but for noise: whatever changes, changes for the worse.
        forces = row["forces"] + noise.normal(0, 0.01, row["forces"].shape)
        atoms.calc.results |= {"energy": row["energy"], "forces": forces}
    settings = Settings(**QUICK, keep_learnt=True, epochs=2, references="keep")
    result = fit(model, frames(4, seed=2, shift=-5.0), held, settings, folder=tmp_path)
    assert result.best_epoch == 0
    for name, value in result.model.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize(("rank", "said"), [(1, True), (2, False)])
def test_shifts_that_compositions_do_not_tell_apart_are_said_to_mean_nothing(rank, said):
    errors = {"mean": 0.0, "std": 0.0}
    report = ReferenceReport({"H": -800.5, "O": -200.1}, rank, errors, errors)
    assert ("tell only 1 of 2 elements apart" in report.lines()[0]) == said


def test_references_that_are_kept_though_labels_have_another_zero_are_warned_of(
    trained, frames, tmp_path, capsys
):
    model = ase_nnp.load_model(trained, device="cpu")
    settings = Settings(**{**QUICK, "progress": True}, epochs=1, references="keep")
    fit(model, frames(4, shift=95.0), None, settings, folder=tmp_path)
    assert "100 eV an atom off" in capsys.readouterr().err


def test_what_was_fine_tuned_does_not_pose_as_what_it_was(trained, frames, tmp_path):
    model = ase_nnp.load_model(trained, device="cpu")
    model.provenance = {**model.provenance, "pretrained": "pairs-1", "loss": 0.25, "minutes": 7}
    settings = Settings(**QUICK, epochs=1, keep_learnt=False)
    result = fit(model, frames(4, shift=-5.0), None, settings, folder=tmp_path, notes={"mine": 1})
    said = result.model.provenance
    assert not {"pretrained", "loss", "minutes"} & set(said)
    assert said["mine"] == 1
    assert said["started_from"]["provenance"]["pretrained"] == "pairs-1"
    assert model_name(result.model) == model_name(model) == "pairs fine-tuned from pairs-1"


def test_error_bars_are_left_out_of_training(trained, frames, tmp_path):
    from ase_nnp.uncertainty import wrap

    members = [ase_nnp.load_model(trained, device="cpu") for _ in range(2)]
    some = frames(8, seed=2, shift=-5.0)
    bars = wrap("latent", members[0], train=some)
    assert bars.provenance == members[0].provenance
    result = fit(bars, some, None, Settings(**QUICK, epochs=1), folder=tmp_path / "one")
    assert result.report.source == "kept"
    assert result.model.family == "pairs"
    ensemble = wrap("ensemble", members)
    with pytest.raises(ConfigError, match="fit its members"):
        fit(ensemble, some, None, Settings(**QUICK, epochs=1), folder=tmp_path / "two")


# -- further elements -------------------------------------------------------------------------


def nickel(count, seed=0):
    """Rattled cells of Cu, Ni and both, labeled by EMT."""
    rng, made = np.random.default_rng(seed), []
    for k in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.numbers[: 2 * (k % 3)] = 28
        atoms.rattle(0.1, rng=rng)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        made.append(atoms)
    return made


def test_an_element_that_is_new_is_refused_with_the_way_to_add_it(trained, tmp_path):
    model = ase_nnp.load_model(trained, device="cpu")
    with pytest.raises(UnsupportedElementError, match=r"contains Ni.*finetune\.add_elements"):
        fit(model, nickel(3), None, Settings(**QUICK), folder=tmp_path)
    assert add_elements(model, ["Ni"]) is model  # its table has a row for every element
    assert model.elements == {28, 29, 47}
    with pytest.raises(ConfigError, match="no elements"):
        add_elements(model, ["Nx"])
    with pytest.raises(ConfigError, match="no table of this model grew"):
        train_new_elements_only(model)


@pytest.fixture
def copper():
    """A small Facet for copper, with weights that are not fresh."""
    config = {"species": [29], "hidden_irreps": ["8x0e + 4x1o"], "outs_per_node": 8}
    model = ase_nnp.build_model("facet", config, seed=0, device="cpu", dtype="float64")
    with torch.no_grad():
        model.embedding += 0.1
    return model


def test_a_model_that_grew_is_the_same_for_what_it_knows(copper, tmp_path):
    old, new = nickel(1)[0], nickel(3)
    with pytest.raises(UnsupportedElementError):
        ase_nnp.predict(copper, new, progress=False)
    before = ase_nnp.predict(copper, [old], progress=False)[0]
    grown = add_elements(copper, ["Ni", "Cu"])
    assert grown.elements == {28, 29}
    assert not is_fresh(grown)
    after = ase_nnp.predict(grown, [old], progress=False)[0]
    assert after["energy"] == pytest.approx(before["energy"], rel=1e-13)
    np.testing.assert_allclose(after["forces"], before["forces"], atol=1e-12)

    ase_nnp.save_model(grown, tmp_path / "grown.nnp")
    again = ase_nnp.load_model(tmp_path / "grown.nnp", device="cpu", dtype="float64")
    rows = [ase_nnp.predict(m, new, progress=False) for m in (grown, again)]
    assert [r["energy"] for r in rows[0]] == pytest.approx([r["energy"] for r in rows[1]])


def test_training_of_new_rows_alone_leaves_the_old_elements_to_the_last_weight(copper, tmp_path):
    old = nickel(1)[0]
    before = ase_nnp.predict(copper, [old], progress=False)[0]
    grown = add_elements(copper, ["Ni"])
    names = train_new_elements_only(grown)
    assert "embedding" in names
    start = {k: v.clone() for k, v in grown.state_dict().items()}
    settings = Settings(**{**QUICK, "optimizer": {"lr": 1e-2}}, references="keep", epochs=10)
    result = fit(grown, nickel(6), None, settings, folder=tmp_path)
    state = result.model.state_dict()
    for name, value in start.items():
        rows = len(value) - 1 if name in names else len(value) if value.ndim else None
        assert torch.equal(state[name][:rows], value[:rows]) if rows else True
    assert not torch.equal(state["embedding"][-1], start["embedding"][-1])
    after = ase_nnp.predict(result.model, [old], progress=False)[0]
    assert after["energy"] == pytest.approx(before["energy"], rel=1e-13)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_a_family_that_cannot_grow_says_how_else(copper, monkeypatch):
    from ase_nnp.models.potential import Potential

    monkeypatch.setattr(type(copper), "with_elements", Potential.with_elements)
    with pytest.raises(ConfigError, match=r"cannot take further elements.*fresh weights"):
        add_elements(copper, ["Ni"])
