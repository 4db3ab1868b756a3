"""Methods that wrap potentials: what they add, and that it is what it claims."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from lj_model import LennardJones
from toy_models import Direct, Pair, label, molecules

from ase_nnp import NNPCalculator
from ase_nnp.errors import ConfigError, UncertaintyError
from ase_nnp.models.predictor import predict
from ase_nnp.uncertainty.fitting import attach, calibrate, fit, list_methods, wrap
from ase_nnp.uncertainty.methods.native import confidence_to_std, to_canonical
from ase_nnp.uncertainty.statistics import metrics as met
from ase_nnp.uncertainty.statistics.calibrated import check_factors, fit_calibration


@pytest.fixture(scope="module")
def members():
    return [Pair(hidden=8, seed=s).double() for s in range(4)]


def test_every_method_is_offered_through_the_hook():
    from ase_nnp.registry.installed import Registry
    from ase_nnp.uncertainty import plugin

    registry = Registry()
    registry.add_plugin("uncertainty", lambda: plugin)
    assert not registry.broken
    assert set(registry.uncertainties) == {m.name for m in plugin.METHODS} <= set(list_methods())
    with pytest.raises(ConfigError, match="no uncertainty method"):
        wrap("magic", Pair())
    with pytest.raises(ConfigError, match="does not take"):
        wrap("rotation", Pair(), speed=9)


def test_an_ensemble_is_the_mean_and_the_sample_spread(members, train):
    ensemble = wrap("ensemble", members, details=True, mode="sequential")
    for atoms, got in zip(train, predict(ensemble, train), strict=True):
        each = [predict(m, [atoms])[0] for m in members]
        energy = np.array([e["energy"] for e in each])
        forces = np.array([e["forces"] for e in each])
        assert got["energy"] == pytest.approx(energy.mean())
        assert got["energy_std"] == pytest.approx(energy.std(ddof=1))
        np.testing.assert_allclose(got["forces"], forces.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(got["forces_std"], met.forces_std(forces), atol=1e-12)
        np.testing.assert_allclose(got["forces_std_norm"], met.forces_std_norm(forces), atol=1e-12)
        np.testing.assert_allclose(got["forces_cov"], met.forces_cov(forces), atol=1e-12)
        np.testing.assert_allclose(got["energy_members"], energy)
        np.testing.assert_allclose(got["forces_members"], forces, atol=1e-12)


def test_component_mode_gives_the_raw_columns(members, train):
    ensemble = wrap("ensemble", members, force_std_mode="component", mode="sequential")
    forces = np.array([predict(m, train[:1])[0]["forces"] for m in members])
    got = predict(ensemble, train[:1])[0]["forces_std"]
    np.testing.assert_allclose(got, met.forces_std(forces, "component"), atol=1e-12)


def test_batched_members_are_those_in_turn(members):
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=1)
    structures = [crystal, *molecules(3)]
    wanted = ("energy", "forces", "stress", "energy_std", "forces_std", "stress_std")
    one = predict(wrap("ensemble", members, mode="sequential"), structures, wanted)
    joint = predict(wrap("ensemble", members, mode="batched"), structures, wanted)
    for a, b in zip(one, joint, strict=True):
        assert set(a) >= set(wanted[:2])
        for key in a:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-8, atol=1e-11, err_msg=key)
    assert "stress_std" in one[0]
    assert "stress_std" not in one[1]


def test_auto_settles_on_a_path_once_and_says_why(members, train):
    ensemble = wrap("ensemble", members)
    predict(ensemble, train[:1])
    assert ensemble.runner.choice in ("batched", "sequential")
    assert "sequential" in ensemble.runner.reason
    mixed = wrap("ensemble", [Pair(), Pair(hidden=4)])
    predict(mixed, train[:1])
    assert mixed.runner.choice == "sequential"
    assert "shape" in mixed.runner.reason
    with pytest.raises(UncertaintyError, match="cannot be batched"):
        predict(wrap("ensemble", [Pair(), Pair(hidden=4)], mode="batched"), train[:1])


def test_stress_std_is_the_spread_in_voigt_order(members):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.2, seed=2)
    atoms.calc = NNPCalculator(wrap("ensemble", members))
    each = []
    for m in members:
        copy = atoms.copy()
        copy.calc = NNPCalculator(m)
        each.append(copy.get_stress())
    np.testing.assert_allclose(atoms.get_stress(), np.mean(each, axis=0), atol=1e-12)
    want = np.std(each, axis=0, ddof=1)
    np.testing.assert_allclose(atoms.calc.results["stress_std"], want, atol=1e-12)


def test_a_pool_of_different_models_agrees_once_aligned(train):
    class Shifted(Pair):
        """Other zeros of energy, another cutoff, other precision."""

        cutoff = 5.0

        def energies(self, graph):
            from torch import tensor

            shift = tensor([0.0, -13.6, 0, 0, 0, 0, -1030.0, 0, -2041.0]).to(graph.positions)
            extra = shift[graph.atomic_numbers]
            return super().energies(graph).index_add(0, graph.batch, extra)

    members = [Pair(seed=9).double(), Shifted(seed=9).double(), Direct(seed=9).double()]
    raw = predict(wrap("ensemble", members, mode="sequential"), train[:3])
    assert raw[0]["energy_std"] > 100
    structures = [*train, *molecules(5, size=4), *molecules(5, size=7, seed=3)]
    pool = wrap("pool", members, align_on=structures)
    aligned = predict(pool, train[:3])
    assert aligned[0]["energy_std"] < 1
    want = predict(members[0], train[:3])
    for got, single in zip(aligned, want, strict=True):
        assert got["energy"] == pytest.approx(single["energy"], abs=1)
    with pytest.raises(UncertaintyError, match="align_on"):
        wrap("pool", members)


@pytest.mark.parametrize("kind", ["mahalanobis", "knn"])
def test_latent_distance_knows_strange_structures(kind, train):
    model = Pair(hidden=6, seed=1).double()
    latent = fit("latent", model, train=train, kind=kind)
    near = predict(latent, molecules(15, seed=4))
    squeezed = molecules(15, seed=4)
    for atoms in squeezed:
        atoms.positions *= 0.75
    far = predict(latent, squeezed)
    scores = [[r["ood_score"] for r in rows] for rows in (near, far)]
    assert met.auroc_ood(*scores) > 0.8
    flags = [np.mean([r["ood_flag"] for r in rows]) for rows in (near, far)]
    assert flags[0] < flags[1]
    assert isinstance(near[0]["ood_flag"], bool)
    assert near[0]["ood_score"] == near[0]["ood_scores"].max()
    single = predict(model, molecules(1, seed=4))[0]
    np.testing.assert_allclose(near[0]["forces"], single["forces"], atol=1e-12)
    strange = predict(latent, molecules(1, numbers=(1, 6, 79)))[0]
    assert strange["ood_score"] == np.inf
    assert strange["ood_flag"]
    assert np.isfinite(strange["forces_std"]).all()


def test_latent_distance_works_for_a_model_without_features(train):
    latent = fit("latent", LennardJones(0.4, 1.0, 4.0).double(), train=train)
    row = predict(latent, train[:1])[0]
    assert latent.reader.layer == ""
    assert row["ood_scores"].shape == (len(train[0]),)


def test_neighbors_distances_show_two_atoms_that_are_too_near(train):
    model = Pair(hidden=6, seed=1).double()
    latent = fit("latent", model, train=train, layer="")
    broken = molecules(15, seed=4)
    for atoms in broken:
        atoms.set_distance(0, 1, 0.4 * atoms.get_distance(0, 1), fix=0)
    near, far = predict(latent, molecules(15, seed=4)), predict(latent, broken)
    assert np.mean([r["ood_flag"] for r in far]) > 0.9
    assert met.auroc_ood(*([r["ood_score"] for r in rows] for rows in (near, far))) > 0.8
    with pytest.raises(UncertaintyError, match="no module 'nowhere'"):
        fit("latent", model, train=train, layer="nowhere")


def test_distances_go_around_another_method(train):
    model = Pair(hidden=6, seed=1).double()
    inner = fit("last_layer", model, train=train, force_std="none")
    both = fit("latent", inner, train=train)
    row = predict(both, train[:1])[0]
    assert row["energy_std"] == pytest.approx(predict(inner, train[:1])[0]["energy_std"])
    assert "ood_score" in row
    assert both.uq["method"] == "latent"


def test_dropout_is_reproducible_and_leaves_the_model_alone(train):
    model = Pair(hidden=16, dropout=0.2).double()
    before = predict(model, train[:1])[0]["energy"]
    method = wrap("dropout", model, passes=8)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, two = predict(method, train[:1]), predict(method, train[:1])
    assert torch.equal(torch.get_rng_state(), state)
    assert one[0]["energy_std"] == pytest.approx(two[0]["energy_std"], rel=1e-9)
    assert one[0]["energy_std"] > 0
    assert predict(model, train[:1])[0]["energy"] == pytest.approx(before, rel=1e-12)
    with pytest.raises(UncertaintyError, match="no dropout"):
        wrap("dropout", Pair())


@pytest.mark.parametrize("size", [1e-7, 1e-3])
def test_a_spread_that_is_rounding_is_not_made_into_error_bars(size):
    labels = [{"energy": np.array(float(k))} for k in range(20)]
    near = [{"energy": np.array(k + 0.1), "energy_std": np.array(size)} for k in range(20)]
    fitted = fit_calibration(labels, near, [[29]] * 20)
    if size > 1e-5:
        check_factors(fitted, "rotation")
        return
    with pytest.raises(UncertaintyError, match=r"energy .* 'rotation' .* rounding"):
        check_factors(fitted, "rotation")


def test_rotation_spread_is_zero_for_an_equivariant_model_only(train):
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=1)
    fair = predict(
        wrap("rotation", Pair(seed=1).double(), passes=4), [crystal], ("forces_std", "stress_std")
    )[0]
    assert fair["forces_std"].max() < 1e-10
    assert np.abs(fair["stress_std"]).max() < 1e-10

    class Skewed(Pair):
        def energies(self, graph):
            stretched = graph.positions * graph.positions.new_tensor([1.0, 1.05, 1.0])
            return super().energies(graph.replace(positions=stretched))

    assert predict(wrap("rotation", Skewed().double()), train[:1])[0]["energy_std"] > 1e-4


def test_native_uncertainties_get_canonical_names(train):
    class MeanVariance(Pair):
        outputs = ("energy", "forces", "energy_var", "confidence")
        per_atom = Pair.per_atom | {"confidence"}

        def compute(self, graph, properties):
            result = super().compute(graph, ("energy", "forces"))
            chance = torch.zeros(graph.num_atoms, 50)
            chance[:, 9] = 1
            return result | {"energy_var": result["energy"] ** 2, "confidence": chance}

    row = predict(wrap("native", MeanVariance().double()), train[:1])[0]
    assert row["energy_std"] == pytest.approx(abs(row["energy"]))
    # bin 9 of 50 up to 0.4: errors of 0.076, shared by three components
    np.testing.assert_allclose(row["forces_std_norm"], 0.076, rtol=1e-6)
    logits = torch.randn(4, 50)
    assert torch.allclose(confidence_to_std(logits), confidence_to_std(logits.softmax(dim=1)))
    results = to_canonical({"forces_var": torch.full((3,), 4.0)})
    assert torch.equal(results["forces_std"], torch.full((3, 3), 2.0))
    with pytest.raises(UncertaintyError, match="states no uncertainty"):
        wrap("native", Pair())


@pytest.mark.parametrize("calibrator", ["nll", "abs", "crps", "corrected", "affine", "isotonic"])
def test_calibration_scales_stds_and_gives_intervals(calibrator, truth, train, held_back):
    members = [Pair(seed=9).double() for _ in range(5)]
    torch.manual_seed(0)
    with torch.no_grad():  # the truth is one more draw of the same kind
        common = torch.randn_like(truth.readout.weight)
        for m in members:
            m.readout.weight.add_(0.03 * (torch.randn_like(common) - common))
    ensemble = fit("ensemble", members, calibration=held_back, calibrator=calibrator)
    assert ensemble.uq["calibrated"]
    assert ensemble.uq["n_cal"] == 20
    assert "not covered" in ensemble.uq["not_covered"]
    rows = predict(ensemble, held_back)
    error = np.concatenate(
        [a.get_forces() - r["forces"] for a, r in zip(held_back, rows, strict=True)]
    )
    std = np.concatenate([r["forces_std"] for r in rows])
    z = error / std
    if calibrator in ("nll", "affine"):  # where the likelihood is largest, this is one
        assert np.mean(z**2) == pytest.approx(1, abs=1e-3)
    elif calibrator == "abs":
        assert np.sqrt(np.pi / 2) * np.abs(z).mean() == pytest.approx(1, abs=1e-6)
    else:
        assert 0.6 < np.mean(z**2) < 1.6
    lower, upper = np.concatenate([r["forces_interval"] for r in rows], axis=1)
    true = np.concatenate([a.get_forces() for a in held_back])
    assert met.coverage(true, lower, upper) == pytest.approx(0.9, abs=0.02)
    low, high = rows[0]["energy_interval"]
    assert low < rows[0]["energy"] < high


def test_intervals_for_whole_structures_hold_all_their_atoms(members, truth):
    structures = label(molecules(60, seed=6), truth)
    ensemble = fit("ensemble", members, calibration=structures[:30], unit="structure")
    held = []
    for atoms, row in zip(structures[30:], predict(ensemble, structures[30:]), strict=True):
        lower, upper = row["forces_interval"]
        held.append(((lower <= atoms.get_forces()) & (atoms.get_forces() <= upper)).all())
    assert np.mean(held) > 0.75
    assert calibrate(ensemble, structures).calibration.unit == "value"


def test_the_calculator_shows_the_canonical_keys(members, train, held_back):
    ensemble = fit("ensemble", members, calibration=held_back, details=True)
    atoms = train[0].copy()
    atoms.calc = NNPCalculator(members[0], uncertainty=ensemble)
    other = NNPCalculator(members[1])
    assert atoms.calc.get_property("energy_std", atoms) > 0
    n, results = len(atoms), atoms.calc.results
    shapes = {
        "forces_std": (n, 3),
        "forces_std_norm": (n,),
        "forces_cov": (n, 3, 3),
        "energy_members": (4,),
        "forces_members": (4, n, 3),
        "energy_interval": (2,),
        "forces_interval": (2, n, 3),
    }
    assert {k: np.shape(results[k]) for k in shapes} == shapes
    assert results["uq"]["method"] == "ensemble"
    assert "energy_std" in atoms.calc.implemented_properties
    assert "energy_std" not in other.implemented_properties


def test_attach_takes_names_and_mappings_and_refuses_another_model(members):
    assert attach(members[0], "rotation").method == "rotation"
    assert attach(members[0], {"method": "rotation", "passes": 3}).passes == 3
    from ase_nnp.errors import CheckpointError

    with pytest.raises(CheckpointError, match="another model"):
        attach(members[2], wrap("ensemble", members[:2]))


@pytest.mark.parametrize("block", [1, 1 << 23])
def test_distances_on_a_device_are_those_on_arrays(train, monkeypatch, block):
    from ase_nnp.uncertainty.methods import latent

    monkeypatch.setattr(latent, "BLOCK", block)
    method = wrap("latent", Pair().double(), train=train)
    rng = np.random.default_rng(0)
    numbers = np.array(sorted(method.distance.means) * 3)
    width = len(next(iter(method.distance.means.values())))
    features = rng.standard_normal((len(numbers), width))
    distances = method.far(torch.as_tensor(features), torch.as_tensor(numbers))
    np.testing.assert_allclose(distances.numpy(), method.distance(features, numbers), rtol=1e-9)
    features[0, 0] = np.nan  # not known to be near anything
    numbers[1] = 92  # was not there
    distances = method.far(torch.as_tensor(features), torch.as_tensor(numbers))
    assert torch.isinf(distances).tolist() == [True, True] + [False] * (len(numbers) - 2)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_pass_over_training_structures_shows_itself_on_a_terminal(
    capsys, monkeypatch, terminal
):
    from ase_nnp.uncertainty.progress import tracked

    monkeypatch.setenv("FORCE_COLOR", "1") if terminal else monkeypatch.delenv("FORCE_COLOR", False)
    assert list(tracked(range(60), "features")) == list(range(60))
    out, err = capsys.readouterr()
    assert out == ""
    assert ("features" in err) == terminal
