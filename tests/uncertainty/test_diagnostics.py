"""Diagnostics of chains: known chains, and arviz on the same arrays."""

from __future__ import annotations

import numpy as np
import pytest

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.diagnostics import chain_share, diagnose, ess, r_hat


def autoregressive(rng, correlation, shape):
    noise, chain = rng.standard_normal(shape), np.zeros(shape)
    for t in range(1, shape[1]):
        chain[:, t] = correlation * chain[:, t - 1] + noise[:, t]
    return chain


def cases():
    """Chains of every kind: mixed, sticky, antithetic, apart, drifting, of other width, heavy."""
    rng = np.random.default_rng(0)
    drift = np.linspace(-1, 1, 200)
    return {
        "mixed": rng.standard_normal((4, 500)),
        "sticky": autoregressive(rng, 0.95, (3, 400)),
        "antithetic": autoregressive(rng, -0.7, (4, 400)),
        "apart": rng.standard_normal((4, 300)) + np.arange(4)[:, None],
        "drifting together": rng.standard_normal((3, 200)) + 1.3 * drift,
        "one drifts": rng.standard_normal((3, 200)) + np.array([0, 0, 3])[:, None] * drift,
        "other width": rng.standard_normal((4, 400)) * np.array([1, 1, 1, 4])[:, None],
        "heavy tails": rng.standard_cauchy((4, 400)),
        "short": rng.standard_normal((2, 9)),
        "ties": rng.integers(0, 3, (3, 100)).astype(float),
    }


@pytest.mark.parametrize("name", cases())
def test_r_hat_and_ess_are_those_of_arviz(name):
    array_stats = pytest.importorskip("arviz_stats.base", reason="needs arviz-stats").array_stats
    chains = cases()[name]
    want = float(array_stats.rhat(chains, chain_axis=0, draw_axis=1, method="rank"))
    assert float(r_hat(chains)) == pytest.approx(want, rel=1e-6)
    want = float(array_stats.ess(chains, chain_axis=0, draw_axis=1, method="bulk"))
    assert float(ess(chains)) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", ["apart", "drifting together", "one drifts", "other width"])
def test_chains_that_drift_or_differ_are_called_out(name):
    chains = np.repeat(cases()[name][:, :, None], 3, axis=2)
    assert (r_hat(chains) > 1.05).all()
    assert not diagnose(chains)["mixed"]
    assert "NOT mixed" in diagnose(chains)["verdict"]


def test_mixed_chains_are_worth_their_number_of_samples():
    rng = np.random.default_rng(5)
    mixed = rng.standard_normal((4, 1000, 3))
    np.testing.assert_allclose(r_hat(mixed), 1, atol=0.01)
    assert diagnose(mixed)["mixed"]
    assert (chain_share(mixed) < 0.01).all()
    many = ess(rng.standard_normal((4, 1000, 64)))  # each known to about 4 %
    np.testing.assert_allclose(many, 4000, rtol=0.2)
    assert many.mean() == pytest.approx(4000, rel=0.03)


def test_chains_apart_have_most_of_their_variance_between_them():
    apart = np.random.default_rng(5).standard_normal((4, 1000, 3)) + 5 * np.arange(4)[:, None, None]
    assert (chain_share(apart) > 0.95).all()
    assert (r_hat(apart) > 2).all()


def test_chains_that_stand_still_apart_are_infinitely_far_from_mixed():
    assert np.isinf(r_hat(np.repeat([[0.0], [1.0]], 10, axis=1)))
    assert r_hat(np.ones((2, 10))) == 1.0


def test_ess_of_a_correlated_chain_is_its_autocorrelation_time():
    chain = autoregressive(np.random.default_rng(6), 0.9, (3, 20000))
    assert float(ess(chain)) == pytest.approx(60000 * 0.1 / 1.9, rel=0.15)


def test_too_few_samples_are_refused():
    with pytest.raises(UncertaintyError, match="samples >= 4"):
        r_hat(np.ones((2, 3)))
