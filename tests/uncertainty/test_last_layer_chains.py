"""Chains over a linear read-out: they mix, and their moments are those of the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bayesian_regression import bayesian_linear_regression
from toy_models import Pair, label, molecules

import ase_nnp
from ase_nnp.errors import UncertaintyError
from ase_nnp.models.predictor import predict
from ase_nnp.uncertainty.sampling.chains import labels_of
from ase_nnp.uncertainty.sampling.last_layer import LastLayerPosterior, run_last_layer_chains
from ase_nnp.uncertainty.sampling.posterior import Posterior
from ase_nnp.uncertainty.sampling.store import members_from_samples
from ase_nnp.uncertainty.statistics.diagnostics import diagnose, r_hat

NOISE = {"energy": 0.02, "forces": 0.05}


def problem(rows=80, width=5, noise=0.3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, width)) @ (np.eye(width) + 0.4 * rng.normal(size=(width, width)))
    y = x @ rng.normal(size=width) + noise * rng.normal(size=rows)
    return x, y


def test_round_coordinates_are_those_of_the_closed_form():
    x, y = problem()
    wanted = bayesian_linear_regression(x, y, 0.3, 1 / 1.5**2)
    rows = {"energy": (torch.as_tensor(x), torch.as_tensor(y))}
    posterior = LastLayerPosterior(rows, {"energy": 0.3}, prior_std=1.5, learn_noise=False)
    np.testing.assert_allclose(posterior.center, wanted.map_weights, rtol=1e-9)
    spread = posterior.weights(torch.eye(5, dtype=torch.float64)) - posterior.center
    covariance = (spread.T @ spread).numpy()
    np.testing.assert_allclose(covariance, wanted.posterior_covariance, rtol=1e-9, atol=1e-12)


def trained(seed=0):
    """A network with a linear read-out whose noisy labels it can nearly give."""
    frames = label(molecules(24, seed=1), Pair(hidden=6, seed=3).double(), noise=0.02)
    return Pair(hidden=6, seed=3).double(), frames


def test_the_posterior_is_that_of_all_weights_with_the_others_held():
    model, frames = trained()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("readout"))
    graph = model.make_graph(frames)
    labels = labels_of(frames, list(NOISE), graph)
    whole = Posterior(model.train(), len(frames), NOISE)

    from ase_nnp.uncertainty.methods.last_layer import _locate, linear_problem

    layer = _locate(model, frames)
    start = model.readout.weight.detach().reshape(-1).double()
    rows = {
        k: (r, missed + r @ start)
        for k, (r, missed) in linear_problem(model.eval(), layer, frames, NOISE).items()
    }
    ours = LastLayerPosterior(rows, NOISE)
    wanted, got = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        u, v = torch.randn(6, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
        with torch.no_grad():
            model.readout.weight.copy_(ours.weights(u)[None])
            for k, scale in zip(ours.statistics, ours.scales(v), strict=True):
                whole.log_noise[k].copy_(scale.log())
        model.train()
        wanted.append(float(whole(graph, labels).detach()))
        got.append(float(ours.energy(u, v)))
    # Minus the logarithms of two densities that may differ by a constant factor.
    assert np.ptp(np.subtract(got, wanted)) < 1e-5 * np.ptp(wanted)


@pytest.mark.slow
def test_chains_that_start_apart_agree_on_predictions():
    model, frames = trained()
    samples = run_last_layer_chains(model, frames, NOISE, steps=900, burn_in=300, samples=50)
    assert samples["readout.weight"].shape == (4, 50, 1, 6)
    members = members_from_samples(model, samples)
    fresh = molecules(3, seed=9)
    values = np.array(
        [[r["energy"] for r in predict(m, fresh, ("energy",), progress=False)] for m in members]
    ).reshape(4, 50, 3)
    assert r_hat(values).max() <= 1.1
    assert diagnose(values)["mixed"]


@pytest.mark.slow
def test_moments_are_those_of_the_closed_form():
    model, frames = trained()
    noise = {"energy": 0.05}
    samples = run_last_layer_chains(
        model,
        frames,
        noise,
        chains=8,
        steps=5000,
        burn_in=200,
        samples=1200,
        learn_noise=False,
        prior_std=0.7,
    )
    x = model.features(model.make_graph(frames)).detach()
    graph = model.make_graph(frames)
    rows = x.new_zeros(len(frames), 6).index_add(0, graph.batch, x).numpy()
    y = np.array([a.get_potential_energy() for a in frames])
    wanted = bayesian_linear_regression(rows, y, 0.05, 1 / 0.7**2)
    drawn = samples["readout.weight"].reshape(-1, 6).numpy()
    spread = np.sqrt(np.diag(wanted.posterior_covariance))
    assert np.abs((drawn.mean(0) - wanted.map_weights) / spread).max() < 0.1
    np.testing.assert_allclose(drawn.std(0), spread, rtol=0.08)


@pytest.mark.slow
def test_the_noise_is_found_where_it_is_sampled():
    frames = label(molecules(60, seed=1), Pair(hidden=6, seed=3).double(), noise=0.1)
    model = Pair(hidden=6, seed=3).double()
    samples = run_last_layer_chains(model, frames, NOISE, steps=1500, burn_in=500)
    # 900 force components tell their scale to 1 / sqrt(1800), about 2.4 per cent.
    assert samples["noise.forces"].mean() == pytest.approx(0.1, rel=0.08)
    assert samples["noise.energy"].mean() == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize(
    "options",
    [{"burn_in": 10, "steps": 10}, {"samples": 0}, {"chains": 0}, {"prior_std": 0.0}],
)
def test_settings_that_cannot_be_meant_are_refused(options):
    model, frames = trained()
    with pytest.raises(UncertaintyError):
        run_last_layer_chains(model, frames, NOISE, **options)


@pytest.mark.slow
def test_a_family_mixes_after_training(tmp_path):
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    from ase_nnp.training import Settings, fit

    rng, frames = np.random.default_rng(0), []
    for _ in range(40):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    config = {"factors": ["1"], "num_radial": 8, "num_angular": 4, "hidden": [16, 16]}
    fresh = ase_nnp.build_model("eeacsf", config, seed=0, device="cpu")
    settings = Settings(epochs=30, batch={"structures": 5}, optimizer={"lr": 5e-3}, progress=False)
    model = fit(fresh, frames[:30], None, settings, folder=tmp_path).model.double()
    samples = run_last_layer_chains(model, frames[:30], {"energy": 0.02, "forces": 0.1})
    members = members_from_samples(model, {k: v[:, ::5] for k, v in samples.items()})
    values = [
        [r["energy"] for r in predict(m, frames[30:], ("energy",), progress=False)] for m in members
    ]
    assert r_hat(np.array(values).reshape(4, 20, 10)).max() <= 1.1
