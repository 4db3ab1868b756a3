"""Bonding that training never had: known by hand, flagged, explained, kept in files."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from toy_models import Pair, label, molecules

from ase_nnp import predict
from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty import fit, load_uncertainty, save_uncertainty
from ase_nnp.uncertainty.methods import bonding
from ase_nnp.uncertainty.methods.bonding import MOST, KnownBonding, bonding_of


@pytest.fixture(scope="module")
def model():
    return Pair(width=6, seed=3).double()


def on_palladium(name: str, height: float = 1.8) -> Atoms:
    slab = fcc111("Pd", (2, 2, 2), a=3.95, vacuum=6.0)
    add_adsorbate(slab, molecule(name), height, "ontop")
    return slab


def rattled(atoms: Atoms, count: int, seed: int = 0) -> list[Atoms]:
    copies = [atoms.copy() for _ in range(count)]
    for number, copy in enumerate(copies):
        copy.rattle(0.03, seed=100 * seed + number)
    return copies


def test_bonding_is_what_a_chemist_would_draw(model):
    names = bonding_of(model.make_graph([molecule("H2O"), molecule("HCOOH")]))
    assert names["partners"][:3] == ["O-H2", "H-O", "H-O"]
    assert set(names["molecules"]) == {"H2O free", "CH2O2 free"}
    # Formic acid: one carbon between two oxygen atoms, one of which has a hydrogen.
    (carbon,) = [n for n in names["shells"][3:] if n.startswith("C-")]
    assert carbon == "C-O2,H(H-C O-C O-C,H)"


def test_metals_have_partners_without_counts_and_second_neighbors_are_none(model):
    crystal = bulk("Cu", cubic=True) * 2
    assert set(bonding_of(model.make_graph([crystal]))["partners"]) == {"Cu-Cu"}
    assert set(bonding_of(model.make_graph([Atoms("Cu")]))["partners"]) == {"Cu-"}
    slab = bonding_of(model.make_graph([on_palladium("CO")]))
    assert "CO on metal" in slab["molecules"]
    assert any(name.startswith("Pd-Pd,") for name in slab["partners"])


def test_bonding_does_not_change_with_order_rotation_or_periodic_images(model):
    atoms = on_palladium("CH3OH")
    turned = atoms[::-1]
    turned.rotate(30, "z", rotate_cell=True)
    turned.positions += [1.3, -2.2, 0.4]
    turned.wrap()
    doubled = atoms * (2, 1, 1)
    first = bonding_of(model.make_graph([atoms]))
    for other in (turned, doubled):
        second = bonding_of(model.make_graph([other]))
        assert all(set(first[level]) == set(second[level]) for level in first)


def test_networks_have_no_formula(model):
    names = bonding_of(model.make_graph([bulk("C", "diamond", a=3.57, cubic=True) * 2]))
    assert set(names["molecules"]) == {""}
    assert set(names["partners"]) == {"C-C4"}


@pytest.mark.parametrize("name", ["NO2", "CH3OH", "C2H2"])
def test_a_molecule_that_training_had_elsewhere_is_unknown_on_a_metal(model, name):
    train = [*rattled(on_palladium("CO"), 60), *rattled(molecule(name), 60, 1)]
    known = KnownBonding.fit(model, train)
    assert {"molecules", "shells"} <= set(known.counts)
    assert known.novel(model.make_graph([on_palladium(name)])).any()
    seen = [*rattled(on_palladium("CO"), 3, 5), *rattled(molecule(name), 3, 6)]
    assert not known.novel(model.make_graph(seen)).any()


def test_the_reason_is_a_sentence(model):
    known = KnownBonding.fit(model, rattled(molecule("NH3"), 50) + rattled(molecule("O2"), 50, 1))
    said = " | ".join(known.explain(model, molecule("NO2")))
    assert "a molecule NO2 free: never seen (atoms 0, 1, 2)" in said
    assert "N bonded to O2, of these O-N and O-N: never seen (atoms 0)" in said
    assert known.explain(model, molecule("NH3")) == []


@pytest.mark.parametrize("rare", [1, 4, 30])
def test_what_training_hardly_had_counts_as_new_within_the_false_alarms(model, rare):
    train = rattled(molecule("H2O"), 400) + rattled(molecule("H2O2"), rare, 1)
    known = KnownBonding.fit(model, train, false_alarms=0.02)
    alarms = known.novel(model.make_graph([molecule("H2O2")])).any()
    # Of 400, 8 may be called new; and what 20 structures had is learned.
    assert bool(alarms) == (rare < MOST and rare / len(train) <= 0.02)
    assert known.false_alarms <= 0.02
    assert not known.novel(model.make_graph([molecule("H2O")])).any()


def test_levels_at_which_everything_is_new_are_left_out(model):
    train = molecules(30, seed=2, numbers=(1, 6, 7, 8), spread=0.5)
    known = KnownBonding.fit(model, train, false_alarms=0.0)
    assert known.false_alarms == 0.0
    assert "shells" not in known.counts
    with pytest.raises(UncertaintyError, match="needs the training structures"):
        KnownBonding.fit(model, [])


def test_methods_flag_it_and_files_keep_it(model, tmp_path):
    train = label(rattled(on_palladium("CO"), 30), model)
    strange = [on_palladium("CO2"), on_palladium("CO")]
    latent = fit("latent", model, train=train, kind="knn", layer="", quantile=1.0)
    latent.threshold = 1e9
    assert latent.explain(strange[0]) == []
    before = predict(latent, strange, ("ood_flag", "ood_score"))
    assert not any(row["ood_flag"] for row in before)

    latent.remember_bonding(train)
    save_uncertainty(latent, tmp_path / "bonding.uq")
    again = load_uncertainty(tmp_path / "bonding.uq", model)
    for one in (latent, again):
        rows = predict(one, strange, ("energy", "ood_flag", "ood_score"))
        assert [bool(row["ood_flag"]) for row in rows] == [True, False]
        assert rows[0]["ood_score"] > one.uq["score_threshold"]
        assert rows[1]["ood_score"] == before[1]["ood_score"]
        assert set(one.uq["bonding"]) == set(latent.bonding.counts)
        assert any("CO2 on metal" in line for line in one.explain(strange[0]))


def test_a_method_without_a_flag_has_one_from_then_on(model):
    train = label(rattled(molecule("H2O"), 30), model)
    ensemble = fit("ensemble", [model, Pair(width=6, seed=4).double()])
    assert "ood_flag" not in ensemble.outputs
    ensemble.remember_bonding(train)
    rows = predict(ensemble, [molecule("H2O"), molecule("NH3")], ("energy_std", "ood_flag"))
    assert [bool(row["ood_flag"]) for row in rows] == [False, True]


def test_the_default_looks_at_bonding(model):
    train = label(rattled(molecule("CH3OH"), 40), model, noise=0.02)
    held = label(rattled(molecule("CH3OH"), 20, 3), model, noise=0.02, seed=1)
    auto = fit("auto", model, train=train, calibration=held)
    assert auto.bonding is not None
    assert auto.bonding.false_alarms <= 0.025
    broken = molecule("CH3OH")
    del broken[broken.symbols.index("H")]
    broken.calc = SinglePointCalculator(broken)
    assert predict(auto, [broken], ("ood_flag",))[0]["ood_flag"]
    assert torch.isfinite(torch.tensor(predict(auto, [broken], ("ood_score",))[0]["ood_score"]))


def test_bonds_of_few_atoms_are_not_remembered_as_numbers_of_more(model):
    known = KnownBonding.fit(model, rattled(molecule("H2O"), 50), false_alarms=0.0)
    # The bond of atoms 1 and 2, written after the numbers, reads He, H, H, He.
    bonded = Atoms("ArH2", [(0, 0, 0), (9, 0, 0), (9, 0, 0.74)])
    alone = Atoms("ArH2HeH2He", [(9 * k, 0, 0) for k in range(7)])
    for atoms in (bonded, alone):
        assert len(known.novel(model.make_graph([atoms]))) == len(atoms)


def test_remembered_answers_follow_the_bonds_and_not_the_positions(model, monkeypatch):
    known = KnownBonding.fit(model, rattled(molecule("H2O"), 50), false_alarms=0.0)
    whole, broken, other = molecule("H2O"), molecule("H2O"), molecule("SH2")
    broken.positions[1] += broken.positions[1] - broken.positions[0]
    for _ in range(2):
        answers = [known.novel(model.make_graph([a])).any() for a in (whole, broken, other)]
        assert [bool(a) for a in answers] == [False, True, True]

    # What is remembered needs no words.
    monkeypatch.setattr(bonding, "_words", None)
    whole.rattle(0.01, seed=3)
    assert not known.novel(model.make_graph([whole])).any()
    with pytest.raises(TypeError):
        known.novel(model.make_graph([molecule("NH3")]))
