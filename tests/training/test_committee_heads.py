"""A committee in one model: trained with it, at no cost to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.training import Settings, fit
from ase_nnp.training.runfile import check_run_file
from ase_nnp.uncertainty import load_uncertainty

QUICK = {"batch": {"structures": 4}, "optimizer": {"lr": 1e-2}, "progress": False}


@pytest.fixture(scope="module")
def trained(frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    model = ase_nnp.build_model("pairs", seed=0, device="cpu")
    settings = Settings(**QUICK, epochs=16, heads=8)
    return fit(model, frames(24), frames(8, seed=1), settings, folder=folder)


@pytest.mark.slow
def test_the_model_is_the_one_that_is_trained_without_a_committee(trained, frames, tmp_path):
    model = ase_nnp.build_model("pairs", seed=0, device="cpu")
    settings = Settings(**QUICK, epochs=16)
    alone = fit(model, frames(24), frames(8, seed=1), settings, folder=tmp_path)
    one, two = trained.model.state_dict(), alone.model.state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert alone.committee is None
    assert not (tmp_path / "heads.uq").exists()


def test_the_committee_is_kept_beside_the_model_and_its_mean_is_the_model(trained, frames):
    model = ase_nnp.load_model(trained.folder / "model.nnp", device="cpu")
    committee = load_uncertainty(trained.folder / "heads.uq", model)
    assert committee.shifts.shape[0] == 8
    np.testing.assert_allclose(committee.shifts.sum(dim=0).numpy(), 0, atol=1e-12)
    assert "forces_std" not in committee.outputs
    some = frames(5, seed=3)
    for plain, row in zip(
        ase_nnp.predict(model, some), ase_nnp.predict(committee, some), strict=True
    ):
        assert row["energy"] == pytest.approx(plain["energy"], abs=1e-5)
        np.testing.assert_array_equal(row["forces"], plain["forces"])
        assert row["energy_std"] > 0


def test_the_spread_of_energies_has_learnt_the_size_of_the_errors(trained, frames):
    train = frames(24)
    rows = ase_nnp.predict(trained.committee, train, ("energy", "energy_std"))
    missed = [r["energy"] - a.get_potential_energy() for r, a in zip(rows, train, strict=True)]
    z = np.array(missed) / [r["energy_std"] for r in rows]
    # Of a Gaussian likelihood at its best; the heads began many times wider.
    assert 0.3 < np.sqrt(np.mean(z**2)) < 2.5
    # Neither one head with seven copies, nor a common shift of all structures.
    assert float(trained.committee.shifts.std(dim=0).min()) > 0
    assert np.ptp([r["energy_std"] for r in rows]) > 0


def test_an_interrupted_run_has_the_same_committee(trained, frames, tmp_path):
    for epochs in (6, 16):
        model = ase_nnp.build_model("pairs", seed=0, device="cpu")
        settings = Settings(**QUICK, epochs=16, heads=8)
        callbacks = pytest.MonkeyPatch()
        from ase_nnp.training.run_callbacks import RunCallbacks

        ended = RunCallbacks.on_epoch_end

        def stop(self, loop, row, last=epochs, ended=ended):
            ended(self, loop, row)
            self.stopped = self.stopped or ("by hand" if loop.epoch >= last < 16 else "")

        callbacks.setattr(RunCallbacks, "on_epoch_end", stop)
        try:
            result = fit(model, frames(24), frames(8, seed=1), settings, folder=tmp_path)
        finally:
            callbacks.undo()
    assert torch.equal(result.committee.shifts, trained.committee.shifts)


def test_heads_of_a_model_with_a_correction_are_beneath_it(frames, tmp_path):
    from ase_nnp.registry.installed import installed

    if "zbl" not in installed().corrections:
        pytest.skip("the correction zbl is not installed")
    whole = ase_nnp.load_model(ase_nnp.build_model("pairs", seed=0), corrections=["zbl"])
    settings = Settings(**QUICK, epochs=2, heads=4)
    result = fit(whole, frames(8), None, settings, folder=tmp_path)
    atoms = frames(1)[0]
    (wanted,) = ase_nnp.predict(result.committee, [atoms])
    (plain,) = ase_nnp.predict(result.model, [atoms])
    assert wanted["energy_std"] > 0
    assert wanted["energy"] == pytest.approx(plain["energy"], abs=1e-4)
    atoms.calc = ase_nnp.NNPCalculator(
        tmp_path / "model.nnp", uncertainty=tmp_path / "heads.uq", device="cpu"
    )
    atoms.get_forces()
    assert atoms.calc.results["energy_std"] == pytest.approx(wanted["energy_std"], rel=1e-4)
    np.testing.assert_allclose(atoms.calc.results["forces"], plain["forces"], atol=1e-5)
    assert atoms.calc.model.corrections == ("zbl",)


def test_run_files_take_heads_and_a_run_without_energies_refuses_them(frames, pairs, tmp_path):
    run = check_run_file({"model": {"family": "pairs"}, "data": {"train": "x"}, "heads": 8})
    assert run.settings().heads == 8
    settings = Settings(**QUICK, epochs=1, heads=2, losses={"energy": None})
    with pytest.raises(ConfigError, match="energy term"):
        fit(pairs(), frames(8), None, settings, folder=tmp_path)
