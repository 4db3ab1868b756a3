"""Intervals of differences: errors with a known common part; conformal coverage."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from scipy.stats import norm
from toy_models import Pair, label, molecules

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty import (
    LastLayerLaplace,
    calibrate_differences,
    fit,
    load_uncertainty,
    save_uncertainty,
)
from ase_nnp.uncertainty.differences import energies
from ase_nnp.uncertainty.shared_errors import like_pairs, shared_part, shared_part_of_kinds

Z90 = norm.ppf(0.95)


def simulated(count, shared, seed):
    """Errors of differences whose covariance is the given part of the stated one."""
    rng = np.random.default_rng(seed)
    one, two = rng.uniform(0.1, 2.0, (2, count))
    stated = rng.uniform(0.3, 0.95, count) * one * two
    variance = one**2 + two**2
    return rng.normal(size=count) * np.sqrt(variance - 2 * shared * stated), variance, stated


@pytest.mark.parametrize("shared", [0.0, 0.4, 0.8, 1.0])
def test_the_shared_part_of_simulated_errors_is_found(shared):
    assert shared_part(*simulated(20000, shared, 1)) == pytest.approx(shared, abs=0.04)


@pytest.mark.parametrize("count", [9, 19, 60])
def test_coverage_of_a_new_pair_is_that_of_conformal_prediction(count):
    inside, rounds = 0, 3000
    for seed in range(rounds):
        errors, variance, stated = simulated(count + 1, 0.5, seed)
        part = shared_part(errors[:-1], variance[:-1], stated[:-1])
        half = Z90 * np.sqrt(variance[-1] - 2 * part * stated[-1])
        inside += abs(errors[-1]) <= half
    # At least (n + 1 - k) / (n + 1) with k = floor((n + 1) / 10); the part never exceeds 1.
    least = 1 - np.floor((count + 1) * 0.1 + 1e-9) / (count + 1)
    assert inside / rounds > least - 4 * np.sqrt(least * (1 - least) / rounds)
    # With 60 pairs the part is seldom at its ends, so that the coverage is not above either.
    if count == 60:
        assert inside / rounds == pytest.approx(least, abs=0.025)


def test_pairs_of_a_kind_that_training_never_had_decide_where_they_are_few():
    """Errors of what was seen go together as stated, of what was not only in part: known answer."""
    covered = {"all together": [], "kind by kind": []}
    for seed in range(200):
        seen, new = simulated(160, 1.0, 2 * seed), simulated(80, 0.5, 2 * seed + 1)
        known = [np.concatenate([a, b[:40]]) for a, b in zip(seen, new, strict=True)]
        kinds = ["relaxation"] * 160 + ["unseen"] * 40
        error, variance, stated = (column[40:] for column in new)
        for name, part in (
            ("all together", shared_part(*known)),
            ("kind by kind", shared_part_of_kinds(*known, kinds)),
        ):
            half = Z90 * np.sqrt(variance - 2 * part * stated)
            covered[name].append((np.abs(error) <= half).mean())
    assert np.mean(covered["all together"]) < 0.85
    assert np.mean(covered["kind by kind"]) == pytest.approx(0.9, abs=0.015)


def test_rare_kinds_stand_together_and_never_widen_the_common_part():
    columns = simulated(100, 0.7, 3)
    alike = ["one"] * 90 + list("abcdefghij")
    assert shared_part_of_kinds(*columns, alike) <= shared_part(*columns)
    rare = min(shared_part(*(c[p] for c in columns)) for p in (slice(0, 90), slice(90, 100)))
    assert shared_part_of_kinds(*columns, alike) == min(rare, shared_part(*columns))
    # Of fewer than nine nothing can be said.
    assert shared_part_of_kinds(*columns, ["one"] * 95 + ["two"] * 5) == min(
        shared_part(*columns), shared_part(*(c[:95] for c in columns))
    )


def test_too_few_pairs_are_refused_with_the_number_that_is_enough():
    with pytest.raises(UncertaintyError, match="give 9 or more"):
        shared_part(*simulated(8, 0.5, 0))
    with pytest.raises(UncertaintyError, match="give 19 or more"):
        shared_part(*simulated(18, 0.5, 0), coverage=0.95)


def test_errors_that_do_not_go_together_leave_the_other_pairs_to_decide():
    errors, variance, stated = simulated(5000, 0.6, 2)
    stated[::5] = 0.0
    assert 0.3 < shared_part(errors, variance, stated) <= 1


def test_pairs_are_of_one_composition_and_no_structure_is_in_two():
    structures = [Atoms("CO")] * 5 + [Atoms("OC")] * 2 + [Atoms("H2O")] * 3 + [Atoms("He")]
    pairs = like_pairs(structures)
    used = [k for pair in pairs for k in pair]
    assert len(set(used)) == len(used) == 8
    for a, b in pairs:
        assert structures[a].get_chemical_formula() == structures[b].get_chemical_formula()
    apart = like_pairs(structures, kinds=[0, 0, 0, 1, 1, 2, 2, 0, 0, 0, 0])
    assert sorted(sorted(pair) for pair in apart if max(pair) > 2 and max(pair) < 7) == [
        [3, 4],
        [5, 6],
    ]


@pytest.fixture(scope="module")
def linear():
    model = Pair(width=6, seed=3).double()
    return LastLayerLaplace([model], train=label(molecules(12), model, noise=0.05))


def with_errors(model, structures, shared, seed):
    """Labels off by errors with the model's stds and a part of its covariances, pair by pair."""
    rng = np.random.default_rng(seed)
    observed = energies(model, structures)
    for i, j in like_pairs(structures):
        one, two = observed[i], observed[j]
        cross = shared * one.covariance(two)
        matrix = [[one.covariance(one), cross], [cross, two.covariance(two)]]
        for k, error in zip((i, j), rng.multivariate_normal([0, 0], matrix), strict=True):
            atoms = structures[k]
            atoms.calc = SinglePointCalculator(atoms, energy=float(observed[k]) - error)
    return structures


