"""Error bars say on what they rest, and warn where that is what the model was trained on."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from toy_models import Pair

from ase_nnp.errors import DatasetError, UncertaintyError
from ase_nnp.uncertainty import fit, save_uncertainty
from ase_nnp.uncertainty.evaluation import evaluate
from ase_nnp.uncertainty.files import uncertainty_info
from ase_nnp.uncertainty.fitting import calibrate, data_hash


@pytest.fixture(scope="module")
def model():
    return Pair(width=6, seed=3).double().freeze()


def test_training_structures_that_calibrate_are_counted_in_a_warning(model, train, held_back):
    with pytest.warns(UserWarning, match="3 of 15 structures of calibration are training"):
        fit("latent", model, train=train, calibration=[*train[:3], *held_back[:12]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit("latent", model, train=train, calibration=held_back[:12])


@pytest.mark.slow
def test_a_later_calibration_is_what_the_bars_rest_on(model, train, held_back, tmp_path):
    bars = fit("auto", model, train=train, calibration=held_back)
    assert bars.uq["calibrator"] == "leave-kind-out"
    save_uncertainty(bars, tmp_path / "first.uq")
    assert uncertainty_info(tmp_path / "first.uq")["data_hash"] == data_hash(held_back)

    calibrate(bars, held_back[:12], calibrator="affine", progress=False)
    uq = bars.uq
    assert (uq["calibrator"], uq["n_cal"]) == ("affine", 12)
    assert uq["calibration_hash"] == data_hash(held_back[:12])


def test_an_evaluation_on_the_structures_of_the_calibration_says_so(model, train, held_back):
    bars = fit("latent", model, train=train, calibration=held_back)
    said = " ".join(evaluate(bars, held_back, progress=False).notes)
    assert "calibrated the error bars" in said
    assert "calibrated" not in " ".join(evaluate(bars, held_back[:-1], progress=False).notes)
    with pytest.raises(UncertaintyError, match="no structures"):
        evaluate(bars, [])


def test_labels_of_another_structure_or_none_calibrate_nothing(model, train, held_back):
    strange = [a.copy() for a in held_back[:12]]
    for atoms, other in zip(strange, held_back[:12], strict=True):
        atoms.calc = other.calc
    strange[5].positions[0] += 0.3
    with pytest.raises(DatasetError, match="structure 5: its calculator holds results"):
        fit("latent", model, train=train, calibration=strange)

    atoms = strange[5] = held_back[5].copy()
    labels = {"energy": np.nan, "forces": held_back[5].calc.results["forces"]}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    with pytest.raises(DatasetError, match="structure 5: the label energy holds nan"):
        fit("auto", model, train=train, calibration=strange)
