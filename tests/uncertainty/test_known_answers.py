"""The stored known answers, computed through the public functions on arrays."""

import json
import math

import numpy as np
import pytest
from bayesian_regression import bayesian_linear_regression
from scipy import stats

from ase_nnp.uncertainty.statistics import calibration as cal
from ase_nnp.uncertainty.statistics import metrics as met
from ase_nnp.uncertainty.statistics import observables as obs

RTOL = 1e-8
ITERATIVE = 1e-6


def case(shared, name):
    folder = shared / "uncertainty" / "known_answers"
    want = json.loads((folder / f"{name}.json").read_text())
    return np.load(folder / f"{name}.npz"), want


def close(got, want, rtol=RTOL, atol=1e-13):
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def test_bayesian_linear_regression_is_exact(shared):
    d, want = case(shared, "01_bayesian_linear_regression")
    s, lam = want["noise_std"], want["prior_precision"]
    fit = bayesian_linear_regression(d["X"], d["y"], s, lam)
    for name in (
        "map_weights",
        "posterior_covariance",
        "posterior_precision",
        "log_marginal_likelihood",
        "ula_stable_step_upper_bound",
        "condition_number",
    ):
        close(getattr(fit, name), want[name])
    for name in (
        "predictive_mean",
        "predictive_std_epistemic",
        "predictive_std_total",
        "prediction_rigidity",
    ):
        close(getattr(fit, name)(d["X_test"]), want[name])
    cold = bayesian_linear_regression(d["X"], d["y"], s, lam, want["tempered_T"])
    close(cold.map_weights, want["tempered_mean"])
    close(cold.posterior_covariance, want["tempered_covariance"])
    draws = cold.sample(20000, seed=1)
    close(np.cov(draws.T), want["tempered_covariance"], rtol=0.1, atol=2e-5)


def test_conformal_table_and_quantiles(shared):
    d, want = case(shared, "02_split_conformal")
    for row in want["quantile_table"]:
        n, alpha = row["n"], row["alpha"]
        assert cal.conformal_rank(n, alpha) == row["k"]
        assert math.isfinite(cal.conformal_quantile(np.arange(n), alpha)) == row["finite"]
        law = cal.coverage_law(n, alpha)
        close(law[0], row["expected_coverage"])
        close(law[1:], [row["coverage_beta_2p5"], row["coverage_beta_97p5"]])
    true, pred, std = d["y_true"], d["y_pred"], d["y_std"]
    scores = cal.normalized_scores(true, pred, std)
    for alpha, q in want["normalized_score_quantile"].items():
        close(cal.conformal_quantile(scores, float(alpha)), q)
    q = cal.conformal_quantile(cal.absolute_scores(true, pred), 0.1)
    close(q, want["absolute_score_quantile_alpha0p1"])
    groups = cal.mondrian_quantiles(scores, d["group"], 0.1)
    assert {str(k) for k in groups} == set(want["mondrian_quantile_alpha0p1"])
    for k, q in groups.items():
        close(q, want["mondrian_quantile_alpha0p1"][str(k)])
    half = want["cqr_inner_z"] * std
    close(cal.cqr_offset(true, pred - half, pred + half, 0.1), want["cqr_offset_alpha0p1"])
    fit = cal.SplitConformal.fit(true, pred, std, 0.1)
    interval = np.stack(fit.interval(d["test_pred"], d["test_std"]), axis=1)
    close(interval, want["test_interval_alpha0p1"])


def test_committee_moments(shared):
    d, want = case(shared, "03_committee_moments")
    close(met.committee_mean(d["member_energy"]), want["energy_mean"])
    close(met.committee_mean(d["member_energies"]), want["energies_mean"])
    close(met.committee_mean(d["member_forces"]), want["forces_mean"])
    close(met.stress_mean(d["member_stress_3x3"]), want["stress_voigt_mean"])
    for ddof in (0, 1):
        close(met.committee_std(d["member_energy"], ddof), want[f"energy_std_ddof{ddof}"])
        close(met.committee_std(d["member_energies"], ddof), want[f"energies_std_ddof{ddof}"])
        forces = met.forces_std(d["member_forces"], "component", ddof)
        close(forces, want[f"forces_std_ddof{ddof}"])
        stress = met.stress_std(d["member_stress_3x3"], ddof)
        close(stress, want[f"stress_voigt_std_ddof{ddof}"])
    sums = want["sum_of_atomic_variances_is_not_total_variance"]
    close(met.committee_variance(d["member_energies"], 0).sum(), sums[0])
    close(met.committee_variance(d["member_energy"], 0), sums[1])
    isotropic = met.forces_std(d["member_forces"], ddof=0)
    close(isotropic[:, 1], want["per_atom_force_rms_component_std_ddof0"])
    close(met.force_deviation(d["member_forces"]), want["per_atom_force_deviation_ddof0"])
    level = want["relative_level"]
    close(met.relative_force_deviation(d["member_forces"], level), want["relative_force_deviation"])
    for name, value in met.force_deviation_summary(d["member_forces"], level).items():
        close(value, want[name])
    variance = met.committee_variance(d["member_energy"], 0)
    close(
        met.scale_variance(variance, want["unit_factor"]),
        want["energy_variance_after_scaling_by_unit_factor_ddof0"],
    )
    close(met.standard_error(d["member_energy"]), want["standard_error_of_mean_energy_ddof1"])
    pool = d["pool_member_energy"], d["pool_reference_energy"], d["pool_composition"]
    close(met.fit_element_shifts(*pool), want["pool_fitted_element_shifts"])
    close(met.committee_std(pool[0], 0).mean(), want["pool_std_raw_mean"])
    aligned = met.pool_std(pool[0], pool[2], pool[1], ddof=0)
    close(aligned, want["pool_std_aligned_ddof0"])
    close(aligned.mean(), want["pool_std_aligned_mean"])


