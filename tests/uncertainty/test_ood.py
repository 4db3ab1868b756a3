"""Distances from the training set, on plain arrays, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

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
