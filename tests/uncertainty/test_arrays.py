"""The arrays layer against closed forms, brute force and its own laws."""

import numpy as np
import pytest
from scipy import integrate, stats

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics import calibration as cal
from ase_nnp.uncertainty.statistics import metrics as met
from ase_nnp.uncertainty.statistics import observables as obs


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
    # The mean of 1 / chi^2 with k degrees of freedom, and an error of the mean beside the spread.
    free = components * (members - 1)
    inflation = free / (free - 2) * (1 + 1 / members)
    # the fourth moment diverges for few degrees of freedom; more of them give a sharper check
    slack = 0.35 if components * (members - 1) <= 4 else 0.02
    assert z2 == pytest.approx(inflation, rel=slack)
    if slack < 0.1:
        alpha = cal.scale_small_committee(*fit, members, components)
        assert alpha == pytest.approx(1, abs=0.02)


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
    fits = cal.fit_per_group(cal.fit_affine_variance, error, np.zeros(60000), std, group)
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
    true, std, groups = [1.0, 2, 5, 6], [1.0, 2, 1, 2], [1, 1, 8, 8]
    by_group = cal.fit_per_group(cal.fit_isotonic, true, [0.0] * 4, std, groups)
    assert set(by_group) == {1, 8}
    assert by_group[8](1.0) == pytest.approx(5 * np.sqrt(np.pi / 2))


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
    center, x, step = rng.normal(size=(3, 4)), rng.normal(size=4), 1e-5

    def energy(point):
        return ((point - center) ** 2).sum(axis=1)

    for ddof in (0, 1):
        got = met.energy_std_gradient(energy(x), 2 * (x - center), ddof)
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


def test_the_pinball_loss_is_least_at_the_quantile():
    sample = np.random.default_rng(22).normal(size=20001)
    grid = np.linspace(-2, 2, 401)
    loss = [met.pinball_loss(sample, np.full(20001, q), 0.8) for q in grid]
    assert grid[np.argmin(loss)] == pytest.approx(np.quantile(sample, 0.8), abs=0.011)


@pytest.mark.parametrize("tails", ["normal", "laplace", "student"])
def test_ence_by_chance_is_that_of_perfect_bars(tails):
    """Simulated: errors drawn with exactly the stds that are given."""
    rng = np.random.default_rng(3)
    std = rng.lognormal(sigma=0.5, size=2250)
    draw = {
        "normal": rng.standard_normal,
        "laplace": lambda n: rng.laplace(size=n) / np.sqrt(2),
        "student": lambda n: rng.standard_t(8, n) / np.sqrt(8 / 6),
    }[tails]
    pairs = [(std * draw(len(std)), np.zeros(len(std)), std) for _ in range(60)]
    simulated = np.mean([met.ence(*one, bins=20) for one in pairs])
    formula = np.mean([met.ence_by_chance(*one, bins=20) for one in pairs])
    assert formula == pytest.approx(simulated, rel=0.06)
    # Bars that are wrong by a fifth everywhere are no matter of chance.
    wrong = pairs[0][0], pairs[0][1], 1.25 * std
    assert met.ence_by_chance(*wrong, bins=20) < 0.6 * met.ence(*wrong, bins=20)
