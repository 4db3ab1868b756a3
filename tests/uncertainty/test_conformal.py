"""Conformal quantiles and intervals keep the coverage that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ase_nnp.uncertainty.statistics import calibration as cal


@pytest.mark.parametrize("n", [20, 100, 500])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.32])
def test_conformal_coverage_over_many_resamplings(n, alpha):
    rng = np.random.default_rng(100 * n + int(100 * alpha))
    draws = 5000
    scores = np.abs(rng.standard_normal((draws, n)))
    covered = 2 * stats.norm.cdf([cal.conformal_quantile(row, alpha) for row in scores]) - 1
    mean = cal.expected_coverage(n, alpha)
    error = np.sqrt(mean * (1 - mean) / (n + 2) / draws)  # of the mean of draws from a beta law
    assert np.mean(covered) == pytest.approx(mean, abs=4 * error)


def test_float_error_does_not_move_the_conformal_rank():
    assert cal.conformal_rank(19, 0.05) == 19
    for n in range(1, 400):
        for percent in range(1, 100):
            assert cal.conformal_rank(n, percent / 100) == -(-(n + 1) * (100 - percent) // 100)


def test_structures_not_atoms_are_the_unit_of_a_guarantee():
    rng = np.random.default_rng(6)

    def scores(count):
        size = rng.exponential(size=(count, 1))  # atoms of a structure share their fate
        return (size * np.abs(rng.standard_normal((count, 30)))).ravel()

    structure = np.repeat(np.arange(200), 30)
    held = []
    for _ in range(300):
        q = cal.conformal_quantile(cal.structure_scores(scores(200), structure, "max"), 0.1)
        test = cal.structure_scores(scores(200), structure, "max")
        held.append(np.mean(test <= q))
    assert np.mean(held) == pytest.approx(cal.expected_coverage(200, 0.1), abs=0.006)
    one = cal.structure_scores([3.0, 1.0, 2.0], [0, 0, 1], "random", seed=1)
    assert one[0] in (3.0, 1.0)
    assert one[1] == 2.0


def test_weighted_conformal_with_equal_weights_is_the_plain_one():
    scores = np.random.default_rng(8).exponential(size=57)
    for alpha in (0.05, 0.1, 0.5):
        q = cal.weighted_conformal_quantile(scores, np.full(57, 3.0), [3.0], alpha)
        assert q[0] == cal.conformal_quantile(scores, alpha)
    assert np.isinf(cal.weighted_conformal_quantile(scores, np.ones(57), [1000.0]))[0]


def test_cqr_widens_intervals_to_coverage():
    rng = np.random.default_rng(9)
    true = rng.standard_normal(2000)
    offset = cal.cqr_offset(true, -np.ones(2000), np.ones(2000), 0.1)
    assert offset == pytest.approx(0.645, abs=0.08)
    narrow = cal.cqr_offset(true, -np.full(2000, 3.0), np.full(2000, 3.0), 0.1)
    assert narrow < 0


def follow(state, scores):
    """Whether each score in turn was missed, and the miss rate that was aimed at before."""
    rows = [(state.alpha, not state.update(float(score))) for score in scores]
    alphas, missed = np.array(rows, dtype=float).T
    return missed, alphas


@given(st.integers(0, 2**31), st.sampled_from([0.005, 0.02, 0.1]), st.floats(0.05, 0.4))
def test_adaptive_miss_rate_keeps_its_bound_whatever_comes(seed, gamma, alpha):
    rng = np.random.default_rng(seed)
    drift = np.abs(rng.standard_normal(300)) * np.linspace(0.2, 5, 300) ** rng.uniform(-2, 2)
    state = cal.AdaptiveConformal(rng.exponential(size=30), alpha, gamma)
    missed, alphas = follow(state, drift)
    bound = (max(alpha, 1 - alpha) + gamma) / (gamma * 300)  # Gibbs and Candes 2021, Prop. 4.1
    assert abs(missed.mean() - alpha) <= bound + 1e-12
    np.testing.assert_allclose(np.diff(alphas), gamma * (alpha - missed[:-1]))


def test_adaptive_follows_a_shift_that_fixed_conformal_misses():
    rng = np.random.default_rng(10)
    start, shifted = np.abs(rng.standard_normal(100)), 1.6 * np.abs(rng.standard_normal(2000))
    assert np.mean(shifted <= cal.conformal_quantile(start, 0.1)) < 0.75
    state = cal.AdaptiveConformal(start, 0.1, 0.05, extend=True, window=100)
    missed, _ = follow(state, shifted)
    assert 1 - missed.mean() == pytest.approx(0.9, abs=0.01)


def shaken(count, factor, seed):
    """Scores of structures of 45 values each that share a size; ``factor`` is the shift."""
    rng = np.random.default_rng(seed)
    size = factor * rng.gamma(8, 1 / 8, size=(count, 1))
    return size * np.abs(rng.standard_normal((count, 45)))


def test_intervals_along_a_trajectory_hold_after_fifty_labels_in_any_order():
    start, hot = shaken(50, 1.0, 11), shaken(400, 2.0, 12)
    assert np.mean(hot <= np.quantile(start, 0.9)) < 0.7
    held = []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(hot))
        state = cal.AdaptiveIntervals(start, 0.1)
        for number in order[:50]:
            state.update(hot[number])
        held.append(np.mean(hot[order[50:]] <= state.factor()))
    assert np.mean(held) == pytest.approx(0.9, abs=0.02)


@given(st.integers(0, 2**31), st.sampled_from([0.005, 0.05]), st.floats(0.05, 0.4))
def test_the_miss_rate_of_a_trajectory_keeps_its_bound_whatever_comes(seed, gamma, alpha):
    rng = np.random.default_rng(seed)
    drift = np.linspace(0.2, 5, 200) ** rng.uniform(-2, 2)
    state = cal.AdaptiveIntervals(rng.exponential(size=(5, 6)), alpha, gamma)
    missed = [1 - state.update(d * np.abs(rng.standard_normal(6))) for d in drift]
    # Gibbs and Candes 2021, Prop. 4.1, whose proof asks only that a miss is between 0 and 1.
    bound = (max(alpha, 1 - alpha) + gamma) / (gamma * 200)
    assert abs(np.mean(missed) - alpha) <= bound + 1e-12