@pytest.mark.slow
def test_a_model_learns_its_shared_part_and_its_file_keeps_it(linear, tmp_path):
    held = with_errors(linear, molecules(400, seed=4), 0.7, seed=5)
    before = energies(linear, held[:2])
    calibrate_differences(linear, held)
    try:
        assert linear.shared == pytest.approx(0.7, abs=0.15)
        one, two = energies(linear, held[:2])
        # Bars of single energies stay; of what two have in common the part is left.
        assert [one.std, two.std] == pytest.approx([x.std for x in before], rel=1e-12)
        wanted = linear.shared * before[0].covariance(before[1])
        assert one.covariance(two) == pytest.approx(wanted, rel=1e-9)

        save_uncertainty(linear, tmp_path / "shared.uq")
        assert load_uncertainty(tmp_path / "shared.uq", linear.base).shared == linear.shared

        for k, atoms in enumerate(held):
            atoms.info["seen"] = k % 2
        assert calibrate_differences(linear, held, kinds="seen").shared <= 0.85
        with pytest.raises(UncertaintyError, match="Structure 0 has no info"):
            calibrate_differences(linear, held, kinds="origin")
        with pytest.raises(UncertaintyError, match="1 kinds were given for 400"):
            calibrate_differences(linear, held, kinds=["one"])
    finally:
        linear.shared = 1.0


def test_what_is_measured_not_to_be_shared_is_not_called_unknown(linear):
    one, two = molecules(2, seed=9)
    try:
        linear.shared = 0.7
        first, second = energies(linear, [one, two])
    finally:
        linear.shared = 1.0
    said = (first - second).covers
    assert "measured not to be shared" in said
    assert "uncorrelated" not in said


def test_a_file_without_a_shared_part_is_believed_in_full(linear, tmp_path):
    save_uncertainty(linear, tmp_path / "plain.uq")
    assert "shared" not in linear.state()[1]
    assert load_uncertainty(tmp_path / "plain.uq", linear.base).shared == 1.0


def test_a_method_without_covariances_is_refused():
    model = Pair(hidden=4, dropout=0.2).double()
    held = label(molecules(20, seed=6), model, noise=0.1)
    with pytest.raises(UncertaintyError, match="no covariances"):
        calibrate_differences(fit("dropout", model), held)
