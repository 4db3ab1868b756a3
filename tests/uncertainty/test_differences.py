"""Error bars of differences against brute force over members and the last layer's own matrix."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from toy_models import Pair, label, molecules

from ase_nnp import predict, sum_potentials
from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty import DeepEnsemble, LastLayerLaplace, Pool, ShallowEnsemble, fit
from ase_nnp.uncertainty.differences import energies
from ase_nnp.uncertainty.methods.jacobian import plain_features
from ase_nnp.uncertainty.observables import Observable, Source, combine, covariance


@pytest.fixture(scope="module")
def members():
    return [Pair(hidden=4, seed=seed).double() for seed in range(5)]


@pytest.fixture(scope="module")
def linear():
    model = Pair(width=6, seed=3).double()
    return LastLayerLaplace([model], train=label(molecules(12), model, noise=0.05))


def brute_force(members, structures):
    return np.array([[r["energy"] for r in predict(m, structures, ("energy",))] for m in members])


def test_the_std_of_a_difference_is_that_of_the_members_differences(members):
    a, b, c = structures = molecules(3, seed=5)
    table = brute_force(members, structures)
    one, two, three = energies(DeepEnsemble(members), [a, b, c])
    wanted = (2 * table[:, 0] - table[:, 1] - 0.5 * table[:, 2]).std(ddof=1)
    assert (2 * one - two - three / 2).std == pytest.approx(wanted, abs=1e-10)
    np.testing.assert_allclose(covariance([one, two, three]), np.cov(table.T), atol=1e-10)
    np.testing.assert_allclose((one - two).members, table[:, 0] - table[:, 1], atol=1e-10)


def test_two_calls_of_one_model_know_of_each_other(members):
    a, b = molecules(2, seed=6)
    ensemble = DeepEnsemble(members)
    (first,), (second,) = energies(ensemble, [a]), energies(ensemble, [b])
    table = brute_force(members, [a, b])
    assert (first - second).std == pytest.approx((table[:, 0] - table[:, 1]).std(ddof=1), abs=1e-10)
    assert (first - energies(ensemble, [a])[0]).std == pytest.approx(0, abs=1e-12)


def test_what_comes_back_from_another_process_is_still_wrong_together():
    members = [Pair(hidden=4, seed=seed).double() for seed in range(5)]
    for member in members:
        member.family = "pair"  # what a family makes is known by configuration and weights
    linear = LastLayerLaplace(members[:1], train=label(molecules(12), members[0], noise=0.05))
    first, second = molecules(2, seed=9)
    # A process of its own has a model of its own, equal by content.
    for model in (DeepEnsemble(members), linear):
        here, twin = energies(model, [first]), pickle.loads(pickle.dumps(model))
        there = pickle.loads(pickle.dumps(energies(twin, [second])))
        together = energies(model, [first, second])
        assert (here[0] - there[0]).std == pytest.approx((together[0] - together[1]).std)
    # Another uncertainty of the same model is another source.
    other = DeepEnsemble(members[:3])
    with_it, without = energies(DeepEnsemble(members), [first])[0], energies(other, [first])[0]
    assert not set(with_it.parts) & set(without.parts)
    single = Observable(1.0, {Source("independent"): np.array([0.1])})
    assert (pickle.loads(pickle.dumps(single)) - single).std == 0.0


def test_other_functions_are_evaluated_for_every_member(members):
    structures = molecules(4, seed=7)
    table = brute_force(members, structures)
    result = combine(lambda *e: max(e) - e[0], *energies(DeepEnsemble(members), structures))
    wanted = table.max(axis=1) - table[:, 0]
    assert result.std == pytest.approx(wanted.std(ddof=1), abs=1e-10)
    np.testing.assert_allclose(result.members, wanted, atol=1e-10)


def test_the_last_layers_covariance_is_that_of_its_weights(linear):
    structures = molecules(3, seed=8)
    graphs = [linear.make_graph([atoms]) for atoms in structures]
    features = [plain_features(linear.base, linear.layer, g, ("energy",))[2] for g in graphs]
    phi = torch.cat(features).detach().double()
    sigma = linear.factor @ linear.factor.T
    wanted = (phi @ sigma @ phi.T).numpy()
    observables = energies(linear, structures)
    np.testing.assert_allclose(covariance(observables), wanted, rtol=1e-10)

    stds = [r["energy_std"] for r in predict(linear, structures, ("energy", "energy_std"))]
    np.testing.assert_allclose([one.std for one in observables], stds, rtol=1e-10)
    apart = phi[0] - phi[1]
    spread = float(apart @ sigma @ apart) ** 0.5
    assert (observables[0] - observables[1]).std == pytest.approx(spread, rel=1e-8)


def test_draws_of_the_last_layers_weights_spread_as_the_difference_says(linear):
    a, b = molecules(2, seed=9)
    draws = linear.sample_weights(4000, seed=1)
    rows = [
        plain_features(linear.base, linear.layer, linear.make_graph([x]), ("energy",))[2]
        for x in (a, b)
    ]
    sampled = ((rows[0] - rows[1]).detach().double() @ draws.T).std()
    one, two = energies(linear, [a, b])
    # The standard error of a std of 4000 draws is 1.1 %.
    assert (one - two).std == pytest.approx(float(sampled), rel=0.045)


def test_a_shallow_ensembles_heads_are_members(linear):
    shallow = ShallowEnsemble(
        [linear.base],
        train=label(molecules(8), linear.base, noise=0.05),
        heads=6,
        tune=0,
        details=True,
    )
    structures = molecules(2, seed=10)
    results = predict(shallow, structures, ("energy", "energy_members"))
    table = np.array([row["energy_members"] for row in results])
    one, two = energies(shallow, structures)
    assert (one - two).std == pytest.approx((table[0] - table[1]).std(ddof=1), abs=1e-10)


def test_a_pools_shifts_are_taken_off(members):
    structures = molecules(6, seed=11)
    pool = Pool(members[:3], align_on=molecules(8, seed=12))
    stds = [r["energy_std"] for r in predict(pool, structures, ("energy", "energy_std"))]
    np.testing.assert_allclose([e.std for e in energies(pool, structures)], stds, rtol=1e-8)


def test_a_calibration_scales_the_bars_and_leaves_the_correlations(members):
    held_back = label(molecules(10, seed=13), members[0], noise=0.3)
    plain, scaled = DeepEnsemble(members), fit("ensemble", members, calibration=held_back)
    structures = molecules(2, seed=14)
    before, after = energies(plain, structures), energies(scaled, structures)
    stds = [r["energy_std"] for r in predict(scaled, structures, ("energy", "energy_std"))]
    np.testing.assert_allclose([one.std for one in after], stds, rtol=1e-8)
    for one, two in (before, after):
        ratio = one.covariance(two) / one.std / two.std
        first, second = before
        assert ratio == pytest.approx(first.covariance(second) / first.std / second.std, rel=1e-9)


def test_a_correction_keeps_what_two_energies_have_in_common(members):
    structures = molecules(2, seed=6)
    ensemble, term = DeepEnsemble(members), Pair(hidden=4, seed=11).double()
    corrected = sum_potentials([ensemble, term])
    corrected.corrections = ("a formula",)
    (a, b), (c, d) = energies(ensemble, structures), energies(corrected, structures)
    assert (c - d).std == pytest.approx((a - b).std, rel=1e-12)
    added = brute_force([term], structures)[0]
    assert (c - d).value == pytest.approx((a - b).value + added[0] - added[1], rel=1e-10)
    # The error of a second model is unknown, where it is no formula.
    corrected.corrections = ()
    assert (c - energies(corrected, structures)[0]).std is None


def test_stds_without_covariances_add_in_squares_and_say_so(members):
    a, b = molecules(2, seed=15)
    model = Pair(hidden=4, dropout=0.2).double()
    one, two = energies(fit("dropout", model), [a, b])
    assert (one - two).std == pytest.approx(np.hypot(one.std, two.std), rel=1e-12)
    assert "uncorrelated" in (one - two).covers


def test_a_model_without_uncertainty_gives_no_bar_and_the_reason(members):
    one, two = energies(members[0], molecules(2))
    assert (one - two).std is None
    assert (one - two).interval() is None
    assert "without uncertainty" in (one - two).covers


def test_sums_with_plain_numbers_and_sums_of_lists():
    source = Source("linear")
    one = Observable(1.0, {source: np.array([3.0, 4.0])})
    assert sum([one, one, 2]).value == 4.0
    assert sum([one, one]).std == pytest.approx(10)
    assert (5 - one).value == 4.0
    assert (5 - one).std == pytest.approx(5)
    with pytest.raises(UncertaintyError, match="combine"):
        one * one
    product = combine(lambda x, y: x * y, one, one)
    assert product.std == pytest.approx(10, rel=1e-6)  # d(x^2) = 2 x dx


def test_a_methods_own_rows_correlate_its_own_stds(linear):
    class Scaled(type(linear)):
        """Stds of twice the layer's, with the layer's correlations."""

        def spread(self, graph, properties):
            result = super().spread(graph, properties)
            return result | {"energy_std": 2 * result["energy_std"]}

        def energy_rows(self, graph):
            return plain_features(self.base, self.layer, graph, ("energy",))[2] @ self.factor

    model = Scaled.from_state(linear.base, *linear.state())
    structures = molecules(2, seed=16)
    one, two = energies(model, structures)
    first, second = energies(linear, structures)
    assert one.std == pytest.approx(2 * first.std, rel=1e-9)
    assert (one - two).std == pytest.approx(2 * (first - second).std, rel=1e-8)
