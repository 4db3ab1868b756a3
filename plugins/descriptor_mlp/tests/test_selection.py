"""Mutual information against closed forms and scikit-learn; selection where the order is known."""

from __future__ import annotations

import numpy as np
import pytest

from ase_nnp.errors import ConfigError
from ase_nnp_descriptor_mlp import (
    mutual_information,
    normalized_mutual_information,
    select_features,
)


def gaussians(rho, count=4000, seed=0):
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, count))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9])
def test_mutual_information_of_gaussian_variables_is_that_of_the_closed_form(rho):
    x, y = gaussians(rho)
    # 4000 points scatter by about 0.02 nats.
    assert mutual_information(x, y) == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.05)


def test_a_sample_of_a_few_values_has_their_entropy():
    x = np.repeat(np.arange(4.0), 250)
    assert mutual_information(x, x) == pytest.approx(np.log(4), abs=5e-3)
    assert mutual_information(x, np.tile(np.arange(4.0), 250)) == pytest.approx(0, abs=1e-2)
    assert mutual_information(x, np.ones(1000)) == pytest.approx(0, abs=1e-2)


@pytest.mark.slow  # the import of scikit-learn
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.95])
def test_mutual_information_is_that_of_scikit_learn(rho):
    feature_selection = pytest.importorskip("sklearn.feature_selection")
    x, y = gaussians(rho, 500, seed=2)
    wanted = feature_selection.mutual_info_regression(x[:, None], y, random_state=0)[0]
    assert mutual_information(x, y) == pytest.approx(wanted, abs=1e-6)


def test_units_and_order_of_the_variables_do_not_matter():
    x, y = gaussians(0.7, 300)
    wanted = mutual_information(x, y)
    assert mutual_information(1e6 * y + 5, -1e-3 * x) == pytest.approx(wanted, abs=1e-9)


def test_normalized_information_is_one_of_itself_and_none_of_a_constant():
    x, y = gaussians(0.0, 500)
    assert normalized_mutual_information(x, x) == pytest.approx(1.0)
    assert normalized_mutual_information(x, y) < 0.05
    assert normalized_mutual_information(x, np.ones(500)) == 0.0


def test_features_come_in_the_order_of_what_they_say_and_copies_last():
    rng = np.random.default_rng(1)
    a, b, c, noise = rng.normal(size=(4, 800))
    target = 3 * a + 1.5 * b + 0.7 * c
    twin = a + 0.01 * rng.normal(size=800)
    features = np.stack([noise, twin, c, a, b, np.ones(800)], axis=1)
    chosen = select_features(features, target, 6)
    assert chosen[0] in (1, 3)  # a or what is almost a
    assert chosen[1:3] == [4, 2]  # then b and c, though the twin says more than either
    assert sorted(chosen) == [0, 1, 2, 3, 4]  # the constant never


def test_several_targets_take_turns_and_may_lack_labels():
    rng = np.random.default_rng(3)
    a, b, noise = rng.normal(size=(3, 400))
    targets = np.stack([a, b], axis=1)
    targets[::3, 1] = np.nan
    assert set(select_features(np.stack([noise, a, b], axis=1), targets, 2)) == {1, 2}


@pytest.mark.parametrize(
    ("x", "y"), [(np.ones(3), np.ones(3)), (np.ones(9), np.ones(8)), (np.full(9, np.nan),) * 2]
)
def test_what_is_no_pair_of_samples_is_refused(x, y):
    with pytest.raises(ConfigError):
        mutual_information(x, y)


def test_features_that_are_not_finite_or_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="finite"):
        select_features(np.full((9, 2), np.inf), np.ones(9), 1)
    with pytest.raises(ConfigError, match=r"\(N, F\)"):
        select_features(np.ones((9, 2)), np.ones(8), 1)
