"""Corrections in training: subtracted from the labels, saved with the model, added at inference."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import ase_nnp
from ase_nnp import load_model, predict
from ase_nnp.errors import ConfigError
from ase_nnp.models.corrections import add_corrections, build_term, stored_corrections
from ase_nnp.models.sums import sum_potentials
from ase_nnp.training import Settings, fit
from ase_nnp.training.corrected_labels import without_corrections
from ase_nnp.training.references import refit_references
from ase_nnp.training.runfile import check_run_file
from ase_nnp.training.running import run

WIDE = {"zbl": {"inner": 0.5, "outer": 1.4}}  # reaches the bonds, so that labels change


def wide():
    return build_term("zbl", WIDE["zbl"]).to(torch.float64)


def fresh(**config):
    return ase_nnp.build_model("pairs", {"width": 8, **config}, seed=1, device="cpu")


def settings(**changes):
    options = {"epochs": 1, "batch": {"structures": 4}, "progress": False, "losses": {"stress": {}}}
    return Settings(**{**options, **changes})


def moved(structures, term, sign):
    """Structures with a potential added to their labels."""
    made = []
    for atoms, row in zip(structures, predict(term, structures), strict=True):
        results = {k: atoms.calc.results[k] + sign * row[k] for k in ("energy", "forces")}
        twin = atoms.copy()
        twin.calc = SinglePointCalculator(twin, **results)
        made.append(twin)
    return made


def test_labels_lack_what_the_correction_adds(frames):
    data, stored = frames(6), [{"name": "zbl", "config": WIDE["zbl"]}]
    left = without_corrections(data, stored)
    expected = moved(data, wide(), -1.0)
    assert len(left) == 6
    for k, atoms in enumerate(expected):
        assert left[k].get_potential_energy() == pytest.approx(atoms.get_potential_energy())
        assert abs(atoms.get_potential_energy() - data[k].get_potential_energy()) > 1.0
        np.testing.assert_allclose(left[k].get_forces(), atoms.get_forces(), atol=1e-10)
        sample, stress = left.arrays(k), predict(wide(), [data[k]], ("stress",))[0]["stress"]
        np.testing.assert_allclose(
            sample["stress"] + stress, data[k].get_stress(voigt=False), atol=1e-10
        )
    assert [len(a) for a in left[1:3]] == [4, 4]


def test_training_under_a_correction_is_training_on_the_rest(frames, tmp_path):
    data, options = frames(8), settings(losses={})
    under = add_corrections(fresh(), WIDE)
    one = fit(under, data, settings=options, folder=tmp_path / "a")
    rest = moved(data, wide(), -1.0)
    two = fit(fresh(), rest, settings=options, folder=tmp_path / "b")
    assert one.model.corrections == ("zbl",)
    assert two.model.corrections == ()
    assert stored_corrections(one.model)[0]["config"] == WIDE["zbl"]

    # What was subtracted comes back: in memory, and out of the file.
    whole = predict(load_model(tmp_path / "a" / "model.nnp", device="cpu"), data)
    for got, base, term in zip(whole, predict(two.model, data), predict(wide(), data), strict=True):
        assert got["energy"] == pytest.approx(base["energy"] + term["energy"], abs=2e-4)
        np.testing.assert_allclose(got["forces"], base["forces"] + term["forces"], atol=1e-3)
    note = json.loads((tmp_path / "a" / "run.json").read_text())["notes"]
    assert note["corrections"] == [{"name": "zbl", "config": WIDE["zbl"]}]


@pytest.mark.parametrize("corrections", [["zbl"], WIDE], ids=["names", "parameters"])
def test_the_run_file_names_corrections(frames, tmp_path, monkeypatch, corrections):
    monkeypatch.chdir(tmp_path)
    write("train.extxyz", frames(8))
    content = {
        "model": {"family": "pairs", "config": {"width": 8}},
        "data": {"train": "train.extxyz", "valid_fraction": 0.25},
        "corrections": corrections,
        "epochs": 1,
        "progress": False,
    }
    first = run(check_run_file(content))
    assert first.model.corrections == ("zbl",)
    close = Atoms("Cu2", positions=[[0, 0, 0], [0.4, 0, 0]])
    assert predict(first.model, [close])[0]["energy"] > 100.0

    # Trained further, the model keeps its correction and counts it once.
    again = {
        **content,
        "model": {"start": "run/model.nnp"},
        "corrections": [],
        "output": "b",
        "finetune": {"refit_references": True},
    }
    assert run(check_run_file(again)).model.corrections == ("zbl",)
    with pytest.raises(ConfigError, match="counted twice"):
        run(check_run_file({**again, "corrections": ["zbl"], "output": "c"}))


def test_references_are_refitted_beneath_the_correction(frames):
    data = frames(8)
    whole = add_corrections(fresh(), WIDE)
    whole.set_scales({29: 0.0, 47: 0.0})
    report = refit_references(whole, data)
    assert any(whole.base.table)
    rest = [
        a.get_potential_energy() - row["energy"]
        for a, row in zip(data, predict(whole, data), strict=True)
    ]
    assert report.after["rms"] < 0.5 * report.before["rms"]
    assert abs(np.mean(rest)) < 1e-3


def test_a_sum_of_models_is_not_trained_as_one(frames, tmp_path):
    with pytest.raises(ConfigError, match="not trained as one model"):
        fit(sum_potentials([fresh(), fresh()]), frames(4), settings=settings(), folder=tmp_path)
