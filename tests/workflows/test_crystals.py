"""Properties of crystals with error bars, against members one by one and draws of weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

import ase_nnp
from ase_nnp.uncertainty import DeepEnsemble, LastLayerLaplace
from ase_nnp.workflows.crystals import elastic, eos, phonons
from ase_nnp.workflows.eos import equation_of_state, fit_energies

sys.path.insert(0, str(Path(__file__).parent.parent / "uncertainty"))
from toy_models import Pair, label


@pytest.fixture(scope="module")
def members():
    return [ase_nnp.build_model("lj", {"epsilon": e}, dtype="float64") for e in (0.36, 0.4, 0.46)]


def crystal():
    return bulk("Ar", "fcc", a=3.56)


def test_each_members_own_fit_gives_the_bar(members):
    answer = eos(crystal(), DeepEnsemble(members), span=0.04)
    rows = [
        equation_of_state(crystal(), ase_nnp.NNPCalculator(m), span=0.04).numbers for m in members
    ]
    np.testing.assert_allclose(answer.std, np.std(rows, axis=0, ddof=1), rtol=1e-6, atol=1e-9)


def test_elastic_constants_and_phonons_scale_with_the_members_depth(members):
    # Every force constant of a pair potential is proportional to its depth.
    stiff = elastic(crystal(), DeepEnsemble(members))
    relative = np.std([0.36, 0.4, 0.46], ddof=1) / np.mean([0.36, 0.4, 0.46])
    largest = np.abs(stiff.result.numbers) > 1.0
    ratio = stiff.std[largest] / np.abs(stiff.result.numbers[largest])
    np.testing.assert_allclose(ratio, relative, rtol=1e-3)
    bands = phonons(crystal(), DeepEnsemble(members), supercell=(2, 2, 2), points=5, engine="ase")
    roots = np.sqrt([0.36, 0.4, 0.46])
    top = np.unravel_index(np.argmax(bands.result.bands), bands.result.bands.shape)
    # Frequencies go with the root of the depth.
    wanted = bands.result.bands[top] * np.std(roots, ddof=1) / np.sqrt(np.mean(roots**2))
    assert bands.std[top] == pytest.approx(wanted, rel=1e-3)


def test_a_last_layers_bar_is_the_spread_over_draws_of_its_weights():
    model = Pair(width=6, seed=3).double()
    frames = []
    for a in np.linspace(3.2, 4.2, 12):
        frames.append(bulk("C", "fcc", a=a))
    fitted = LastLayerLaplace([model], train=label(frames, model), noise={"energy": 1e-4})
    volumes = np.linspace(9, 13, 9)
    cells = [bulk("C", "fcc", a=(4 * v) ** (1 / 3)) for v in volumes]
    # Energies of a curve with a minimum, whose doubt is the layer's.
    from ase_nnp.uncertainty.differences import energies
    from ase_nnp.uncertainty.observables import covariance
    from ase_nnp.workflows.crystals import _through_fit

    observed = energies(fitted, cells)
    target = 0.02 * (volumes - 11) ** 2 - 0.001 * (volumes - 11) ** 3
    shifted = [one + (t - one.value) for one, t in zip(observed, target, strict=True)]
    root = np.linalg.cholesky(covariance(shifted) + 1e-16 * np.eye(9))
    noise = np.random.default_rng(0).standard_normal((2000, 9))
    draws = [fit_energies(volumes, target + root @ z, "birchmurnaghan").volume for z in noise]
    first_order = _through_fit(shifted, volumes, "birchmurnaghan", 0)
    assert first_order.std == pytest.approx(np.std(draws), rel=0.08)


def test_a_single_model_says_why_it_has_no_bar(members):
    answer = eos(crystal(), members[0], span=0.04)
    assert answer.std is None
    assert "No ±" in answer.covers
