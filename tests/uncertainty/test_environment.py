"""Error bars by environment: fitted by ``auto`` or by leaving kinds out, kept, refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from toy_models import Pair, label, molecules

from ase_nnp import NNPCalculator, sum_potentials
from ase_nnp.errors import ConfigError, UncertaintyError
from ase_nnp.models.conservative import Conservative
from ase_nnp.models.predictor import predict
from ase_nnp.uncertainty import fit, load_uncertainty, save_uncertainty, wrap
from ase_nnp.uncertainty.methods.environment import EnvironmentBars
from ase_nnp.uncertainty.methods.environment_signs import neighbor_mean
from ase_nnp.uncertainty.methods.refit import RIDGE, left_out_errors


@pytest.fixture(scope="module")
def truth():
    return Pair(hidden=8, seed=9).double()


@pytest.fixture(scope="module")
def train(truth):
    return label(molecules(60, seed=1, spread=0.1), truth)


@pytest.fixture(scope="module")
def held(truth):
    return label(molecules(40, seed=2, spread=0.1), truth)


@pytest.fixture(scope="module")
def model(train, truth):
    """A linear model that fits the truth near the training structures only."""
    model = Pair(width=6, seed=3).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200)
    graph = model.make_graph(train)
    energy = torch.tensor([a.get_potential_energy() for a in train], dtype=torch.float64)

    def loss():
        optimizer.zero_grad()
        value = (model.energies(graph) - energy).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    return model.freeze()


@pytest.fixture(scope="module")
def bars(model, train, held):
    return fit("auto", model, train=train, calibration=held)


class Repulsion(Conservative):
    """A formula without weights, as corrections are."""

    cutoff = 3.0

    def energies(self, graph):
        r = graph.edge_vectors().norm(dim=-1)
        pair = torch.exp(-r) * (1 - r / self.cutoff) ** 2
        owner = graph.batch[graph.edge_index[1]]
        return pair.new_zeros(graph.num_structures).index_add(0, owner, pair)


def coverage(bars, structures):
    rows = predict(bars, structures)
    ends = np.concatenate([r["forces_interval"] for r in rows], axis=1)
    true = np.concatenate([a.get_forces() for a in structures])
    return float(((ends[0] <= true) & (true <= ends[1])).mean())


def test_auto_gives_stds_intervals_a_stated_score_and_a_flag(bars, held):
    row = predict(bars, held[:1])[0]
    n = len(held[0])
    assert row["forces_std"].shape == (n, 3)
    np.testing.assert_array_equal(row["forces_std"][:, 0], row["forces_std"][:, 2])
    assert row["forces_interval"].shape == (2, n, 3)
    assert row["energy_interval"].shape == (2,)
    assert row["energy_std"] > 0
    uq = bars.uq
    assert uq["method"] == "environment"
    assert uq["calibrated"]
    assert uq["n_cal"] == 40
    assert uq["score"] in ("expected", "mean", "quantile", "largest")
    assert uq["score_threshold"] > 0
    assert set(uq["left_out"]) <= {*uq["kinds"], "0", "1", "2", "3", "4"}


def test_intervals_hold_new_structures_of_a_known_kind(bars, truth):
    new = label(molecules(60, seed=11, spread=0.1), truth)
    assert coverage(bars, new) == pytest.approx(0.9, abs=0.04)


def test_error_bars_grow_with_the_shift(bars, held, truth):
    sizes, errors = [], []
    for spread in (0.1, 0.2, 0.3):
        new = label(molecules(30, seed=12, spread=spread), truth)
        rows = predict(bars, new)
        sizes.append(np.mean([r["forces_std"].mean() for r in rows]))
        missed = [r["forces"] - a.get_forces() for r, a in zip(rows, new, strict=True)]
        errors.append(np.sqrt(np.mean(np.concatenate(missed) ** 2)))
    assert sizes[0] < sizes[1] < sizes[2]
    # Errors grow; one factor, fitted at home, would stay behind by as much.
    assert errors[2] > 1.8 * errors[0]
    assert 0.6 < (sizes[2] / sizes[0]) / (errors[2] / errors[0]) < 1.7


def test_the_flag_marks_known_kinds_at_the_rate_asked_for_and_new_ones(model, train, held, truth):
    new = molecules(400, seed=13, spread=0.1)
    for rate in (0.02, 0.2):
        one = fit("auto", model, train=train, calibration=held, false_alarms=rate)
        flagged = np.mean([r["ood_flag"] for r in predict(one, new, ("energy", "ood_flag"))])
        # The threshold is a quantile of 60 training scores: its rate has an error of its own.
        assert flagged == pytest.approx(rate, abs=3 * np.sqrt(rate * (1 - rate) / 60) + 0.02)
    strange = molecules(20, seed=14, spread=0.5)
    assert np.mean([r["ood_flag"] for r in predict(one, strange, ("energy", "ood_flag"))]) > 0.9


def test_an_element_that_was_not_there_is_infinitely_far_and_flagged(bars, held):
    strange = held[0].copy()
    strange.numbers[0] = 9
    row = predict(bars, [strange], ("energy", "forces_std", "ood_score", "ood_flag"))[0]
    assert row["ood_flag"]
    assert np.isinf(row["ood_score"])
    assert np.isfinite(row["forces_std"]).all()


def test_fitted_bars_are_kept_in_a_file(bars, model, held, tmp_path):
    save_uncertainty(bars, tmp_path / "a.uq")
    again = load_uncertainty(tmp_path / "a.uq", model)
    assert again.uq == bars.uq
    for one, two in zip(predict(bars, held[:3]), predict(again, held[:3]), strict=True):
        assert one.keys() == two.keys()
        for name in ("forces_std", "energy_interval", "ood_score"):
            np.testing.assert_allclose(one[name], two[name], rtol=1e-12)
    atoms = held[0].copy()
    atoms.calc = NNPCalculator(model, uncertainty=tmp_path / "a.uq")
    atoms.get_forces()
    assert atoms.calc.results["forces_std"].shape == (len(atoms), 3)


def test_a_committee_is_one_more_sign(train, held):
    members = [Pair(hidden=8, seed=s).double() for s in (9, 10, 11)]
    ensemble = fit("auto", members, train=train, calibration=held)
    assert ensemble.uq["around"] == "ensemble"
    assert len(ensemble.widths["forces"].slopes) == 3
    assert "rank" in ensemble.uq["score_auroc_left_out"]
    assert coverage(ensemble, held) == pytest.approx(0.9, abs=0.04)
    chosen = fit("auto", members, train=train, calibration=held, score="rank")
    assert chosen.uq["score"] == "rank"
    assert 0 <= predict(chosen, held[:1], ("energy", "ood_score"))[0]["ood_score"] < 5


@pytest.mark.parametrize("method", ["latent", "last_layer"])
def test_leaving_kinds_out_calibrates_a_method_by_name(method, model, train, held):
    options = {} if method == "latent" else {"force_std": "none"}
    one = fit(method, model, train=train, calibration="leave-kind-out", held_back=held, **options)
    assert one.uq["calibrator"] == "leave-kind-out"
    assert coverage(one, held) == pytest.approx(0.9, abs=0.04)


def test_kinds_are_named_by_a_key_of_info(model, train, held):
    named = [atoms.copy() for atoms in train]
    for i, (atoms, old) in enumerate(zip(named, train, strict=True)):
        atoms.info["phase"] = "ab"[i % 2]
        atoms.calc = old.calc
    one = fit("auto", model, train=named, calibration=held, kinds="phase")
    assert one.uq["kinds"] == ["a", "b"]
    with pytest.raises(UncertaintyError, match="info"):
        fit("auto", model, train=named, calibration=held, kinds="temperature")


def test_without_structures_held_back_it_says_that_the_level_is_a_lower_bound(model, train):
    with pytest.warns(UserWarning, match="held back"):
        one = fit("auto", model, train=train)
    assert one.uq["n_cal"] == 0
    assert "training structures" in one.uq["level"]
    assert np.isfinite(predict(one, train[:1])[0]["forces_std"]).all()


def test_an_element_of_one_kind_alone_leaves_the_powers_to_the_others(model, truth):
    """Infinitely far with its kind left out: such atoms would flatten the power law."""
    plain = label(molecules(50, seed=1, spread=0.1, numbers=(1, 6)), truth)
    other = label(molecules(12, seed=4, spread=0.1, numbers=(1, 9)), truth)
    kinds = [*(f"known {i % 3}" for i in range(50)), *["new"] * 12]
    with pytest.warns(UserWarning, match="held back"):
        alone = fit("auto", model, train=plain, kinds=kinds[:50])
    with pytest.warns(UserWarning, match="held back"):
        both = fit("auto", model, train=[*plain, *other], kinds=kinds)
    powers = [one.widths["expected"].slopes.sum() for one in (alone, both)]
    assert powers[0] > 0.3
    assert powers[1] == pytest.approx(powers[0], rel=0.5)
    assert np.isfinite(both.uq["score_threshold"])


def test_structures_with_elements_of_their_own_leave_the_flag_a_threshold(model, truth, held):
    train = label(molecules(20, seed=1, spread=0.1), truth)
    for atoms, number in zip(train[:3], (7, 9, 14), strict=True):
        atoms.numbers[0] = number
    one = fit("auto", model, train=train, calibration=held)
    assert np.isfinite(one.uq["score_threshold"])


def test_a_refit_leaves_the_corrections_of_the_model_on(model, train):
    """Labels that hold a term are no errors of the network beneath it."""
    whole = sum_potentials([model, Repulsion()])
    labeled = []
    rows = zip(train, predict(whole, train), predict(model, train), strict=True)
    for atoms, row, bare in rows:
        twin = atoms.copy()
        old = atoms.calc.results
        results = {k: old[k] + row[k] - bare[k] for k in ("energy", "forces")}
        assert abs(row["energy"] - bare["energy"]) > 0.1
        twin.calc = SinglePointCalculator(twin, **results)
        labeled.append(twin)
    with pytest.warns(UserWarning, match="held back"):
        alone = fit("auto", model, train=train)
    with pytest.warns(UserWarning, match="held back"):
        corrected = fit("auto", whole, train=labeled)
    one, two = (predict(b, train[:5]) for b in (alone, corrected))
    for a, b in zip(one, two, strict=True):
        assert b["energy_std"] == pytest.approx(a["energy_std"], rel=0.3)


def test_the_refit_of_the_last_layer_is_least_squares_without_the_kind(model, train):
    kinds = np.arange(len(train)) % 3
    energy, forces = left_out_errors(
        model, train, kinds, {"energy": 0.02, "forces": 0.06}, structures=len(train)
    )
    # The model is linear in its weights: one least-squares problem, a ridge about those it has.
    graphs = [model.make_graph(a) for a in train]
    phi = torch.stack([model.features(g).sum(dim=0) for g in graphs])
    slopes = []
    for graph in graphs:
        x = graph.positions.clone().requires_grad_(True)
        total = model.features(graph.replace(positions=x)).sum(dim=0)
        rows = [torch.autograd.grad(t, x, retain_graph=True)[0].reshape(-1) for t in total]
        slopes.append(-torch.stack(rows, dim=1))
    rest = np.flatnonzero(kinds != 0)
    old = model.readout.weight.detach()[0]
    label_e = torch.tensor([train[i].get_potential_energy() for i in rest]) - phi[rest] @ old
    label_f = torch.cat([torch.tensor(train[i].get_forces()).reshape(-1) for i in rest])
    jacobian = torch.cat([slopes[i] for i in rest])
    rows = torch.cat([phi[rest] / 0.02, jacobian / 0.06])
    target = torch.cat([label_e / 0.02, (label_f - jacobian @ old) / 0.06])
    ridge = torch.sqrt(RIDGE * rows.square().sum() / rows.shape[1]) * torch.eye(rows.shape[1])
    full = torch.cat([rows, ridge.double()]), torch.cat([target, target.new_zeros(len(old))])
    weights = old + torch.linalg.lstsq(full[0], full[1][:, None]).solution[:, 0]
    want = train[0].get_potential_energy() - float(phi[0] @ weights)
    assert energy[0] == pytest.approx(want, abs=1e-4 * np.abs(energy).max())
    missed = torch.tensor(train[0].get_forces()) - (slopes[0] @ weights).reshape(-1, 3)
    np.testing.assert_allclose(forces[0], missed.numpy(), atol=1e-4 * np.abs(forces[0]).max())


def test_the_mean_over_neighbors_is_its_definition(train):
    model = Pair().double()
    graph = model.make_graph(train[:3])
    values = torch.rand(graph.num_atoms, dtype=torch.float64)
    got = neighbor_mean(values, graph, 4.0)
    atoms = train[0]
    gaps = atoms.get_all_distances()
    weight = np.where((gaps > 0) & (gaps < 4), (0.5 * (1 + np.cos(np.pi * gaps / 4))) ** 2, 0)
    want = weight @ values[: len(atoms)].numpy() / weight.sum(axis=1)
    np.testing.assert_allclose(got[: len(atoms)].numpy(), want, rtol=1e-6)
    alone = model.make_graph(molecules(1, size=1))
    assert neighbor_mean(torch.ones(1).double() * 3, alone, 4.0).tolist() == [3.0]


def test_what_cannot_be_meant_is_refused(model, train, held):
    for options, said in (
        ({"calibration": "leave-one-out"}, "leave-kind-out"),
        ({"calibration": held, "heads": 3}, "options"),
        ({"calibration": held, "score": "rank"}, "energy_std"),
        ({"calibration": held, "score": "best"}, "score must be"),
        ({"calibration": held, "false_alarms": 0.0}, "false_alarms"),
    ):
        with pytest.raises((ConfigError, UncertaintyError), match=said):
            fit("auto", model, train=train, **options)
    with pytest.raises(ConfigError, match="training structures"):
        fit("auto", model, calibration=held)
    with pytest.raises(UncertaintyError, match="training structures"):
        NNPCalculator(model, uncertainty="auto")
    with pytest.raises(ConfigError, match="option"):
        wrap("auto", model, heads=3)
    with pytest.raises(ConfigError, match="held_back"):
        fit("latent", model, train=train, held_back=held)


def test_forces_that_are_zero_by_symmetry_say_nothing_of_their_element(model, train, held, truth):
    """Crystals of one atom: the error of each force is zero, that of a displaced atom is not."""
    crystals = [Atoms("Al", cell=np.full(3, 2.5 + 0.02 * k), pbc=True) for k in range(12)]
    label(crystals, truth)
    one = fit("auto", model, train=[*train, *crystals[:6]], calibration=[*held, *crystals[6:]])
    assert 13 not in one.widths["forces"].groups
    usual = np.median([r["forces_std"].mean() for r in predict(one, held)])
    assert predict(one, crystals[:1])[0]["forces_std"].mean() > 0.03 * usual


def test_labels_without_forces_calibrate_energies_alone(model, train, held):
    only = []
    for atoms in held:
        bare = atoms.copy()
        bare.calc = SinglePointCalculator(bare, energy=atoms.get_potential_energy())
        only.append(bare)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = fit("auto", model, train=train, calibration=only)
    assert isinstance(one, EnvironmentBars)
    assert "energy_std" in one.outputs
    assert "forces_std" not in one.outputs
    rows = predict(one, held)
    inside = [
        r["energy_interval"][0] <= a.get_potential_energy() <= r["energy_interval"][1]
        for r, a in zip(rows, held, strict=True)
    ]
    assert np.mean(inside) >= 0.85


def test_copies_of_training_structures_have_error_bars_too(model, train, held):
    rows = predict(fit("auto", model, train=[*train, *train * 11], calibration=held), train[:5])
    away = predict(fit("auto", model, train=train, calibration=held), train[:5])
    for copy, known in zip(rows, away, strict=True):
        assert copy["forces_std"].min() > 0.01 * known["forces_std"].min()
