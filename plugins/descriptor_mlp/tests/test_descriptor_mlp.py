"""Conformance, descriptors against values worked out by hand, and what the model learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell, molecule

import ase_nnp
from ase_nnp.errors import ConfigError, DatasetError, StructureError
from ase_nnp.testing import conformance
from ase_nnp_descriptor_mlp import prepared
from ase_nnp_descriptor_mlp.descriptors import Descriptors, descriptor_names

test_conformance = pytest.mark.slow(
    conformance("descriptor_mlp")
)  # fast in tests/testing, for every family

ELEMENTS = ["Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt", "Pb"]


def described(atoms):
    model = ase_nnp.build_model("descriptor_mlp", seed=0, device="cpu", dtype="float64")
    with torch.no_grad():
        rows = model.described(model.make_graph(atoms))[0]
    return dict(zip(model.names, rows.tolist(), strict=True))


def crystals(count, seed=0):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        a, b = rng.choice(ELEMENTS, 2, replace=False)
        atoms = bulk(f"{a}{b}", "cesiumchloride", a=rng.uniform(2.8, 3.6))
        atoms.info["volume"] = atoms.get_volume() / 2
        atoms.info["mass"] = atoms.get_masses().mean()
        frames.append(atoms)
    return frames


def test_density_packing_and_coordination_are_those_of_the_handbook():
    copper = described(bulk("Cu", cubic=True))
    assert np.exp(copper["log density"]) == pytest.approx(8.96, rel=5e-3)  # g/cm^3
    assert 11.5 < copper["mean coordination"] < 14  # 12, and a little of the second shell
    salt = described(bulk("NaCl", "rocksalt", a=5.64))
    assert np.exp(salt["log density"]) == pytest.approx(2.165, rel=5e-3)
    radii = 1.66**3 + 1.02**3  # Na and Cl (Cordero 2008)
    assert salt["packing fraction"] == pytest.approx(4 * 4 / 3 * np.pi * radii / 5.64**3)


def test_statistics_of_a_composition_are_those_of_its_atoms():
    table = Descriptors(6.0).table.double()
    column = list(descriptor_names()).index("mean X")
    x = table[[26, 8, 8, 8], column].numpy()  # FeO3, electronegativity
    found = described(Atoms("FeO3", 2.0 * np.eye(4)[:, :3]))
    assert found["mean X"] == pytest.approx(x.mean())
    assert found["spread X"] == pytest.approx(np.abs(x - x.mean()).mean())
    assert (found["min X"], found["max X"]) == pytest.approx((x.min(), x.max()))
    assert x.argmin() == 0  # iron holds electrons less


def test_neighbors_of_the_same_kind_do_not_differ():
    ordered, pure = described(bulk("NaCl", "rocksalt", a=5.64)), described(bulk("Cu"))
    assert ordered["neighbor difference X"] > 1
    assert pure["neighbor difference X"] == 0


def test_a_supercell_has_the_descriptors_of_its_crystal():
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.rattle(0.1, seed=1)
    large = make_supercell(atoms, [[2, 1, 0], [0, 1, 0], [0, 1, 1]])
    assert described(large) == pytest.approx(described(atoms), abs=1e-6)


def test_a_molecule_has_no_density():
    found = described(molecule("CH3OH"))
    assert found["log density"] == found["packing fraction"] == 0


@pytest.mark.slow
def test_selection_names_what_the_labels_are_made_of():
    model = prepared(crystals(120), {"volume": "A^3", "mass": "amu"}, count=4)
    first, second = model.config["selected"][:2]
    assert first == "log volume per atom"
    assert second in ("mean atomic_mass", "mean Z", "mean row")  # they are almost one
    assert model.outputs == ("volume", "mass")
    frames = crystals(120)
    assert model.mean.tolist() == pytest.approx(
        [np.mean([a.info[n] for a in frames]) for n in ("volume", "mass")], rel=1e-5
    )


def test_saved_and_loaded_it_keeps_selection_and_units(tmp_path):
    frames = crystals(20)
    model = prepared(frames, {"volume": "A^3"}, count=5)
    ase_nnp.save_model(model, tmp_path / "v.nnp")
    back = ase_nnp.load_model(tmp_path / "v.nnp", device="cpu")
    assert back.names == model.names
    assert back.units == {"volume": "A^3"}
    one, two = (ase_nnp.predict(m, frames, ("volume",), progress=False) for m in (model, back))
    assert [r["volume"] for r in one] == pytest.approx([r["volume"] for r in two])


def test_an_ensemble_gives_error_bars_of_each_property():
    from ase_nnp.uncertainty import DeepEnsemble

    frames = crystals(10)
    names = {"volume": "A^3", "mass": "amu"}
    members = [prepared(frames, names, count=4, seed=seed) for seed in range(3)]
    found = ase_nnp.predict(DeepEnsemble(members), frames[:1], progress=False)[0]
    for name in names:
        each = [ase_nnp.predict(m, frames[:1], progress=False)[0][name] for m in members]
        assert found[name] == pytest.approx(np.mean(each), rel=1e-5)
        assert found[f"{name}_std"] == pytest.approx(np.std(each, ddof=1), rel=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        {"properties": {}},
        {"properties": {"energy": "eV"}},
        {"descriptors": "theirs"},
        {"selected": ["mean nonsense"]},
        {"selected": []},
        {"shared": []},
        {"shared": [0]},
        {"cutoff": 0.0},
    ],
)
def test_what_is_no_configuration_is_refused(config):
    with pytest.raises(ConfigError):
        ase_nnp.build_model("descriptor_mlp", config, device="cpu")


def test_labels_that_nobody_has_are_named():
    with pytest.raises(DatasetError, match="gap"):
        prepared(crystals(5), {"volume": "A^3", "gap": "eV"})
    with pytest.raises(ConfigError, match="selected"):
        prepared(crystals(5), {"volume": "A^3"}, config={"selected": ["mean X"]})


def test_without_matminer_its_descriptors_are_refused_with_how_to_get_it(monkeypatch):
    import sys

    from ase_nnp_descriptor_mlp import matminer_features

    matminer_features._featurizers.cache_clear()
    monkeypatch.setitem(sys.modules, "matminer.featurizers.composition", None)
    with pytest.raises(ConfigError, match="pip install matminer"):
        ase_nnp.build_model("descriptor_mlp", {"descriptors": "matminer"}, device="cpu")


def test_descriptors_of_matminer_reach_the_model():
    pytest.importorskip("matminer")
    config = {"descriptors": "matminer"}
    model = prepared(crystals(12), {"volume": "A^3"}, count=3, config=config)
    assert model.names[0] == "vpa"  # volume per atom
    frames = crystals(3, seed=5)
    rows = model.described(model.make_graph(frames))
    assert rows[:, 0].tolist() == pytest.approx([a.info["volume"] for a in frames], rel=1e-5)
    with pytest.raises(StructureError, match="lattice vectors"):
        ase_nnp.predict(model, [molecule("H2O")], progress=False)


@pytest.mark.slow
def test_it_learns_two_properties_at_once_from_a_few_crystals(tmp_path):
    from ase_nnp.training import Settings, fit

    frames = crystals(120)
    for atoms in frames[:40]:
        del atoms.info["mass"]  # not every structure has every label
    names = {"volume": "A^3", "mass": "amu"}
    settings = Settings(
        epochs=60,
        losses={"energy": None, "forces": None, "scalars": {n: {} for n in names}},
        batch={"structures": 16},
        optimizer={"lr": 5e-3},
        progress=False,
    )
    fresh = prepared(frames[:90], names, count=12)
    result = fit(fresh, frames[:90], frames[90:], settings, folder=tmp_path)
    found = ase_nnp.predict(result.model, frames[90:], progress=False)
    for name in names:
        wanted = np.array([a.info[name] for a in frames[90:]])
        error = np.abs([r[name] for r in found] - wanted)
        assert error.mean() < 0.15 * wanted.std()
