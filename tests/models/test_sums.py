"""Sums of potentials and corrections: values, derivatives, error bars, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

import ase_nnp
from ase_nnp import Correction, NNPCalculator, load_model, predict, save_model, sum_potentials
from ase_nnp import uncertainty as uq
from ase_nnp.errors import (
    CheckpointError,
    ConfigError,
    PredictionError,
    StructureError,
    UnknownModelError,
)
from ase_nnp.models.potential import Potential
from ase_nnp.models.sums import SumOfEnergies, SumPotential
from ase_nnp.registry.installed import installed


def model(**config):
    return ase_nnp.build_model("lj", config, device="cpu", dtype="float64")


def structures():
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    crystal, water = bulk("Cu", cubic=True), molecule("H2O")
    for seed, atoms in enumerate((slab, crystal, water)):
        atoms.rattle(0.1, seed=seed)
    return [slab, crystal, water]


class Direct(Potential):
    """A model whose forces are no gradient, with a cap on its neighbors."""

    outputs = ("energy", "forces")
    cutoff, max_neighbors = 3.0, 4

    def forward(self, graph):
        r = graph.edge_vectors()
        target = graph.edge_index[1]
        energy = r.new_zeros(graph.num_structures)
        forces = torch.zeros_like(graph.positions)
        return {
            "energy": energy.index_add(0, graph.batch[target], r.norm(dim=1)),
            "forces": forces.index_add(0, target, r),
        }


@pytest.fixture
def tail():
    """Offer a short correction and one with functionals, as a plugin would."""
    registry = installed()

    def build(config):
        from lj_model import LennardJones

        scale = {"pbe": 1.0, "rpbe": 2.0}.get(config.get("functional", "pbe"))
        return LennardJones(config["depth"] * scale, 1.8, 2.9)

    offers = {
        "tail": Correction(name="tail", summary="", build=build, defaults={"depth": 0.1}),
        "disp": Correction(
            name="disp",
            summary="",
            build=build,
            defaults={"depth": 0.1},
            functionals=("pbe", "rpbe"),
        ),
    }
    registry.corrections.update(offers)
    yield offers
    for name in offers:
        registry.corrections.pop(name)


@pytest.mark.parametrize("cutoff", [3.0, 9.0], ids=["shorter", "longer"])
def test_a_sum_is_the_sum_of_its_parts(cutoff):
    one, two = model(), model(epsilon=0.1, sigma=1.5, cutoff=cutoff)
    total = sum_potentials([one, two], [1.0, -0.5])
    assert isinstance(total, SumOfEnergies)
    assert total.plain_graph == (cutoff < 6)
    wanted = ("energy", "forces", "stress")
    parts = [predict(m, structures(), wanted) for m in (one, two)]
    for results, a, b in zip(predict(total, structures(), wanted), *parts, strict=True):
        assert set(results) == set(a)
        for name, value in results.items():
            np.testing.assert_allclose(value, a[name] - 0.5 * b[name], rtol=1e-10, atol=1e-10)


def test_parts_may_want_edges_of_their_own():
    one, two = model(), Direct().to(torch.float64)
    total = sum_potentials([two, one])
    assert isinstance(total, SumPotential)
    assert not total.conservative
    assert "stress" not in total.outputs
    together = predict(total, structures())
    alone = [predict(total, [atoms])[0] for atoms in structures()]
    for a, b, batch, single in zip(
        predict(one, structures()), predict(two, structures()), together, alone, strict=True
    ):
        np.testing.assert_allclose(batch["forces"], a["forces"] + b["forces"], atol=1e-10)
        np.testing.assert_allclose(single["forces"], batch["forces"], atol=1e-10)
        assert batch["energy"] == pytest.approx(a["energy"] + b["energy"], rel=1e-10)


def test_error_bars_of_the_parts_are_carried():
    members = [model(epsilon=e) for e in (0.38, 0.40, 0.43)]
    ensemble = uq.wrap("ensemble", members)
    total = sum_potentials([ensemble, model(epsilon=0.1)], [2.0, 1.0])
    (alone,) = predict(ensemble, structures()[:1])
    (results,) = predict(total, structures()[:1])
    assert results["energy_std"] == pytest.approx(2 * alone["energy_std"], rel=1e-9)
    np.testing.assert_allclose(results["forces_std"], 2 * alone["forces_std"], rtol=1e-9)
    norm = np.linalg.norm(results["forces_std"], axis=1)
    np.testing.assert_allclose(results["forces_std_norm"], norm, rtol=1e-9)
    twice = sum_potentials([ensemble, ensemble])
    (results,) = predict(twice, structures()[:1])
    assert results["energy_std"] == pytest.approx(2**0.5 * alone["energy_std"], rel=1e-9)
    norm = np.linalg.norm(results["forces_std"], axis=1)
    np.testing.assert_allclose(results["forces_std_norm"], norm, rtol=1e-9)
    detailed = uq.wrap("ensemble", members, details=True)
    (alone,) = predict(detailed, structures()[:1])
    (results,) = predict(sum_potentials([detailed], [-3.0]), structures()[:1])
    np.testing.assert_allclose(results["forces_cov"], 9 * alone["forces_cov"], rtol=1e-9)
    assert "forces_cov" not in sum_potentials([detailed, detailed]).outputs


def test_intervals_move_with_their_value(tail):
    train = [bulk("Cu", cubic=True) for _ in range(20)]
    reference = model()
    for seed, atoms in enumerate(train):
        atoms.rattle(0.1, seed=seed)
        atoms.calc = NNPCalculator(model(epsilon=0.42))
        atoms.get_forces()
    ensemble = uq.fit("ensemble", [reference, model(epsilon=0.43)], calibration=train, coverage=0.8)
    (alone,) = predict(ensemble, train[:1])
    corrected = load_model(ensemble, corrections=["tail"])
    (results,) = predict(corrected, train[:1])
    shift = results["energy"] - alone["energy"]
    assert abs(shift) > 1e-4
    np.testing.assert_allclose(
        results["energy_interval"], np.add(alone["energy_interval"], shift), rtol=1e-9
    )
    (turned,) = predict(sum_potentials([ensemble], [-1.0]), train[:1])
    np.testing.assert_allclose(turned["energy_interval"], -alone["energy_interval"][::-1])
    np.testing.assert_allclose(turned["forces_interval"], -alone["forces_interval"][::-1])


def test_error_bars_may_have_been_fitted_with_or_without_the_corrections(tail, tmp_path):
    train = [bulk("Cu", cubic=True) for _ in range(6)]
    for seed, atoms in enumerate(train):
        atoms.rattle(0.1, seed=seed)
    alone, corrected = model(), load_model(model(), corrections=["tail"])
    for name, one in (("without", alone), ("with", corrected)):
        uq.save_uncertainty(uq.fit("latent", one, train=train), tmp_path / name)
        atoms = structures()[1]
        atoms.calc = NNPCalculator(model(), corrections=["tail"], uncertainty=tmp_path / name)
        (plain,) = predict(corrected, [atoms])
        assert atoms.get_potential_energy() == pytest.approx(plain["energy"], rel=1e-10)
        assert atoms.calc.results["forces_std"].shape == (len(atoms), 3)
        assert atoms.calc.todict()["corrections"] == ["tail"]
    other = model(epsilon=0.5)
    with pytest.raises(CheckpointError, match="another model"):
        NNPCalculator(other, corrections=["tail"], uncertainty=tmp_path / "without")


def test_corrections_by_name_reach_the_calculator(tail):
    atoms = structures()[0]
    atoms.calc = NNPCalculator(model(), corrections=["tail", "disp:rpbe"])
    parts = [
        model(),
        *(
            tail[n].build({"depth": 0.1, **f}).to(torch.float64)
            for n, f in (("tail", {}), ("disp", {"functional": "rpbe"}))
        ),
    ]
    expected = sum(predict(m, [atoms])[0]["energy"] for m in parts)
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=1e-10)
    assert atoms.calc.todict()["corrections"] == ["tail", "disp:rpbe"]


def test_a_file_keeps_the_corrections_with_their_parameters(tail, tmp_path):
    from ase_nnp.models.corrections import add_corrections

    total = add_corrections(model(sigma=2.2), ["tail", "disp:pbe"], {"tail": {"depth": 0.3}})
    save_model(total, tmp_path / "a.nnp")
    again = load_model(tmp_path / "a.nnp", device="cpu", dtype="float64")
    assert again.corrections == ("tail", "disp:pbe")
    for a, b in zip(predict(total, structures()), predict(again, structures()), strict=True):
        np.testing.assert_allclose(a["forces"], b["forces"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("corrections", "error", "said"),
    [
        (["tial"], UnknownModelError, "Did you mean 'tail'"),
        (["disp"], ConfigError, "needs one of 2 functionals"),
        (["disp:pbee"], ConfigError, "'disp:pbe'"),
        (["tail:pbe"], ConfigError, "the same for every functional"),
        (["tail", "tail"], ConfigError, "counted twice"),
    ],
)
def test_corrections_that_cannot_be_meant_are_refused(tail, corrections, error, said):
    with pytest.raises(error, match=said):
        load_model(model(), corrections=corrections)


def test_a_correction_is_not_counted_twice(tail):
    once = load_model(model(), corrections=["tail"])
    with pytest.raises(ConfigError, match="already in the model"):
        load_model(once, corrections=["tail"])


def test_what_is_no_one_model_is_not_saved_as_one(tmp_path):
    for several in (
        sum_potentials([model(), model()]),
        uq.wrap("ensemble", [model(), model(epsilon=0.5)]),
    ):
        with pytest.raises(CheckpointError, match="no one model"):
            save_model(several, tmp_path / "a.nnp")


def test_a_sum_within_a_sum_keeps_the_edges_of_its_own_terms():
    """A longer term of the inner sum must not be given the list of a shorter one of the outer."""
    short, long = model(epsilon=0.1, cutoff=4.0), model(epsilon=0.2, sigma=2.5, cutoff=8.0)
    first = model(cutoff=3.0)
    expected = predict(sum_potentials([first, long, short]), structures())
    inner = sum_potentials([first, long])
    for nested in (
        sum_potentials([inner, short]),
        sum_potentials([short, inner]),
        sum_potentials([uq.wrap("ensemble", [inner, inner]), short]),
    ):
        for wanted, results in zip(expected, predict(nested, structures()), strict=True):
            assert results["energy"] == pytest.approx(wanted["energy"], rel=1e-10)
            np.testing.assert_allclose(results["forces"], wanted["forces"], atol=1e-10)


def test_an_error_names_the_term():
    class Picky(Direct):
        def forward(self, graph):
            raise StructureError("this term does not like it")

    total = sum_potentials([model(), Picky().to(torch.float64)], names=["model", "picky"])
    with pytest.raises(StructureError, match="'picky'"):
        predict(total, [Atoms("Cu2", positions=[[0, 0, 0], [2.5, 0, 0]])])


@pytest.mark.parametrize("gradient", [True, False], ids=["gradients", "any forces"])
def test_a_term_that_is_not_finite_is_named_with_the_structure(gradient):
    first = model() if gradient else Direct().to(torch.float64)
    total = sum_potentials([first, model(epsilon=1e308)], names=["model", "hole"])
    assert isinstance(total, SumOfEnergies) == gradient
    with pytest.raises(PredictionError, match=r"structure 0 .*in the term 'hole'"):
        predict(total, structures())


def test_sums_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="at least one"):
        sum_potentials([])
    with pytest.raises(ConfigError, match="2 potentials and 1 weights"):
        sum_potentials([model(), model()], [1.0])


def test_a_batched_relaxation_sees_the_edges_of_a_longer_term():
    """A list of the first one's edges would cut the second one short, without a word."""
    from ase.optimize import FIRE

    total = sum_potentials([model(cutoff=3.0), model(epsilon=0.2, sigma=2.5, cutoff=8.0)])
    start = structures()[0]
    (row,) = ase_nnp.relax_many(total, [start.copy()], fmax=0.02, steps=30, optimizer="FIRE")
    alone = start.copy()
    alone.calc = NNPCalculator(total)
    FIRE(alone, logfile=None).run(fmax=0.02, steps=30)
    energy = row.atoms.get_potential_energy()
    assert energy == pytest.approx(alone.get_potential_energy(), abs=1e-8)


def test_a_graph_without_the_edges_of_a_longer_term_is_searched_again():
    total = sum_potentials([model(cutoff=3.0), model(epsilon=0.1, cutoff=8.0)])
    atoms = structures()[0]
    bare = total.base.make_graph([atoms])
    (wanted,) = predict(total, [atoms])
    results = total.compute(bare, ("energy", "forces"))
    assert float(results["energy"]) == pytest.approx(wanted["energy"], rel=1e-12)
    np.testing.assert_allclose(results["forces"].numpy(), wanted["forces"], atol=1e-10)
