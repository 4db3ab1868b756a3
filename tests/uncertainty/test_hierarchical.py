"""The hierarchical comparison: a textbook's example, limits that are known, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.hierarchical import compare_errors, hierarchical_mean

#: Eight schools, Gelman et al., Bayesian Data Analysis, table 5.2.
EFFECTS = [28, 8, -3, 7, -1, 1, 18, 12]
ERRORS = [15, 10, 16, 11, 9, 11, 10, 18]


def test_eight_schools_give_the_published_posterior():
    posterior = hierarchical_mean(EFFECTS, ERRORS)
    # Published by simulation: mean of mu 7.9 to 8.0, std 5; median of tau 5.2; school A 11.4.
    assert posterior.mean == pytest.approx(8.0, abs=0.3)
    assert posterior.std == pytest.approx(5.1, abs=0.3)
    assert posterior.between == pytest.approx(5.2, abs=0.5)
    assert posterior.effects[0] == pytest.approx(11.4, abs=0.4)
    assert posterior.effects[2] == pytest.approx(6.2, abs=0.5)


def test_equal_means_have_no_spread_between_data_sets():
    posterior = hierarchical_mean([1.0] * 40, [0.1] * 40)
    assert posterior.between < 0.05
    assert posterior.std == pytest.approx(0.1 / np.sqrt(40), rel=0.1)


def test_means_without_error_are_a_sample_of_the_population():
    means = np.random.default_rng(0).normal(0.3, 0.2, 40)
    posterior = hierarchical_mean(means, [1e-5] * 40)
    # With known tau the mean is normal; with a flat prior on tau Student's t, nearly the same.
    assert posterior.mean == pytest.approx(means.mean(), abs=1e-3)
    expected = stats.t(38, means.mean(), means.std(ddof=1) * np.sqrt(1 + 1 / 40)).cdf(0.0)
    assert posterior.probability_below(0.0) == pytest.approx(expected, abs=0.01)


def test_a_clear_difference_is_significant_and_noise_is_not():
    rng = np.random.default_rng(1)
    sets = {f"set {k}": np.abs(rng.normal(0, 0.2, 200)) for k in range(6)}
    worse = {k: e + 0.1 + 0.02 * rng.normal(size=200) for k, e in sets.items()}
    same = {k: e + 0.002 * rng.normal(size=200) for k, e in sets.items()}
    clear = compare_errors(sets, worse, rope=0.01)
    assert clear.significant
    assert clear.a_better > 0.99
    assert compare_errors(worse, sets, rope=0.01).b_better > 0.99
    alike = compare_errors(sets, same, rope=0.01)
    assert not alike.significant
    assert alike.equivalent > 0.99


def test_a_difference_on_one_data_set_is_no_difference_on_a_new_one():
    rng = np.random.default_rng(2)
    a = {f"set {k}": np.abs(rng.normal(0, 0.2, 400)) for k in range(5)}
    b = {k: e.copy() for k, e in a.items()}
    b["set 0"] = b["set 0"] + 0.5
    for k in range(1, 5):
        b[f"set {k}"] = b[f"set {k}"] + 0.001 * rng.normal(size=400)
    result = compare_errors(a, b, rope=0.01)
    pooled = np.concatenate([a[k] - b[k] for k in a])
    assert stats.ttest_1samp(pooled, 0).pvalue < 1e-10
    assert not result.significant


def test_probabilities_hold_in_simulation():
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(300):
        effects = rng.normal(0.1, 0.05, 8)
        errors = np.full(8, 0.04)
        posterior = hierarchical_mean(rng.normal(effects, errors), errors)
        inside += 0.05 < posterior.probability_below(rng.normal(0.1, 0.05)) < 0.95
    # A binomial of 300 with 0.9 lies between 0.85 and 0.95 but for one case in 300; the flat
    # prior on tau makes intervals of few data sets a little wider than needed.
    assert 0.85 < inside / 300 < 0.975


def test_fewer_than_three_data_sets_speak_of_their_records_only():
    rng = np.random.default_rng(0)
    a = {"x": rng.random(50)}
    result = compare_errors(a, {"x": a["x"] + 0.1 + 0.01 * rng.normal(size=50)})
    assert result.over == "these records"
    assert result.a_better > 0.99


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"x": [1, 2]}, {"y": [1, 2]}),
        ({"x": [1, 2]}, {"x": [1, 2, 3]}),
        ({"x": [1]}, {"x": [1]}),
        ({"x": [1, np.nan]}, {"x": [1, 2]}),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b):
    with pytest.raises(UncertaintyError):
        compare_errors(a, b)
