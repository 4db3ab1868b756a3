"""A run goes on with what it began with alone, and says what it is judged by."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

import ase_nnp
from ase_nnp.errors import CheckpointError, ConfigError, DatasetError, UnsupportedElementError
from ase_nnp.files.atomic import take_lock
from ase_nnp.training import Settings, fit
from ase_nnp.training.data_identity import learned_digest, look_at, scalar_label
from ase_nnp.training.references import adapt_references
from ase_nnp.training.run_callbacks import read_checkpoint
from ase_nnp.training.runfile import check_run_file
from ase_nnp.training.running import run

SETTINGS = Settings(batch={"structures": 4}, optimizer={"lr": 1e-2}, progress=False, epochs=1)


def relabeled(atoms, **labels):
    twin = atoms.copy()
    twin.calc = SinglePointCalculator(twin, **labels)
    return twin


@pytest.fixture
def done(frames, pairs, tmp_path):
    """A run of six structures with four to validate on, and how to call it again."""

    def call(train=None, valid="same", **changes):
        train = frames(6) if train is None else train
        valid = frames(4, seed=1) if valid == "same" else valid
        return fit(
            changes.pop("model", pairs()), train, valid, SETTINGS, folder=tmp_path, **changes
        )

    call()
    return call


def test_another_validation_set_is_another_run(done, frames):
    assert done().best_epoch == 1
    for valid in (frames(4, seed=2), None):
        with pytest.raises(ConfigError, match="the validation set"):
            done(valid=valid)


def test_atoms_that_are_fixed_meanwhile_are_other_data(done, frames):
    held = frames(6)
    for atoms in held:
        results = dict(atoms.calc.results)
        atoms.set_constraint(FixAtoms([0, 1]))
        atoms.calc = SinglePointCalculator(atoms, **results)
    with pytest.raises(ConfigError, match="the data of the training set"):
        done(held)


def test_other_trained_parameters_and_a_penalty_are_another_run(done, pairs):
    frozen = pairs()
    frozen.embedding.requires_grad_(False)
    with pytest.raises(ConfigError, match="which parameters are trained"):
        done(model=frozen)
    with pytest.raises(ConfigError, match="the penalty"):
        done(penalty=lambda model: model.second.weight.square().sum())


@pytest.mark.parametrize("what", ["missing", "of another run"])
def test_best_weights_that_are_not_those_of_the_run_are_refused(done, pairs, tmp_path, what):
    (tmp_path / "model.nnp").unlink()
    if what != "missing":
        ase_nnp.save_model(pairs(7), tmp_path / "model.nnp")
    with pytest.raises(CheckpointError, match=r"model\.nnp is (missing|not of this run)"):
        done()


def test_a_checkpoint_of_another_version_says_so(done, tmp_path, monkeypatch):
    monkeypatch.setattr("ase_nnp.training.run_callbacks.FORMAT", 99)
    with pytest.raises(CheckpointError, match="another version"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_two_runs_in_one_folder_are_refused(done, tmp_path):
    with take_lock(tmp_path / "lock"), pytest.raises(ConfigError, match="Another process"):
        done()


@pytest.mark.slow
def test_a_refused_run_leaves_the_run_file_and_moved_data_go_on(frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("here", "there"):
        ase_nnp.write_dataset(f"{name}.extxyz", frames(6))

    def started(train="here.extxyz", **more):
        data = {"train": train, "valid_fraction": 0.0}
        content = {"model": {"family": "pairs"}, "data": data, "epochs": 1, "progress": False}
        return run(check_run_file(content | more))

    started()
    written = (tmp_path / "run" / "run.yaml").read_text()
    with pytest.raises(ConfigError, match=r"optimizer\.lr \(0\.001 there, 0\.5 now\)"):
        started(optimizer={"lr": 0.5})
    assert (tmp_path / "run" / "run.yaml").read_text() == written
    assert len(started("there.extxyz").history) == 1


@pytest.mark.slow
def test_a_run_that_goes_on_or_is_over_says_so(frames, pairs, tmp_path, capsys):
    told = SETTINGS.model_copy(update={"progress": True})
    for epochs in (1, 1, 2):
        settings = told.model_copy(update={"epochs": epochs})
        fit(pairs(), frames(6), None, settings, folder=tmp_path)
    first, _, text = capsys.readouterr().err.partition("epoch 1: loss")
    assert "goes on" not in first
    _, _, text = text.partition("is over: 1 epochs are done")
    assert text
    assert "goes on in" in text
    assert "MAE train: energy" in text


@pytest.mark.slow
def test_patience_that_ended_a_run_ends_it_again(frames, pairs, tmp_path):
    # Lower and lower rates: the average of the first epoch is the best of all.
    settings = SETTINGS.model_copy(update={"epochs": 50, "patience": 1, "ema": 0.0})
    settings = settings.model_copy(
        update={"optimizer": settings.optimizer.model_copy(update={"lr": 0.3})}
    )
    first = fit(pairs(), frames(6), frames(4, seed=1), settings, folder=tmp_path)
    assert "no better" in first.stopped
    again = fit(pairs(), frames(6), frames(4, seed=1), settings, folder=tmp_path)
    assert len(again.history) == len(first.history)
    assert again.stopped == first.stopped


# -- what is learned from and judged by


def test_a_validation_set_without_labels_is_refused(frames):
    bare = [a.copy() for a in frames(3)]
    with pytest.raises(DatasetError, match="cannot tell a good epoch from a bad one"):
        look_at(bare, ("energy", "forces"), ())


def test_structures_in_both_sets_are_counted_and_few_are_called_few(frames, pairs, tmp_path):
    train = frames(6)
    result = fit(pairs(), train, train[:2], SETTINGS, folder=tmp_path)
    said = " ".join(result.report.notes)
    assert "2 structures are in the training set and in the validation set" in said
    assert "2 structures to validate on; so few" in said
    assert "validation" in json.dumps(read_checkpoint(tmp_path / "last.ckpt")["identity"])


def test_an_element_of_the_validation_set_alone_is_refused_before_training(frames, pairs, tmp_path):
    gold = relabeled(bulk("Au", cubic=True), energy=1.0)
    with pytest.raises(UnsupportedElementError, match="The validation set has Au"):
        fit(pairs(), frames(4), [gold], SETTINGS, folder=tmp_path)
    assert not (tmp_path / "log.csv").exists()


@pytest.mark.parametrize("name", ["energy", "forces"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_label_that_is_no_number_is_named_by_its_structure(frames, pairs, tmp_path, name, bad):
    some = frames(4)
    labels = dict(some[2].calc.results)
    labels[name] = labels[name] * bad
    some[2] = relabeled(some[2], **labels)
    with pytest.raises(DatasetError, match=f"structure 2: the label {name} holds {bad}"):
        fit(pairs(), some, None, SETTINGS, folder=tmp_path)


def test_one_structure_and_a_generator_are_no_training_set(frames, pairs, tmp_path):
    with pytest.raises(ConfigError, match="one structure"):
        fit(pairs(), frames(1)[0], None, SETTINGS, folder=tmp_path)
    with pytest.raises(ConfigError, match="generator"):
        fit(pairs(), (a for a in frames(2)), None, SETTINGS, folder=tmp_path)


def test_labels_far_beyond_physics_are_named(frames, pairs, tmp_path):
    some = frames(8)
    forces = 1e4 * np.ones((4, 3))
    some[5] = relabeled(some[5], energy=1e6, forces=forces)
    notes = " ".join(fit(pairs(), some, None, SETTINGS, folder=tmp_path).report.notes)
    assert "structure 5 has a force of 1e+04 eV/Å" in notes
    assert "energy 5 of the training set is" in notes


def test_references_that_single_precision_rounds_are_noted(frames, pairs, tmp_path):
    some = frames(8, shift=-5e5)
    notes = fit(pairs(), some, None, SETTINGS, folder=tmp_path).report.notes
    # What the table of this model keeps is a plain number; the note is about the model's dtype.
    assert any("single precision rounds a reference energy" in note for note in notes)


def test_a_scalar_that_is_nan_is_no_label_and_a_word_is_refused():
    sample = {"info": {"gap": float("nan"), "other": "none", "known": 1}}
    assert scalar_label(sample, "gap") is None
    assert scalar_label(sample, "known") == 1.0
    with pytest.raises(ConfigError, match="a number was expected"):
        scalar_label(sample, "other")


def test_named_labels_count_among_what_is_learned(frames):
    from ase_nnp.datasets.sample import from_atoms

    sample = from_atoms(frames(1)[0])
    other = {**sample, "info": {**sample["info"], "gap": 1.0}}
    assert learned_digest(sample) == learned_digest(other)
    assert learned_digest(sample, ["gap"]) != learned_digest(other, ["gap"])


# -- references of a trained model


def test_errors_of_as_many_structures_as_elements_are_no_shift_of_references(frames, pairs):
    model = pairs()
    two = frames(2)  # Cu4 and Cu3Ag: two unknowns fit any two errors
    rows = ase_nnp.predict(model, two, ("energy",), progress=False)
    for atoms, row, error in zip(two, rows, (0.2, -0.3), strict=True):
        atoms.calc.results["energy"] = row["energy"] + error
    assert adapt_references(model, two) is None


def test_another_zero_shifts_references_of_few_structures_too(frames, pairs):
    model = pairs()
    two = frames(2)
    rows = ase_nnp.predict(model, two, ("energy",), progress=False)
    for atoms, row in zip(two, rows, strict=True):
        atoms.calc.results["energy"] = row["energy"] - 300.0 * len(atoms)
    report = adapt_references(model, two)
    assert report is not None
    assert report.shift["Cu"] == pytest.approx(-300.0, abs=0.1)
