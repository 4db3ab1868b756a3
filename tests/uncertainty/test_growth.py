"""Widths that grow with novelty, kinds, and distances with a kind left out: known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.growth import LogLinearWidth, fit_log_linear
from ase_nnp.uncertainty.statistics.kinds import cluster_kinds, kinds_of, name_kinds
from ase_nnp.uncertainty.statistics.novelty import choose_score, left_out_distances


def power_law(count, seed=0, power=1.5, level=0.3):
    """Errors of three components whose std is level * distance ** power."""
    rng = np.random.default_rng(seed)
    distance = np.exp(rng.normal(size=count))
    return distance, level * distance**power, rng.standard_normal((count, 3))


def test_the_power_of_the_distance_and_the_level_are_found():
    distance, std, noise = power_law(8000)
    fit = fit_log_linear(noise * std[:, None], np.log(distance)[:, None])
    assert fit.slopes[0] == pytest.approx(1.5, abs=0.02)
    assert np.exp(fit.intercept) == pytest.approx(0.3, rel=0.02)


def test_without_a_sign_that_moves_the_width_is_the_root_mean_square():
    error = np.random.default_rng(1).standard_normal((50, 3))
    fit = fit_log_linear(error, np.full((50, 1), 2.0))
    assert fit([[7.0]])[0] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-6)


def test_the_quantile_is_that_of_the_errors_at_every_distance():
    distance, std, noise = power_law(20000, seed=2)
    fit = fit_log_linear(noise * std[:, None], np.log(distance)[:, None], loss="quantile")
    half = fit(np.log(distance)[:, None])
    assert fit.slopes[0] == pytest.approx(1.5, abs=0.02)
    # At distance 1, where the level is: 1.645 std, but for the rounded corner of the loss.
    assert fit([[0.0]])[0] == pytest.approx(0.3 * stats.norm.ppf(0.95), rel=0.02)
    held = np.abs(noise * std[:, None]) <= half[:, None]
    for part in np.array_split(np.argsort(distance), 10):
        assert held[part].mean() == pytest.approx(0.9, abs=0.02)


def test_one_factor_misses_under_a_shift_where_the_power_law_holds():
    distance, std, noise = power_law(3000, seed=3)
    fit = fit_log_linear(noise * std[:, None], np.log(distance)[:, None], loss="quantile")
    far, wide = 4 * distance, std * 4**1.5
    inside = np.abs(noise * wide[:, None])
    assert np.mean(inside <= fit(np.log(far)[:, None])[:, None]) == pytest.approx(0.9, abs=0.02)
    constant = np.quantile(np.abs(noise * std[:, None]), 0.9)
    assert np.mean(inside <= constant) < 0.6


def test_errors_of_another_source_teach_the_power_and_not_the_level():
    distance, std, noise = power_law(4000, seed=4)
    source = (np.arange(4000) >= 200).astype(int)
    error = noise * std[:, None] * np.where(source, 0.4, 1.0)[:, None]
    fit = fit_log_linear(error, np.log(distance)[:, None], None, source)
    assert fit.slopes[0] == pytest.approx(1.5, abs=0.03)
    assert np.exp(fit.intercept) == pytest.approx(0.3, rel=0.06)
    assert np.exp(fit.sources[1]) == pytest.approx(0.4, rel=0.08)
    with pytest.raises(UncertaintyError, match="source 0"):
        fit_log_linear(error, np.log(distance)[:, None], None, np.ones(4000))


def test_groups_have_levels_of_their_own_and_an_unknown_one_the_common():
    distance, std, noise = power_law(6000, seed=5)
    group = np.where(np.arange(6000) % 2, 1, 8)
    error = noise * std[:, None] * np.where(group == 8, 3.0, 1.0)[:, None]
    fit = fit_log_linear(error, np.log(distance)[:, None], group)
    one, eight, other = fit(np.zeros((3, 1)), [1, 8, 79])
    assert eight / one == pytest.approx(3, rel=0.05)
    assert one < other < eight
    again = LogLinearWidth.from_json(fit.to_json())
    np.testing.assert_allclose(
        again(np.ones((3, 1)), [1, 8, 79]), fit(np.ones((3, 1)), [1, 8, 79]), rtol=1e-12
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(-2, 2))
def test_a_width_never_falls_with_novelty_whatever_the_errors(seed, power):
    rng = np.random.default_rng(seed)
    signs = rng.normal(size=(60, 2))
    error = rng.standard_normal(60) * np.exp(power * signs[:, 0])
    for loss in ("likelihood", "quantile"):
        fit = fit_log_linear(error, signs, loss=loss, prior=1.0)
        assert (fit.slopes >= 0).all()
        assert np.isfinite(fit(signs)).all()


def test_few_errors_are_drawn_to_the_prior_and_many_are_not():
    distance, std, noise = power_law(2000, seed=6, power=0.2)
    signs, error = np.log(distance)[:, None], noise * std[:, None]
    few = fit_log_linear(error[:2], signs[:2], prior=1.0).slopes[0]
    many = fit_log_linear(error, signs, prior=1.0).slopes[0]
    assert many == pytest.approx(0.2, abs=0.04)
    assert 0.5 < few < 1.5


def test_errors_that_are_all_zero_are_refused():
    with pytest.raises(UncertaintyError, match="All errors are zero"):
        fit_log_linear(np.zeros(5), np.ones((5, 1)))
    with pytest.raises(UncertaintyError, match="signs of shape"):
        fit_log_linear(np.ones(5), np.ones(5))


def test_clusters_are_the_groups_that_were_made_and_none_is_tiny():
    rng = np.random.default_rng(7)
    centers = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0]])
    truth = np.repeat([0, 1, 2], 30)
    rows = centers[truth] + rng.normal(size=(90, 3))
    groups = cluster_kinds(rows, count=3)
    pairs = {(int(a), int(b)) for a, b in zip(truth, groups, strict=True)}
    assert len(pairs) == 3
    rows[:2] += 100  # two structures are no kind
    assert np.bincount(cluster_kinds(rows, count=4)).min() >= 5
    assert cluster_kinds(np.ones((40, 2))).tolist() == [0] * 40
    assert cluster_kinds(rng.normal(size=(6, 2))).tolist() == [0] * 6


def test_kinds_are_the_labels_given_else_compositions_else_clusters():
    rng = np.random.default_rng(8)
    features = rng.normal(size=(30, 4))
    number, names = kinds_of(["H2O"] * 30, features, [300] * 10 + [600] * 20)
    assert names == ["300", "600"]
    assert number.tolist() == [0] * 10 + [1] * 20
    number, names = kinds_of(["TiO2"] * 10 + ["VO2"] * 10 + ["SnO2"] * 10, features)
    assert names == ["SnO2", "TiO2", "VO2"]
    assert number[0] == 1
    number, names = kinds_of(["H2O"] * 30, features)
    assert names[0] == "cluster 0"
    assert len(names) == number.max() + 1
    assert name_kinds(["b", "a"])[1] == ["a", "b"]
    for labels in ([1] * 29, [1] * 30):
        with pytest.raises(UncertaintyError, match="kind"):
            kinds_of(["H2O"] * 30, features, labels)


def test_left_out_distances_are_brute_force():
    rng = np.random.default_rng(9)
    rows, numbers = rng.normal(size=(40, 3)), np.tile([1, 6], 20)
    owner, kinds = np.repeat(np.arange(10), 4), np.arange(10) % 3
    apart = left_out_distances(rows, numbers, owner, kinds, k=3)
    for i in (0, 7, 39):
        gaps = np.linalg.norm(rows - rows[i], axis=1)
        same = numbers == numbers[i]
        for got, bar in (
            (apart.structure[i], owner != owner[i]),
            (apart.kind[i], kinds[owner] != kinds[owner[i]]),
        ):
            assert got == pytest.approx(np.sort(gaps[same & bar])[:3].mean())
    alone = left_out_distances(rows, numbers, owner, np.zeros(10, int))
    assert np.isinf(alone.kind).all()
    assert np.isfinite(alone.structure).all()


def test_the_score_is_the_one_that_tells_left_out_kinds():
    kinds = np.repeat([0, 1], 20)
    rng = np.random.default_rng(10)
    blind = rng.normal(size=40)
    known = {"blind": blind, "sees": rng.normal(size=40)}
    novel = {"blind": blind, "sees": known["sees"] + 20}
    best, table = choose_score(known, novel, kinds, ["blind", "sees"])
    assert best == "sees"
    assert table["sees"] == 1
    # As good as each other: the one preferred.
    assert choose_score(novel, novel, kinds, ["sees", "blind"])[0] == "sees"


def test_few_observations_are_drawn_to_the_power_of_each_sign():
    # Both signs grow alike here: only the aim can tell them apart, whatever the level.
    rng = np.random.default_rng(0)
    sign = rng.normal(size=6)
    rows = np.stack([sign, sign], axis=1)
    errors = np.exp(sign) * rng.choice([-0.1, 0.1], 6)

    first = fit_log_linear(errors, rows, prior=[1.0, 0.0]).slopes
    both = fit_log_linear(errors, rows, prior=0.5).slopes
    assert first == pytest.approx([1.0, 0.0], abs=0.02)
    assert both == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize(("spread", "stays"), [(0.15, True), (2.0, False)])
def test_a_prior_for_each_observation_yields_only_to_signs_that_vary(spread, stays):
    """Errors that have nothing to do with a sign; 2000 of them would tell any power of it."""
    rng = np.random.default_rng(5)
    signs = spread * rng.standard_normal((2000, 1))
    errors = rng.standard_normal(2000)
    few = fit_log_linear(errors, signs, prior=1.0)
    each = fit_log_linear(errors, signs, prior=1.0, strength=0.5)
    assert few.slopes[0] < 0.35
    # The minimum of (p s)^2 + (p - 1)^2 / 2 with the sign's variance s^2.
    assert each.slopes[0] == pytest.approx(0.5 / (0.5 + spread**2), abs=0.05)
    assert (each.slopes[0] > 0.9) == stays
