"""The arrays layer against closed forms, brute force and its own laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics import calibration as cal
from ase_nnp.uncertainty.statistics import metrics as met
from ase_nnp.uncertainty.statistics import observables as obs
from ase_nnp.uncertainty.statistics import ood


@pytest.fixture
def gaussian():
    """Predictions whose std is half of what it should be."""
    rng = np.random.default_rng(7)
    std = rng.uniform(0.5, 2, 4000)
    pred = rng.normal(size=4000)
    return pred + 2 * std * rng.standard_normal(4000), pred, std


def test_every_scale_finds_the_true_factor(gaussian):
    for scale in (cal.scale_nll, cal.scale_abs, cal.scale_crps):
        assert scale(*gaussian) == pytest.approx(2, rel=0.04)


def test_each_scale_is_the_minimum_of_its_score(gaussian):
    true, pred, std = gaussian
    for scale, score in ((cal.scale_nll, met.nll_gaussian), (cal.scale_crps, met.crps_gaussian)):
        a = scale(true, pred, std)
        best = score(true, pred, a * std)
        assert all(score(true, pred, f * a * std) > best for f in (0.99, 1.01))


def test_gaussian_crps_is_the_integral_of_its_definition():
    z = np.linspace(-60, 60, 400001)
    want = integrate.trapezoid((stats.norm.cdf(z, 1, 2) - (z >= 2.5)) ** 2, z)
    assert met.crps_gaussian([2.5], [1.0], [2.0]) == pytest.approx(want, rel=1e-4)


def test_ensemble_crps_is_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    members, true = rng.normal(size=(6, 20)), rng.normal(size=20)
    pairs = np.abs(members[:, None] - members[None]).sum(axis=(0, 1))
    for fair, count in ((False, 36), (True, 30)):
        want = (np.abs(members - true).mean(axis=0) - pairs / (2 * count)).mean()
        assert met.crps_ensemble(true, members, fair) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("members", "components"), [(4, 1), (5, 1), (10, 1), (3, 3), (5, 3)])
def test_correction_for_small_committees_is_unbiased(members, components):
    rng = np.random.default_rng(members)
    draws = rng.standard_normal((members, 200000, 3))
    true = rng.standard_normal((200000, 3))
    mode = "component" if components == 1 else "isotropic"
    fit = true, draws.mean(axis=0), met.forces_std(draws, mode)
    z2 = cal.scale_nll(*fit) ** 2
    # the fourth moment diverges for few degrees of freedom; more of them give a sharper check
    slack = 0.35 if components * (members - 1) <= 4 else 0.02
    assert z2 == pytest.approx(cal.naive_inflation(members, components), rel=slack)
    if slack < 0.1:
        alpha = cal.scale_small_committee(*fit, members, components)
        assert alpha == pytest.approx(1, abs=0.02)


def test_naive_inflation_of_known_sizes():
    assert [cal.naive_inflation(m) for m in (3, 4, 5)] == pytest.approx([np.inf, 3.75, 2.4])


def test_small_committee_scale_is_its_closed_form(gaussian):
    z2 = cal.scale_nll(*gaussian) ** 2
    want = np.sqrt(-1 / 8 + 5 / 7 * z2)
    assert cal.scale_small_committee(*gaussian, 8) == pytest.approx(want, rel=1e-12)
    with pytest.raises(UncertaintyError, match="degrees of freedom"):
        cal.scale_small_committee(*gaussian, 3)


def test_affine_variance_recovers_scale_and_floor():
    rng = np.random.default_rng(3)
    std = rng.uniform(0.01, 2, 50000)
    error = np.sqrt(1.5**2 * std**2 + 0.4**2) * rng.standard_normal(50000)
    fit = cal.fit_affine_variance(error, np.zeros(50000), std)
    assert (fit.a, fit.b) == pytest.approx((1.5, 0.4), rel=0.03)
    tiny = cal.fit_affine_variance(1e-6 * error, np.zeros(50000), 1e-6 * std)
    assert (tiny.a, tiny.b) == pytest.approx((fit.a, 1e-6 * fit.b), rel=1e-3)


def test_each_element_gets_its_own_scale_and_floor():
    rng = np.random.default_rng(14)
    std, group = rng.uniform(0.05, 1, 60000), np.repeat([1, 8], 30000)
    law = {1: (1.5, 0.4), 8: (0.5, 0.1)}
    a, b = (np.array([law[int(z)][i] for z in group]) for i in (0, 1))
    error = rng.standard_normal(60000) * np.sqrt(a**2 * std**2 + b**2)
    fits = cal.fit_affine_variance_per_group(error, np.zeros(60000), std, group)
    assert set(fits) == {1, 8}
    for z, fit in fits.items():
        assert (fit.a, fit.b) == pytest.approx(law[z], rel=0.04)


def test_student_t_recovers_its_degrees_of_freedom():
    rng = np.random.default_rng(4)
    std = rng.uniform(0.1, 2, 50000)
    error = 0.7 * std * rng.standard_t(5, 50000)
    fit = cal.fit_student_t(error, np.zeros(50000), std)
    assert fit.nu == pytest.approx(5, rel=0.1)
    assert fit.a == pytest.approx(0.7, rel=0.03)
    assert np.mean(np.abs(error) <= fit.half_width(std, 0.9)) == pytest.approx(0.9, abs=0.01)


def test_isotonic_map_rises_and_calibrates():
    rng = np.random.default_rng(5)
    std = rng.uniform(0.1, 2, 20000)
    fit = cal.fit_isotonic(std**2 * rng.standard_normal(20000), np.zeros(20000), std)
    grid = np.linspace(0.3, 1.9, 50)
    assert (np.diff(fit(grid)) >= 0).all()
    np.testing.assert_allclose(fit(grid), grid**2, rtol=0.25)
    by_group = cal.fit_isotonic_per_group([1.0, 2, 5, 6], [0.0] * 4, [1.0, 2, 1, 2], [1, 1, 8, 8])
    assert set(by_group) == {1, 8}
    assert by_group[8](1.0) == pytest.approx(5 * np.sqrt(np.pi / 2))


@pytest.mark.parametrize("n", [20, 100, 500])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.32])
def test_conformal_coverage_over_many_resamplings(n, alpha):
    rng = np.random.default_rng(100 * n + int(100 * alpha))
    scores = np.abs(rng.standard_normal((20000, n)))
    covered = 2 * stats.norm.cdf([cal.conformal_quantile(row, alpha) for row in scores]) - 1
    mean = cal.expected_coverage(n, alpha)
    error = np.sqrt(mean * (1 - mean) / (n + 2) / 20000)  # of the mean of draws from a beta law
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
    lower, upper = cal.cqr_interval([-1.0], [1.0], offset)
    assert upper[0] - lower[0] == pytest.approx(2 + 2 * offset)
    narrow = cal.cqr_offset(true, -np.full(2000, 3.0), np.full(2000, 3.0), 0.1)
    assert narrow < 0


@given(st.integers(0, 2**31), st.sampled_from([0.005, 0.02, 0.1]), st.floats(0.05, 0.4))
def test_adaptive_miss_rate_keeps_its_bound_whatever_comes(seed, gamma, alpha):
    rng = np.random.default_rng(seed)
    drift = np.abs(rng.standard_normal(300)) * np.linspace(0.2, 5, 300) ** rng.uniform(-2, 2)
    trace = cal.adaptive_conformal(rng.exponential(size=30), drift, alpha, gamma)
    assert abs(trace.errors.mean() - alpha) <= cal.adaptive_bound(300, alpha, gamma) + 1e-12
    np.testing.assert_allclose(np.diff(trace.alphas), gamma * (alpha - trace.errors[:-1]))


def test_adaptive_follows_a_shift_that_fixed_conformal_misses():
    rng = np.random.default_rng(10)
    start, shifted = np.abs(rng.standard_normal(100)), 1.6 * np.abs(rng.standard_normal(2000))
    assert np.mean(shifted <= cal.conformal_quantile(start, 0.1)) < 0.75
    trace = cal.adaptive_conformal(start, shifted, 0.1, 0.05, extend=True, window=100)
    assert trace.coverage == pytest.approx(0.9, abs=0.01)


def test_isotropic_force_std_does_not_see_a_rotation():
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(11)
    members, turn = rng.normal(size=(4, 6, 3)), Rotation.random(rng=1).as_matrix()
    turned = members @ turn.T
    np.testing.assert_allclose(met.forces_std(turned), met.forces_std(members), rtol=1e-12)
    assert not np.allclose(
        met.forces_std(turned, "component"), met.forces_std(members, "component")
    )
    cov = met.forces_cov(members)
    np.testing.assert_allclose(met.forces_cov(turned), turn @ cov @ turn.T, rtol=1e-10)
    np.testing.assert_allclose(cov[2], np.cov(members[:, 2].T), rtol=1e-12)
    norm = met.forces_std_norm(members)
    np.testing.assert_allclose(norm, np.sqrt(3) * met.forces_std(members)[:, 0], rtol=1e-12)
    np.testing.assert_allclose(np.trace(cov, axis1=1, axis2=2), norm**2, rtol=1e-12)


def test_pool_of_shifted_copies_has_no_spread_once_aligned():
    rng = np.random.default_rng(12)
    numbers = [rng.choice([1, 6, 8], size=rng.integers(3, 20)) for _ in range(30)]
    counts, elements = met.composition_matrix(numbers)
    assert elements.tolist() == [1, 6, 8]
    energy = rng.normal(size=30)
    members = energy + rng.normal(size=(4, 3)) @ counts.T
    assert met.committee_std(members).min() > 0.1
    np.testing.assert_allclose(met.pool_std(members, counts), 0, atol=1e-10)
    with pytest.raises(UncertaintyError, match=r"\[8\]"):
        met.composition_matrix(numbers, [1, 6])


def test_gradient_of_std_matches_finite_differences():
    rng = np.random.default_rng(13)
    centre, x, step = rng.normal(size=(3, 4)), rng.normal(size=4), 1e-5

    def energy(point):
        return ((point - centre) ** 2).sum(axis=1)

    for ddof in (0, 1):
        got = met.energy_std_gradient(energy(x), 2 * (x - centre), ddof)
        for i, unit in enumerate(np.eye(4)):
            up, down = energy(x + step * unit), energy(x - step * unit)
            want = (up.std(ddof=ddof) - down.std(ddof=ddof)) / (2 * step)
            assert got[i] == pytest.approx(want, rel=1e-6)


def test_harmonic_reweighting_and_free_energy_are_exact_in_the_limit():
    x = stats.norm.ppf((np.arange(200000) + 0.5) / 200000)
    members = np.stack([k * x**2 / 2 for k in (0.9, 1.2, 1.5)])
    r = np.array([0.9, 1.2, 1.5])
    weights = obs.reweight(members, x**2 / 2, 1.0)
    average = obs.reweighted_average(x**2, members, x**2 / 2, 1.0)
    np.testing.assert_allclose(average, 1 / r, rtol=5e-3)
    np.testing.assert_allclose(obs.kish_ess_fraction(weights), np.sqrt(2 * r - 1) / r, rtol=5e-3)
    free = obs.free_energy_difference(members, x**2 / 2, 1.0)
    np.testing.assert_allclose(free, np.log(r) / 2, rtol=5e-3)
    np.testing.assert_allclose(
        obs.cumulant_expansion(x**2, members, x**2 / 2, 1.0), 1 - (r - 1), atol=5e-3
    )
    with pytest.warns(UserWarning, match="configurations count"):
        obs.reweighted_average(x**2, 1e4 * x**2, x**2 / 2, 1.0)


def test_blocking_sees_the_correlation_of_a_series():
    rng = np.random.default_rng(14)
    noise, series = rng.standard_normal(40000), np.zeros(40000)
    for i in range(1, 40000):
        series[i] = 0.9 * series[i - 1] + noise[i]
    want = np.sqrt((1 / (1 - 0.81)) * (1.9 / 0.1) / 40000)  # AR(1): variance times 2 tau + 1
    assert obs.blocking_error(series) == pytest.approx(want, rel=0.3)
    assert obs.blocking_error(noise) == pytest.approx(1 / 200, rel=0.4)


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
    np.testing.assert_allclose(ood.knn_distance(asked, known, 10), table[:, :10].mean(axis=1))
    np.testing.assert_allclose(ood.knn_distance(asked, known, 1), table[:, 0])
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


def test_auroc_counts_pairs_and_halves_ties():
    rng = np.random.default_rng(18)
    labels, scores = rng.random(60) < 0.3, rng.integers(0, 6, 60)
    a, b = scores[labels][:, None], scores[~labels][None]
    assert met.auroc(labels, scores) == pytest.approx(((a > b) + (a == b) / 2).mean())
    with pytest.raises(UncertaintyError, match="both kinds"):
        met.auroc([True, True], [1, 2])


def test_bad_arrays_are_refused_with_a_reason():
    good = np.ones(4)
    for std, reason in (
        ([1, 1, 0, 1], "zero or negative"),
        ([1, 1, np.nan, 1], "not finite"),
        ([1, 1, 1], "one shape"),
        ([], "empty"),
    ):
        with pytest.raises(UncertaintyError, match=reason):
            met.nll_gaussian(good, good, std)
    with pytest.raises(UncertaintyError, match="at least 2"):
        met.committee_std([[1.0, 2.0]])
    with pytest.raises(UncertaintyError, match="alpha"):
        cal.conformal_quantile([1.0], 1.5)


def test_torch_is_not_needed_for_arrays():
    import subprocess
    import sys

    code = (
        "import sys, ase_nnp.uncertainty.statistics.metrics,"
        "ase_nnp.uncertainty.statistics.calibration,"
        "ase_nnp.uncertainty.statistics.observables, ase_nnp.uncertainty.statistics.ood;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_laplace_on_arrays_is_bayesian_regression_with_rows_of_both_kinds():
    rng = np.random.default_rng(20)
    features, slopes = rng.normal(size=(30, 4)), rng.normal(size=(30, 9, 4))
    precision = met.laplace_precision(
        features, 0.1, jacobian=slopes, noise_forces=0.5, prior_precision=2.0
    )
    rows = np.concatenate([features / 0.1, slopes.reshape(-1, 4) / 0.5])
    exact = met.bayesian_linear_regression(rows, np.zeros(len(rows)), 1.0, 2.0)
    np.testing.assert_allclose(precision, exact.posterior_precision, rtol=1e-12)
    sigma = met.laplace_covariance(precision)
    std = met.quadratic_std(features, sigma)
    np.testing.assert_allclose(std, exact.predictive_std_epistemic(features), rtol=1e-9)
    assert met.quadratic_std(slopes, sigma).shape == (30, 9)
    with_ridge = met.laplace_precision(features, 1.0, ridge=0.5)
    plain = features.T @ features
    np.testing.assert_allclose(with_ridge, plain + 0.5 * np.trace(plain) / 4 * np.eye(4))


def test_pops_weights_fit_their_own_row():
    rng = np.random.default_rng(21)
    rows, errors = rng.normal(size=(40, 3)), rng.normal(size=40)
    precision = rows.T @ rows + np.eye(3)
    total = np.zeros((3, 3))
    for row, error in zip(rows, errors, strict=True):
        solved = np.linalg.solve(precision, row)
        change = solved * error / (row @ solved)
        assert row @ change == pytest.approx(error)
        total += np.outer(change, change) / 40
    np.testing.assert_allclose(met.pops_covariance(precision, rows, errors), total, rtol=1e-10)


def test_langevin_inflation_and_misfit_temperature():
    variance = met.ula_variance([8.0, 8.0], 0.05)
    np.testing.assert_allclose(variance, 1 / 8 / (1 - 0.2))
    assert np.isinf(met.ula_variance([8.0], 0.25))[0]
    assert met.misfit_temperature(30.0, 12) == 5.0


def test_evidential_loss_punishes_confident_errors():
    args = [1.0], [0.0], [2.0], [3.0], [1.0]
    assert met.nig_loss(*args, weight=0.1) == pytest.approx(met.nig_nll(*args) + 0.1 * 7)


def test_the_minimum_over_configurations_is_each_members_own():
    energies = np.array([[0.0, 1.0, 5.0], [2.0, 1.0, 5.0], [3.0, 0.5, 5.0], [1.0, 0.0, 5.0]])
    found = obs.minimum_over_configurations(energies)
    assert found.members.tolist() == [0.0, 1.0, 0.5, 0.0]
    assert found.probabilities.tolist() == [0.25, 0.75, 0]
    assert found.mean <= energies.mean(axis=0).min()
    np.testing.assert_allclose(obs.harmonic_ess_fraction([0.4, 1, 2]), [0, 1, np.sqrt(3) / 2])


def test_the_pinball_loss_is_least_at_the_quantile():
    sample = np.random.default_rng(22).normal(size=20001)
    grid = np.linspace(-2, 2, 401)
    loss = [met.pinball_loss(sample, np.full(20001, q), 0.8) for q in grid]
    assert grid[np.argmin(loss)] == pytest.approx(np.quantile(sample, 0.8), abs=0.011)
