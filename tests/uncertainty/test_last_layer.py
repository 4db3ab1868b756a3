"""Last-layer error bars and shallow ensembles: exact where the answer is known."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from bayesian_regression import bayesian_linear_regression
from lj_model import LennardJones
from toy_models import Pair, label, molecules

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.predictor import predict
from ase_nnp.uncertainty.fitting import fit, wrap
from ase_nnp.uncertainty.methods import jacobian
from ase_nnp.uncertainty.methods.features import find_last_layer
from ase_nnp.uncertainty.methods.last_layer import LastLayerLaplace, with_force_rows
from ase_nnp.uncertainty.statistics import metrics as met


def rows_of(model, layer, structures, noise):
    """Rows of the linear problem by finite differences, over their noise."""
    rows = []

    def features(atoms):
        graph = model.make_graph(atoms)
        with layer.watch(model) as caught, torch.no_grad():
            model.energies(graph)
        return layer.split(caught[0], graph)[1][0].numpy()

    for atoms in structures:
        rows.append(features(atoms)[None] / noise["energy"])
        step, slopes = 1e-4, []
        for i in range(len(atoms)):
            for k in range(3):
                up, down = atoms.copy(), atoms.copy()
                up.positions[i, k] += step
                down.positions[i, k] -= step
                slopes.append(-(features(up) - features(down)) / (2 * step) / noise["forces"])
        rows.append(np.array(slopes))
    return np.concatenate(rows), features


def test_last_layer_is_exact_bayesian_linear_regression(train):
    model = Pair(width=5, hidden=6, seed=2).double()
    noise = {"energy": 0.05, "forces": 0.2}
    few = train[:6]
    laplace = wrap("last_layer", model, train=few, noise=noise, ridge=1e-4)
    rows, features = rows_of(model, laplace.layer, few, noise)
    lam = 1e-4 * np.trace(rows.T @ rows) / rows.shape[1]
    exact = bayesian_linear_regression(rows, np.zeros(len(rows)), 1.0, lam)
    atoms = molecules(1, seed=8)[0]
    got = predict(laplace, [atoms])[0]
    want = exact.predictive_std_epistemic(features(atoms)[None])[0]
    assert got["energy_std"] == pytest.approx(want, rel=1e-5)
    jacobian = rows_of(model, laplace.layer, [atoms], {"energy": 1, "forces": 1})[0][1:]
    component = exact.predictive_std_epistemic(jacobian).reshape(-1, 3)
    pooled = np.sqrt((component**2).mean(axis=1))
    np.testing.assert_allclose(got["forces_std"][:, 0], pooled, rtol=1e-4)
    assert got["energies_std"].shape == (len(atoms),)
    single = predict(model, [atoms])[0]
    assert got["energy"] == pytest.approx(single["energy"], rel=1e-12)
    np.testing.assert_allclose(got["forces"], single["forces"], atol=1e-12)
    diagonal = np.sqrt(features(atoms) ** 2 @ (1 / np.diag(exact.posterior_precision)))
    assert abs(diagonal / want - 1) > 0.05


def test_backward_passes_in_parts_give_what_one_for_each_row_gives(train, monkeypatch):
    model = Pair(width=5, hidden=6, seed=2).double()
    laplace = wrap("last_layer", model, train=train[:4])
    graph = model.make_graph(bulk("Cu", "fcc", 3.6).repeat((2, 1, 1)))
    wanted = ("energy", "forces", "forces_std", "stress", "stress_std")
    answers = []
    for rows in (1, 4, 100):
        monkeypatch.setattr(jacobian, "ROWS", rows)
        monkeypatch.setattr(jacobian, "FEWEST", 1)
        answers.append(laplace.compute(graph, wanted))
    assert set(answers[0]) >= set(wanted) & set(laplace.outputs)
    for other in answers[1:]:
        for name, value in answers[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-10, atol=1e-12)


def test_sampled_force_std_approaches_the_exact_one(train):
    model = Pair(hidden=6, seed=2).double()
    exact = wrap("last_layer", model, train=train[:8])
    many = wrap("last_layer", model, train=train[:8], force_std="sampled", samples=4000)
    a, b = (predict(m, train[9:10])[0]["forces_std"] for m in (exact, many))
    np.testing.assert_allclose(a, b, rtol=0.1)
    none = wrap("last_layer", model, train=train[:8], force_std="none")
    assert "forces_std" not in predict(none, train[:1])[0]
    assert "energy_std" in predict(none, train[:1])[0]


def test_last_layer_stress_std_is_that_of_sampled_weights(train):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=3)
    model = Pair(hidden=5, seed=3).double()
    laplace = wrap("last_layer", model, train=[*train[:4], atoms], noise={"energy": 0.1})
    got = predict(laplace, [atoms], ("stress", "stress_std"))[0]
    np.testing.assert_allclose(
        got["stress"], predict(model, [atoms], ("stress",))[0]["stress"], atol=1e-12
    )
    weights, stresses = laplace.sample_weights(3000, seed=1), []
    kept = model.readout.weight.detach().clone()
    base = torch.eye(5, dtype=torch.float64)
    with torch.no_grad():
        for row in base:  # the stress is linear in the weights
            model.readout.weight.copy_(row[None])
            stresses.append(predict(model, [atoms], ("stress",))[0]["stress"])
        model.readout.weight.copy_(kept)
    draws = np.einsum("md,dij->mij", weights.numpy(), np.array(stresses))
    np.testing.assert_allclose(got["stress_std"], met.stress_std(draws), rtol=0.1)


def test_pops_spans_the_misfit_of_a_wrong_model(train):
    model = Pair(width=3, seed=1).double()
    pops = fit("last_layer", model, train=train, covariance="pops")
    laplace = fit("last_layer", model, train=train)
    a, b = (predict(m, train[:1])[0]["energy_std"] for m in (pops, laplace))
    assert a > 3 * b  # the model is wrong, and only POPS knows


def test_the_last_layer_is_found_only_where_it_is_one():
    graph = Pair().double().make_graph([*molecules(1), *molecules(1, size=4)])
    for scale, mean in ((1.0, False), (-2.5, False), (1.0, True)):

        class Scaled(Pair):
            def energies(self, graph, scale=scale, mean=mean):
                energy = scale * super().energies(graph) + 3.0
                return energy / graph.atoms_per_structure() if mean else energy

        layer = find_last_layer(Scaled().double(), graph)
        assert (layer.name, layer.rows, layer.mean) == ("readout", "atom", mean)
        assert layer.scale == pytest.approx(scale)

    class Squared(Pair):
        def energies(self, graph):
            return super().energies(graph) ** 2

    for model in (Squared().double(), LennardJones(0.4, 2.3, 6.0)):
        with pytest.raises(UncertaintyError, match="latent"):
            find_last_layer(model, graph)


def test_a_shallow_ensemble_learns_the_size_of_its_errors(train, held_back):
    model = Pair(width=4, seed=1).double()
    exact = fit("shallow", model, train=train, heads=12, tune=0, details=True)
    tuned = fit("shallow", model, train=train, heads=12, details=True)
    results = predict(tuned, held_back)
    true = np.concatenate([a.get_forces() for a in held_back])

    def nll(rows):
        pred = np.concatenate([r["forces"] for r in rows])
        return met.nll_gaussian(true, pred, np.concatenate([r["forces_std"] for r in rows]))

    assert nll(results) < nll(predict(exact, held_back)) - 1
    row = results[0]
    np.testing.assert_allclose(row["forces"], row["forces_members"].mean(axis=0), atol=1e-10)
    assert row["energy_std"] == pytest.approx(row["energy_members"].std(ddof=1), rel=1e-6)
    std = met.forces_std(row["forces_members"])
    np.testing.assert_allclose(row["forces_std"], std, rtol=1e-6)


class Bare(Pair):
    """The same model, whose last layer is a parameter and no module that is called."""

    def energies(self, graph):
        per_atom = (self.features(graph) @ self.readout.weight.T)[:, 0]
        return per_atom.new_zeros(graph.num_structures).index_add(0, graph.batch, per_atom)


def test_a_parameter_serves_where_no_module_is_the_last_layer(train):
    options = {"train": train[:6], "noise": {"energy": 0.1, "forces": 0.2}}
    for force_std in ("exact", "none"):
        plain, bare = (
            wrap("last_layer", model(hidden=6, seed=2).double(), force_std=force_std, **options)
            for model in (Pair, Bare)
        )
        assert (plain.layer.name, bare.layer.name) == ("readout", "readout.weight")
        for a, b in zip(predict(plain, train[8:]), predict(bare, train[8:]), strict=True):
            assert set(a) - set(b) == {"energies_std"}
            for key in b:
                np.testing.assert_allclose(a[key], b[key], rtol=1e-7, atol=1e-12, err_msg=key)
    assert not any(p.requires_grad for p in bare.base.freeze().parameters())


class Head(torch.nn.Module):
    """A dense layer that is no torch.nn.Linear."""

    def __init__(self, width):
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.randn(width, 1))

    def forward(self, x):
        return x @ self.kernel


class Scaled(Pair):
    """Energies of atoms scaled and shifted by element, as several families do."""

    def __init__(self, known=True, **options):
        super().__init__(**options)
        self.head = Head(self.readout.in_features)
        del self.readout
        self.shift = torch.nn.Parameter(torch.randn(9))
        self.known = known

    def energies(self, graph):
        scale = graph.positions.new_tensor([0, 1.0, 0, 0, 0, 0, 2.5, 0, -0.5])
        x = self.features(graph)
        per_atom = (self.head(x) if self.known else x @ self.head.kernel)[:, 0]
        per_atom = per_atom * scale[graph.atomic_numbers] + self.shift[graph.atomic_numbers]
        return per_atom.new_zeros(graph.num_structures).index_add(0, graph.batch, per_atom)


def test_rows_scaled_by_element_are_recognized(train, tmp_path):
    options = {"train": train[:6], "noise": {"energy": 0.1, "forces": 0.2}}
    fast, slow = (
        wrap("last_layer", Scaled(known, hidden=6, seed=2).double(), **options)
        for known in (True, False)
    )
    assert dict(fast.layer.scales) == pytest.approx({1: 1.0, 6: 2.5, 8: -0.5})
    assert slow.layer.name == "head.kernel"
    for a, b in zip(predict(fast, train[8:]), predict(slow, train[8:]), strict=True):
        assert set(a) - set(b) == {"energies_std"}
        for key in b:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-6, atol=1e-11, err_msg=key)
    from ase_nnp.uncertainty import load_uncertainty, save_uncertainty

    save_uncertainty(fast, tmp_path / "my.uq")
    assert load_uncertainty(tmp_path / "my.uq", fast.base).layer == fast.layer


def test_energies_of_free_atoms_do_not_hide_that_a_scale_is_no_last_layer():
    class Offset(Scaled):
        """Scales behind a softplus, and thousands of eV that have nothing to do with them."""

        def __init__(self):
            super().__init__(known=False, hidden=6, seed=2)
            self.scale = torch.nn.Parameter(torch.zeros(9))

        def energies(self, graph):
            z = graph.atomic_numbers
            per_atom = (self.features(graph) @ self.head.kernel)[:, 0]
            per_atom = per_atom * torch.nn.functional.softplus(self.scale[z]) - 1000.0
            return per_atom.new_zeros(graph.num_structures).index_add(0, graph.batch, per_atom)

    graph = Offset().make_graph([*molecules(2), *molecules(1, size=4)])
    assert find_last_layer(Offset(), graph).name == "head.kernel"


def test_force_rows_of_some_structures_stand_for_those_of_all():
    train = label(molecules(200), Pair(seed=3).double())
    model = Pair(seed=3).double()
    some, every = (
        LastLayerLaplace([model], train=train, force_structures=count) for count in (64, None)
    )
    rows = [predict(method, train[:20], ("energy_std", "forces_std")) for method in (some, every)]
    for name in ("energy_std", "forces_std"):
        ratio = np.concatenate([np.ravel(a[name] / b[name]) for a, b in zip(*rows, strict=True)])
        np.testing.assert_allclose(ratio, 1, atol=0.25)
        assert np.median(ratio) == pytest.approx(1, abs=0.1)
    chosen = with_force_rows(train, 64, seed=0)
    assert len(chosen) == 64
    assert max(np.diff(sorted(chosen))) <= 2 * 200 / 64 + 1  # spread over the whole set
    assert with_force_rows(train[:5], 64) == set(range(5))
    with pytest.raises(UncertaintyError, match="at least 1"):
        with_force_rows(train, 0)
