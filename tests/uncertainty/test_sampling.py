"""Samplers of weights: known Gaussians, chains on a small potential, diagnostics, the store."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from bayesian_regression import bayesian_linear_regression
from toy_models import Pair, label, molecules

from ase_nnp.errors import CheckpointError, UncertaintyError
from ase_nnp.models.predictor import predict
from ase_nnp.uncertainty.sampling.chains import ChainSettings, run_chain, run_chains
from ase_nnp.uncertainty.sampling.optimizers import BAOA, SGHMC, SGLD, pSGLD
from ase_nnp.uncertainty.sampling.posterior import Posterior
from ase_nnp.uncertainty.sampling.schedules import (
    constant_step,
    kept_steps,
    polynomial_step,
)
from ase_nnp.uncertainty.sampling.store import load_samples, members_from_samples, save_samples
from ase_nnp.uncertainty.statistics.diagnostics import ess


def sample_gaussian(precision, mean, make, steps, burn_in, every, replicas=4000):
    """Independent replicas of a chain with the full gradient of a Gaussian; (n, D) samples."""
    precision, mean = torch.as_tensor(precision), torch.as_tensor(mean)
    spread = torch.linalg.cholesky(torch.linalg.inv(precision))
    start = torch.randn(replicas, len(mean), dtype=torch.float64) @ spread.T
    theta = (mean + start).requires_grad_()
    sampler, kept = make([theta]), []
    for step in range(steps):
        theta.grad = (theta.detach() - mean) @ precision
        sampler.step()
        if step >= burn_in and (step - burn_in) % every == 0:
            kept.append(theta.detach().clone())
    return torch.cat(kept).numpy()


@pytest.fixture
def posterior():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6)) @ (np.eye(6) + 0.2 * rng.normal(size=(6, 6)))
    y = x @ rng.normal(size=6) + 0.3 * rng.normal(size=60)
    torch.manual_seed(0)
    return bayesian_linear_regression(x, y, 0.3, 2.5)


def critical(precision):
    """Largest stable step of BAOA, and the friction that relaxes the slowest direction best."""
    values = np.linalg.eigvalsh(precision)
    return 2 / np.sqrt(values[-1]), 2 * np.sqrt(values[0])


@pytest.mark.parametrize(
    ("fraction", "temperature"),
    [
        (0.6, 1.0),
        (0.6, 0.1),
        pytest.param(0.15, 1.0, marks=pytest.mark.slow),
        pytest.param(0.15, 0.1, marks=pytest.mark.slow),
    ],
)
def test_baoa_has_the_variance_of_a_gaussian_at_any_stable_step(posterior, fraction, temperature):
    limit, friction = critical(posterior.posterior_precision)
    h = fraction * limit
    relax = int(2 / (h * friction)) + 1
    draws = sample_gaussian(
        posterior.posterior_precision,
        posterior.map_weights,
        lambda params: BAOA(params, h, temperature, friction, seed=1),
        160 * relax,
        20 * relax,
        4 * relax,
    )
    want = temperature * posterior.posterior_covariance
    np.testing.assert_allclose(draws.var(axis=0), np.diag(want), rtol=0.02)
    values, axes = np.linalg.eigh(want)
    np.testing.assert_allclose((draws @ axes).var(axis=0), values, rtol=0.02)
    error = np.sqrt(np.diag(want) / len(draws))
    assert (np.abs(draws.mean(axis=0) - posterior.map_weights) < 6 * error).all()


def test_baoa_on_the_stored_gaussian_case(shared):
    import json

    folder = shared / "uncertainty" / "known_answers"
    want = json.loads((folder / "01_bayesian_linear_regression.json").read_text())
    limit, friction = critical(want["posterior_precision"])
    torch.manual_seed(1)
    draws = sample_gaussian(
        np.array(want["posterior_precision"]),
        np.array(want["map_weights"]),
        lambda params: BAOA(params, 0.5 * limit, friction=friction, seed=2),
        1000,
        100,
        20,
    )
    np.testing.assert_allclose(draws.var(axis=0), np.diag(want["posterior_covariance"]), rtol=0.02)


@pytest.mark.parametrize("h", [0.05, 0.2])
def test_sgld_inflates_variances_exactly_as_theory_says(h):
    curvature = 8.0
    torch.manual_seed(2)
    draws = sample_gaussian(
        curvature * np.eye(2), np.ones(2), lambda p: SGLD(p, h, seed=3), 400, 50, 10
    )
    want = 1 / curvature / (1 - h * curvature / 2)
    np.testing.assert_allclose(draws.var(axis=0), want, rtol=0.02)


def test_sghmc_is_close_and_better_with_a_smaller_step():
    torch.manual_seed(3)
    bias = []
    for h in (0.3, 0.05):
        draws = sample_gaussian(
            4 * np.eye(2), np.zeros(2), lambda p, h=h: SGHMC(p, h, friction=2.0, seed=4),
            int(100 / h), int(10 / h), int(2 / h),
        )  # fmt: skip
        bias.append(abs(4 * draws.var() - 1))
    assert bias[1] < 0.03
    assert bias[0] > 3 * bias[1]


def test_psgld_samples_directions_of_very_different_curvature():
    # replicas share one gradient scale only if each has its own V: elementwise, as here
    curvature = np.array([100.0, 1.0])
    torch.manual_seed(4)
    draws = sample_gaussian(
        np.diag(curvature),
        np.zeros(2),
        lambda p: pSGLD(p, 0.02, num_data=1, alpha=0.999, seed=5),
        3000,
        500,
        50,
        replicas=1000,
    )
    np.testing.assert_allclose(draws.var(axis=0) * curvature, 1, atol=0.15)


def test_temperature_zero_is_descent_and_a_wild_step_is_refused():
    theta = torch.ones(3, requires_grad=True)
    sampler = SGLD([theta], 0.1, temperature=0.0)
    sampler.step(lambda: (theta**2).sum().backward())
    torch.testing.assert_close(theta.detach(), torch.full((3,), 0.8))
    theta.grad = torch.full((3,), torch.nan)
    with pytest.raises(UncertaintyError, match="smaller step"):
        sampler.step()
    with pytest.raises(UncertaintyError, match="lr > 0"):
        SGLD([theta], 0.0)


def test_schedules_and_thinning():
    step = polynomial_step(4e-7, 1e-7, 500)
    assert step(0) == pytest.approx(4e-7)
    assert step(499) == pytest.approx(1e-7)
    sizes = [step(t) for t in range(500)]
    assert all(a > b for a, b in itertools.pairwise(sizes))
    kept = kept_steps(step, 500, 100, 20, seed=1)
    assert len(set(kept)) == 20
    assert min(kept) >= 100
    many = np.array([kept_steps(step, 500, 0, 50, seed=s) for s in range(200)])
    early, late = (many < 100).sum(), (many >= 400).sum()
    assert early / late == pytest.approx(sum(sizes[:100]) / sum(sizes[400:]), rel=0.1)
    assert constant_step(0.3)(7) == 0.3


SETTINGS = ChainSettings(
    sampler="baoa",
    steps=600,
    burn_in=200,
    samples=20,
    step_size=3e-3,
    last_step_size=None,
    friction=30.0,
    batch_size=30,
    noise={"energy": 0.05, "forces": 0.1},
    learn_noise=False,
)


@pytest.fixture(scope="module")
def data():
    return label(molecules(30), Pair(seed=3).double(), noise=0.05, seed=1)


@pytest.mark.slow
def test_a_chain_on_a_linear_potential_has_the_exact_posterior(data):
    model, data = Pair(width=2, seed=3).double(), data[:8]
    rows, targets = linear_rows(model, data, SETTINGS.noise)
    exact = bayesian_linear_regression(rows, targets, 1.0, 1.0)
    with torch.no_grad():
        model.readout.weight.copy_(torch.as_tensor(exact.map_weights)[None])
    limit, friction = critical(exact.posterior_precision)
    settings = replace(
        SETTINGS,
        steps=1000,
        burn_in=50,
        samples=900,
        step_size=0.4 * limit,
        friction=friction,
    )
    chain = run_chain(model, data, settings, seed=1)["readout.weight"][:, 0].numpy()
    count = float(np.min(ess(chain[None])))
    assert count > 20
    error = np.sqrt(np.diag(exact.posterior_covariance) / count)
    assert (np.abs(chain.mean(axis=0) - exact.map_weights) < 4 * error).all()
    ratio = chain.var(axis=0) / np.diag(exact.posterior_covariance)
    np.testing.assert_allclose(ratio, 1, atol=4 * np.sqrt(2 / count))


def linear_rows(model, data, noise):
    """Rows of the linear problem for energies and forces, in units of their noise."""
    rows, targets = [], []
    for atoms in data:
        graph = model.make_graph(atoms)
        positions = graph.positions.requires_grad_()
        phi = model.features(graph.replace(positions=positions)).sum(dim=0)
        gradient = [torch.autograd.grad(p, positions, retain_graph=True)[0] for p in phi]
        rows.append(phi.detach().numpy()[None] / noise["energy"])
        targets.append([atoms.get_potential_energy() / noise["energy"]])
        rows.append(-torch.stack(gradient).reshape(len(phi), -1).T.numpy() / noise["forces"])
        targets.append(atoms.get_forces().ravel() / noise["forces"])
    return np.concatenate(rows), np.concatenate(targets)


@pytest.mark.slow
def test_chains_in_processes_are_those_in_turn(data):
    model = Pair(seed=4).double()
    settings = replace(SETTINGS, steps=20, burn_in=5, samples=4, step_size=1e-4)
    alone = run_chains(model, data[:8], settings, chains=2, seed=7)
    together = run_chains(model, data[:8], settings, chains=2, workers=2, seed=7)
    assert set(alone) == {"readout.weight", "noise.energy", "noise.forces"}
    for name in alone:
        assert alone[name].shape[:2] == (2, 4)
        torch.testing.assert_close(alone[name], together[name], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(alone["readout.weight"][0], alone["readout.weight"][1])


@pytest.mark.slow
def test_noise_scales_are_learned_from_the_data(data):
    model = Pair(seed=3).double()  # the truth, so that only noise of 0.05 is left
    settings = ChainSettings(
        sampler="psgld",
        steps=800,
        burn_in=600,
        samples=20,
        step_size=3e-4,
        last_step_size=1e-4,
        batch_size=10,
        noise={"energy": 0.1, "forces": 0.1},
        prior_mean="start",
    )
    samples = run_chain(model, data, settings, seed=2)
    assert float(samples["noise.forces"].mean()) == pytest.approx(0.05, rel=0.25)


def test_posterior_is_the_sum_it_claims(data):
    model = Pair(seed=1).double().train()
    posterior = Posterior(model, 30, {"energy": 0.1}, prior_std=2.0, learn_noise=True)
    graph = model.make_graph(data[:5])
    energy = model(graph)["energy"]
    target = energy.detach() + torch.tensor([0.1, -0.2, 0.0, 0.3, 0.1], dtype=torch.float64)
    got = posterior(graph, {"energy": target}).item()
    want = 6 * (0.15 / (2 * 0.01) + 5 * np.log(0.1))
    want += (model.readout.weight**2).sum().item() / 8 + 1 - np.log(0.1)
    assert got == pytest.approx(want, rel=1e-6)


def test_samples_survive_a_file_and_become_an_ensemble(data, tmp_path):
    model = Pair(seed=4).double()
    settings = replace(SETTINGS, steps=20, burn_in=5, samples=2, step_size=1e-4)
    samples = run_chains(model, data[:8], settings, chains=2)
    path = tmp_path / "chains.safetensors"
    save_samples(path, samples, model, temperature=1.0)
    loaded, header = load_samples(path)
    assert header["notes"] == {"temperature": 1.0}
    members = members_from_samples(model, loaded)
    assert len(members) == 4
    energies = [predict(m, data[:1])[0]["energy"] for m in members]
    assert len(set(energies)) == 4
    torch.testing.assert_close(members[3].readout.weight.data, samples["readout.weight"][1, 1])
    with pytest.raises(CheckpointError, match="do not fit"):
        members_from_samples(Pair(width=4), loaded)
    (tmp_path / "other").write_text("nothing")
    with pytest.raises(CheckpointError, match="no samples"):
        load_samples(tmp_path / "other")


def test_psgld_steps_are_the_published_ones():
    theta = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    sampler = pSGLD([theta], 0.1, num_data=10, temperature=0.0, alpha=0.9, eps=1e-3)
    want, square = np.array([1.0, -2.0]), None
    for gradient in ([3.0, -5.0], [1.0, 4.0]):
        grad = np.array(gradient)
        square = (grad / 10) ** 2 if square is None else square
        square = 0.9 * square + 0.1 * (grad / 10) ** 2
        want = want - 0.05 * grad / (1e-3 + np.sqrt(square))
        theta.grad = torch.tensor(gradient, dtype=torch.float64)
        sampler.step()
    np.testing.assert_allclose(theta.detach().numpy(), want, rtol=1e-12)
