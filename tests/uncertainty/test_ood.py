"""Distances from the training set, on plain arrays, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_models import Pair, label, molecules

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.predictor import predict
from ase_nnp.uncertainty import fit, load_uncertainty, save_uncertainty
from ase_nnp.uncertainty.methods.latent import reduce_atoms
from ase_nnp.uncertainty.statistics import metrics as met
from ase_nnp.uncertainty.statistics import ood


def test_mahalanobis_is_its_definition_per_element():
    rng = np.random.default_rng(15)
    features, numbers = rng.normal(size=(300, 3)), rng.choice([1, 6], 300)
    features[numbers == 6] += 5
    fit = ood.Mahalanobis.fit(features, numbers, ridge=0)
    own = features[numbers == 6]
    delta = np.ones(3) - own.mean(axis=0)
    want = np.sqrt(delta @ np.linalg.solve(np.cov(own.T), delta))
    got = fit(np.ones((3, 3)), [6, 1, 79])
    assert got[0] == pytest.approx(want)
    assert got[1] < got[0]
    assert got[2] == np.inf
    close = ood.mahalanobis(np.ones(3), own.mean(axis=0), np.cov(own.T))
    assert close[0] == pytest.approx(want)


def test_constant_features_do_not_break_mahalanobis():
    features = np.c_[np.random.default_rng(16).normal(size=20), np.ones(20)]
    assert np.isfinite(ood.Mahalanobis.fit(features, np.ones(20))(features, np.ones(20))).all()


def test_knn_distance_is_brute_force():
    rng = np.random.default_rng(17)
    known, asked = rng.normal(size=(50, 4)), rng.normal(size=(7, 4))
    table = np.sort(np.linalg.norm(asked[:, None] - known, axis=2), axis=1)
    one = ood.KNNDistance.fit(known, np.ones(50), k=1)
    np.testing.assert_allclose(one(asked, np.ones(7)), table[:, 0])
    fit = ood.KNNDistance.fit(known, np.ones(50), k=10)
    np.testing.assert_allclose(fit(asked, np.ones(7)), table[:, :10].mean(axis=1))
    assert np.isinf(fit(asked, np.full(7, 2))).all()
    few = ood.KNNDistance.fit(known[:4], np.ones(4), k=10)
    assert np.isfinite(few(asked, np.ones(7))).all()


def test_ood_scores_of_structures():
    assert ood.structure_ood_score([1.0, 3, 2, 9], [0, 0, 1, 1]).tolist() == [3, 9]
    assert ood.structure_ood_score([1.0, 3, 2, 9], [0, 0, 1, 1], "mean").tolist() == [2, 5.5]
    assert met.auroc_ood([0.0, 1, 2], [1.5, 3]) == pytest.approx(5 / 6)
    ranks = ood.rank_average([1.0, 2, 3], [10.0, 30, 20])
    assert ranks.argmin() == 0
    known = ood.rank_average([5.0, -1.0], reference=[[0.0, 1, 2, 3]])
    assert known.tolist() == [1, 0]
    assert ood.ood_threshold(np.arange(101.0), 0.99) == pytest.approx(99)


@pytest.mark.parametrize("far", [9.0, np.inf])
def test_each_score_of_a_structure_is_its_definition(far):
    rng = np.random.default_rng(19)
    atoms = [rng.random(n) for n in (1, 4, 30)]
    atoms[2][5] = far
    order = rng.permutation(35)  # structures need not come in order
    batch = torch.tensor(np.repeat([0, 1, 2], [1, 4, 30])[order])
    values = torch.tensor(np.concatenate(atoms)[order])
    for how, by_hand in (
        ("largest", np.max),
        ("mean", np.mean),
        ("quantile", lambda x: np.quantile(x, 0.9, method="higher")),
    ):
        want = [by_hand(x) for x in atoms]
        np.testing.assert_allclose(reduce_atoms(values, batch, 3, how).numpy(), want, rtol=1e-12)


@pytest.fixture(scope="module")
def train():
    return label(molecules(40, seed=1), Pair(seed=9).double(), noise=0.02)


@pytest.mark.parametrize("kind", ["mahalanobis", "knn"])
@pytest.mark.parametrize("score", ["largest", "mean", "quantile", "rank"])
def test_the_score_is_stated_and_its_flag_has_the_rate_of_false_alarms(
    score, kind, train, tmp_path
):
    model = Pair(seed=3).double()
    inner = fit("last_layer", model, train=train, force_std="none")
    both = fit("latent", inner, train=train, kind=kind, score=score, quantile=0.9)
    assert both.uq["score"] == score
    assert both.uq["score_false_alarms"] == pytest.approx(0.1)
    rows = predict(both, train)
    assert np.mean([r["ood_flag"] for r in rows]) == pytest.approx(0.1, abs=0.03)

    squeezed = [a.copy() for a in molecules(10, seed=4)]
    for atoms in squeezed:
        atoms.positions *= 0.6
    far = predict(both, squeezed)
    assert np.mean([r["ood_flag"] for r in far]) > 0.7
    assert met.auroc_ood([r["ood_score"] for r in rows], [r["ood_score"] for r in far]) > 0.9

    save_uncertainty(both, tmp_path / "my.uq")
    back = load_uncertainty(tmp_path / "my.uq", model)
    assert back.uq == both.uq
    for one, two in zip(predict(back, squeezed), far, strict=True):
        assert one["ood_score"] == pytest.approx(two["ood_score"], rel=1e-9)


def test_a_rank_of_energy_stds_needs_energy_stds(train):
    with pytest.raises(UncertaintyError, match="needs a potential that gives energy_std"):
        fit("latent", Pair().double(), train=train, score="rank")
    with pytest.raises(UncertaintyError, match="largest, mean, quantile, rank"):
        fit("latent", Pair().double(), train=train, score="median")