def test_calibration_and_ranking_metrics(shared):
    d, want = case(shared, "04_metrics")
    true, pred, std = xyz = d["y_true"], d["y_pred"], d["y_std"]
    error = true - pred
    table = met.ence_bins(*xyz)
    curve = met.confidence_curve(*xyz, fractions=want["confidence_fractions"])
    got = {
        "n": len(true),
        "nll_gaussian": met.nll_gaussian(*xyz),
        "crps_gaussian": met.crps_gaussian(*xyz),
        "check_score": met.check_score(*xyz),
        "interval_score": met.interval_score(*xyz),
        "sharpness_rms": met.sharpness_rms(std),
        "sharpness_mean": met.sharpness_mean(std),
        "coefficient_of_variation_of_std": met.coefficient_of_variation_of_std(std),
        "miscalibration_area_100": met.miscalibration_area(*xyz),
        "mean_abs_calibration_error_100": met.mean_abs_calibration_error(*xyz),
        "rms_calibration_error_100": met.rms_calibration_error(*xyz),
        "ence_10_equal_count": met.ence(*xyz, bins=10),
        "ence_20_equal_count": met.ence(*xyz, bins=20),
        "ence_bin_rmse": table.rmse,
        "ence_bin_rmv": table.rmv,
        "var_z": met.var_z(*xyz),
        "mean_z": met.mean_z(*xyz),
        "observed_coverage": met.observed_coverage(*xyz, want["nominal_levels"]),
        "spearman_abs_error_vs_std": met.spearman(error, std),
        "pearson_abs_error_vs_std": met.pearson(error, std),
        "kendall_abs_error_vs_std": met.kendall(error, std),
        "error_threshold_80pct": met.error_threshold(error),
        "auroc_error_above_threshold": met.auroc_errors(error, std),
        "confidence_fractions": met.confidence_curve(*xyz).fractions,
        "confidence_curve_mae": curve.curve,
        "oracle_curve_mae": curve.oracle,
        "ause_mae": met.ause(*xyz),
        "random_level": curve.random_level,
        "pit_ks_statistic": met.pit_ks_statistic(*xyz),
        "scale_nll": cal.scale_nll(*xyz),
        "scale_abs": cal.scale_abs(*xyz),
        "scale_crps": cal.scale_crps(*xyz),
        "nll_after_scale_nll": met.nll_gaussian(true, pred, cal.scale_nll(*xyz) * std),
    }
    assert set(got) | {"nominal_levels"} == set(want)
    for name, value in got.items():
        np.testing.assert_allclose(value, want[name], rtol=RTOL, err_msg=name)


def test_observables_by_reweighting(shared):
    d, want = case(shared, "05_observable_reweighting")
    members, reference, beta = d["energy_members"], d["energy_reference"], float(d["beta"])
    weights = obs.reweight(members, reference, beta)
    average = obs.reweighted_average(d["observable"], members, reference, beta)
    cumulant = obs.cumulant_expansion(d["observable"], members, reference, beta)
    free = obs.free_energy_difference(members, reference, beta)
    close(average, want["reweighted_average_from_arrays"])
    close(obs.kish_ess_fraction(weights), want["kish_ess_fraction_from_arrays"])
    close(cumulant, want["cumulant_expansion_from_arrays"])
    close(free, want["free_energy_difference_from_arrays"])
    spread = obs.ensemble_observable(average)
    close(spread.mean, want["reweighted_mean_from_arrays"])
    close(spread.std, want["reweighted_std_ddof1_from_arrays"])
    close(average, want["exact_member_average"], rtol=want["tolerance_reweighted"])
    close(cumulant, want["cumulant_expansion_member_average"], rtol=want["tolerance_cea"])
    close(
        obs.kish_ess_fraction(weights),
        want["kish_ess_fraction_exact"],
        rtol=want["tolerance_ess"],
    )


def test_mixtures_and_evidential_outputs(shared):
    d, want = case(shared, "06_mixture_and_evidential")
    mixture = met.gaussian_mixture(d["member_mean"], d["member_std"])
    close(mixture.mean, want["mixture_mean"])
    close(mixture.aleatoric_std, want["aleatoric_std"])
    close(mixture.epistemic_std, want["epistemic_std_ddof0"])
    close(mixture.total_std, want["total_std"])
    args = d["y"], d["member_mean"], d["member_std"]
    close(met.mixture_nll(*args), want["mixture_nll_exact"])
    close(met.gaussian_moment_matched_nll(*args), want["gaussian_moment_matched_nll"])
    gamma, nu, alpha, beta = (d[f"nig_{k}"] for k in ("gamma", "nu", "alpha", "beta"))
    close(met.nig_mean(gamma), want["nig_mean"])
    close(met.nig_aleatoric_variance(alpha, beta), want["nig_aleatoric_variance"])
    close(met.nig_epistemic_variance(nu, alpha, beta), want["nig_epistemic_variance"])
    close(met.nig_nll(d["y"], gamma, nu, alpha, beta), want["nig_student_t_nll"])
    first = d["y"], d["member_mean"][0], d["member_std"][0]
    close(met.beta_nll(*first, beta=0.5), want["beta_nll_half_member0"])


def test_gradient_of_the_committee_std(shared):
    d, want = case(shared, "13_gradient_of_committee_std")
    for x, row in zip(d["points"], want["points"], strict=True):
        delta = x - d["centres"]
        gradient = np.einsum("mij,mj->mi", d["stiffness"], delta)
        energy = np.einsum("mi,mi->m", delta, gradient) / 2 + d["offsets"]
        close(energy, row["energies"])
        close(met.committee_std(energy, 0), row["energy_std_ddof0"])
        close(met.energy_std_gradient(energy, gradient), row["gradient_of_std"])
        close(met.committee_mean(-gradient), row["mean_force"])
        close(met.committee_std(-gradient, 0), row["forces_std_ddof0"])
        biased = np.add(row["mean_force"], 0.7 * np.array(row["gradient_of_std"]))
        close(met.biased_forces(energy, -gradient, tau=0.7), biased)


@pytest.mark.parametrize("members", [3, 5])
@pytest.mark.parametrize("mode", ["component", "isotropic"])
def test_a_real_committee(shared, members, mode):
    d, want = case(shared, "20_acac_committee")
    want = want[f"M{members}"][mode]

    def table(split):
        forces = d[f"{split}_member_forces"].astype(float)[:members]
        true = d[f"{split}_true_forces"].astype(float)
        return true, met.committee_mean(forces), met.forces_std(forces, mode)

    fit = table("cal")
    scale = cal.scale_nll(*fit)
    q = cal.conformal_quantile(cal.normalized_scores(*fit), 0.1)
    # the stored forces are float32, the expected values may have been summed in it
    close(scale, want["scale_nll_on_cal"], rtol=ITERATIVE)
    close(q, want["conformal_q90_on_cal"], rtol=ITERATIVE)
    true, mean, raw = table("t300")
    std, error, want = scale * raw, true - mean, want["t300"]
    lower, upper = cal.conformal_interval(mean, q, raw)
    atom_error, atom_std = np.linalg.norm(error, axis=-1), np.linalg.norm(std, axis=-1)
    got = {
        "force_rmse": np.sqrt((error**2).mean()),
        "ence20": met.ence(true, mean, std, bins=20),
        "miscalibration_area": met.miscalibration_area(true, mean, std),
        "nll": met.nll_gaussian(true, mean, std),
        "coverage90": met.interval_coverage(true, lower, upper),
        "mean_width90": met.mean_interval_width(lower, upper),
        "spearman_component": met.spearman(error, std),
        "spearman_atom_norm": met.spearman(atom_error, atom_std),
        "auroc_top5pct_error": met.auroc_errors(atom_error, atom_std, quantile=0.95),
    }
    assert set(got) == set(want)
    for name, value in got.items():
        np.testing.assert_allclose(value, want[name], rtol=ITERATIVE, err_msg=name)


@pytest.mark.parametrize("n", [20, 100, 500])
def test_conformal_coverage_is_k_over_n_plus_one(n):
    rng = np.random.default_rng(n)
    covered = [
        stats.norm.cdf(q) - stats.norm.cdf(-q)
        for q in (cal.conformal_quantile(np.abs(rng.standard_normal(n)), 0.1) for _ in range(1000))
    ]
    assert abs(np.mean(covered) - cal.expected_coverage(n, 0.1)) < 0.003
