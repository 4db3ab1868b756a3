"""The 2018 model: the published numbers, the formulas, and the properties by name."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ase_nnp import AtomGraph, NNPCalculator, build_model, load_model, predict
from ase_nnp.errors import ConfigError, StructureError, UnsupportedElementError
from ase_nnp_cgcnn.elements import element_features
from ase_nnp_cgcnn.properties import PROPERTIES

PUBLISHED = ("band-gap", "formation-energy-per-atom")
SMALL = {"atom_fea_len": 6, "n_conv": 2, "h_fea_len": 5, "radius": 4.0}


def crystals(folder):
    stored = np.load(folder / "cgcnn/inputs.npz")
    for name in dict.fromkeys(key.split("/")[0] for key in stored.files):
        fields = {k.split("/")[1]: stored[k] for k in stored.files if k.startswith(name + "/")}
        atoms = Atoms(fields["numbers"], fields["positions"], cell=fields["cell"], pbc=True)
        yield name, atoms, fields


def stored_graph(atoms, fields, dtype, **extra):
    slots = fields["nbr_idx"].shape[1]
    target = np.repeat(np.arange(len(atoms)), slots)
    index = np.stack([fields["nbr_idx"].ravel(), target])
    shift = fields["nbr_image"].reshape(-1, 3)
    return AtomGraph.from_edges(atoms, index, shift, dtype=dtype, extra=extra)


def published(folder, name, dtype):
    folder = folder / "cgcnn" / name
    model = load_model(
        "cgcnn",
        config=folder / "config.json",
        weights=folder / "weights.safetensors",
        dtype=dtype,
        device="cpu",
    )
    predictions = json.loads((folder / "predictions.json").read_text())["predictions"]
    return model, predictions


def sparse():
    """Two elements, far apart: atoms with 0 to 5 neighbors within 4 Angstrom."""
    cell = [[9.0, 0, 0], [0.7, 8.5, 0], [0, 0.4, 10.0]]
    places = [[0.1, 0.2, 0.3], [2.0, 0.4, 0.9], [1.0, 2.6, 1.1], [6.0, 6.0, 7.0], [1.6, 1.2, 3.3]]
    return Atoms("NaClOKF", positions=places, cell=cell, pbc=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_stored_neighbors_give_the_published_predictions(shared, name, dtype):
    model, predictions = published(shared / "reference", name, dtype)
    key, tolerance = ("f32", 1e-5) if dtype == "float32" else ("prediction", 1e-9)
    for crystal, atoms, fields in crystals(shared / "reference"):
        distance = torch.from_numpy(fields["nbr_dist"].ravel())
        for extra in ({}, {"edge_distance": distance}):
            graph = stored_graph(atoms, fields, model.dtype, **extra)
            value = float(model(graph)[model.outputs[0]][0])
            assert value == pytest.approx(predictions[crystal][key], abs=tolerance), crystal


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_our_own_neighbors_give_the_published_predictions(shared, name, dtype):
    model, predictions = published(shared / "reference", name, dtype)
    key, tolerance = ("f32", 1e-5) if dtype == "float32" else ("prediction", 1e-9)
    names, structures, _ = zip(*crystals(shared / "reference"), strict=True)
    results = predict(model, structures)
    checked = 0
    for crystal, result in zip(names, results, strict=True):
        if predictions[crystal]["tie_spread"] < 1e-5:
            wanted = predictions[crystal][key]
            if predictions[crystal]["tie_spread"] > 0 and dtype == "float64":
                tolerance = 1e-5  # which of equal neighbors is taken changes the last digits
            assert result[model.outputs[0]] == pytest.approx(wanted, abs=tolerance), crystal
            checked += 1
    assert checked


def test_our_own_neighbors_are_the_stored_ones_where_nothing_ties(shared):
    model, _ = published(shared / "reference", "band-gap", "float64")
    checked = 0
    for _, atoms, fields in crystals(shared / "reference"):
        graph = model.make_graph(atoms)
        distance = graph.extra["edge_distance"].reshape(len(atoms), -1).sort(dim=1).values
        np.testing.assert_allclose(distance, fields["nbr_dist"], atol=1e-9)
        last = fields["nbr_dist"][:, -1]
        if (np.abs(fields["dist_13th"] - last) > 1e-6).all():
            ours = graph.edge_index[0].reshape(len(atoms), -1)
            counts = [np.bincount(row, minlength=len(atoms)) for row in ours.numpy()]
            stored = [np.bincount(row, minlength=len(atoms)) for row in fields["nbr_idx"]]
            np.testing.assert_array_equal(counts, stored)
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", PUBLISHED)
def test_intermediate_values_are_the_stored_ones(shared, name):
    model, _ = published(shared / "reference", name, "float64")
    stored = np.load(shared / "reference/cgcnn" / name / "outputs.npz")
    seen = {}
    model.embedding.register_forward_hook(lambda m, a, out: seen.update(embedding=out))
    model.convs[0].register_forward_hook(lambda m, a, out: seen.update(after_conv0=out))
    model.convs[-1].register_forward_hook(lambda m, a, out: seen.update(after_last_conv=out))
    for crystal, atoms, fields in crystals(shared / "reference"):
        if f"{crystal}/inter/embedding" not in stored:
            continue
        model(stored_graph(atoms, fields, torch.float64))
        for key, value in seen.items():
            wanted = stored[f"{crystal}/inter/{key}"]
            np.testing.assert_allclose(value, wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("task", "n_h"), [("regression", 1), ("classification", 3)])
def test_network_is_the_one_of_the_paper_written_in_plain_loops(plain, task, n_h):
    config = {**SMALL, "task": task, "n_h": n_h}
    model = plain.randomise(build_model("cgcnn", config, seed=1, device="cpu", dtype="float64"))
    structures = [sparse(), bulk("Cu", "fcc", a=3.6), bulk("NaCl", "rocksalt", a=5.6)]
    structures[2].positions[1] += (0.11, 0.05, -0.07)
    raw = model.raw(model.make_graph(structures)).detach().numpy()
    features = element_features()
    for row, atoms in zip(raw, structures, strict=True):
        wanted = plain.crystal_value(
            plain.weights(model), features, atoms, n_conv=2, n_h=n_h, radius=4.0
        )
        np.testing.assert_allclose(row, wanted, rtol=1e-10)


def test_spare_slots_hold_the_first_atom_of_their_own_crystal_also_in_a_batch():
    model = build_model("cgcnn", SMALL, seed=0, device="cpu")
    graph = model.make_graph([bulk("Cu", "fcc", a=3.6), sparse(), sparse()])
    assert graph.num_edges == 12 * graph.num_atoms
    spare = graph.extra["edge_distance"] == 5.0
    source, target = graph.edge_index[:, spare]
    first = torch.tensor([0, 1, 6])
    assert torch.equal(source, first[graph.batch[target]])
    assert int(spare.sum()) > 50


def test_edges_without_spare_slots_are_completed():
    model = build_model("cgcnn", SMALL, seed=0, device="cpu", dtype="float64")
    full = model.make_graph([sparse(), bulk("Cu", "fcc", a=3.6)])
    real = full.extra["edge_distance"] < 4.5
    short = full.replace(
        edge_index=full.edge_index[:, real], edge_shift=full.edge_shift[real], extra={}
    )
    torch.testing.assert_close(model(short)["property"], model(full)["property"])


def test_given_spare_slots_are_recognised_without_their_distances():
    """Also where atom 0 itself is a neighbor, and where it is the center."""
    model = build_model("cgcnn", SMALL, seed=0, device="cpu", dtype="float64")
    full = model.make_graph([sparse(), sparse()])
    torch.testing.assert_close(
        model(full.replace(extra={}))["property"], model(full)["property"], rtol=1e-12, atol=0
    )


def test_periodic_flags_of_the_structure_do_not_matter():
    model = build_model("cgcnn", SMALL, seed=0, device="cpu")
    crystal, open_ended = bulk("Cu", "fcc", a=3.6), bulk("Cu", "fcc", a=3.6)
    open_ended.pbc = False
    one, two = predict(model, [crystal, open_ended])
    assert one == pytest.approx(two, rel=1e-5)


def test_a_structure_without_a_cell_is_refused_by_name():
    model = build_model("cgcnn", SMALL, device="cpu")
    with pytest.raises(StructureError, match="ClNa has 0 lattice vectors"):
        model.make_graph(Atoms("NaCl", positions=[[0, 0, 0], [2.8, 0, 0]]))


def test_an_element_without_features_is_refused():
    model = build_model("cgcnn", SMALL, device="cpu")
    with pytest.raises(UnsupportedElementError, match="Md"):
        model.make_graph(Atoms("Md", cell=[4, 4, 4], pbc=True))


@pytest.mark.parametrize("known", PROPERTIES, ids=lambda known: known.name)
def test_each_property_goes_by_its_own_name_and_unit(known):
    task = "classification" if known.output == "metal_probability" else "regression"
    config = {**SMALL, "property": known.name, "task": task}
    model = build_model("cgcnn", config, seed=0, device="cpu", dtype="float64")
    results = predict(model, [bulk("Cu", "fcc", a=3.6, cubic=True)])[0]
    assert set(results) == set(known.outputs) == set(model.outputs)
    assert set(model.units) == set(results)
    assert model.units[known.output] == known.unit
    assert model.energy_kind == ("total" if "energy" in results else "none")
    value = results[known.output]
    if known.derived == "energy":
        assert results["energy"] == pytest.approx(4 * value, rel=1e-12)
    elif known.derived:
        assert results[known.derived] == pytest.approx(10**value, rel=1e-12)
    if task == "classification":
        assert 0 < value < 1


def test_only_the_total_energy_poses_as_energy():
    with_energy = [known.name for known in PROPERTIES if "energy" in known.outputs]
    assert with_energy == ["final-energy-per-atom"]


def test_normalizer_scales_a_regression():
    plain = build_model("cgcnn", SMALL, seed=0, device="cpu", dtype="float64")
    scale = {"mean": -1.5, "std": 2.0}
    scaled = build_model("cgcnn", SMALL, seed=0, device="cpu", dtype="float64", normalizer=scale)
    cu = bulk("Cu", "fcc", a=3.6)
    raw, value = (predict(m, [cu])[0]["property"] for m in (plain, scaled))
    assert value == pytest.approx(2.0 * raw - 1.5, rel=1e-12)


def test_calculator_gives_properties_and_total_energy():
    atoms = bulk("Cu", "fcc", a=3.6)
    gap = build_model("cgcnn", SMALL, seed=0, device="cpu", property="band-gap")
    atoms.calc = NNPCalculator(gap)
    assert atoms.calc.get_property("band_gap", atoms) == atoms.calc.results["band_gap"]
    assert "energy" not in atoms.calc.implemented_properties
    total = build_model("cgcnn", SMALL, seed=0, device="cpu", property="final-energy-per-atom")
    atoms.calc = NNPCalculator(total)
    energy = atoms.get_potential_energy()
    assert energy == pytest.approx(atoms.calc.results["energy_per_atom"])


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("nbr_fea_len", 30, "21 Gaussians"),
        ("orig_atom_fea_len", 72, "92 element features"),
        ("task", "ranking", "'regression' or 'classification'"),
        ("max_num_nbr", 10**12, "max_num_nbr"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(key, value, says):
    with pytest.raises(ConfigError, match=says):
        build_model("cgcnn", {**SMALL, key: value}, device="cpu")


def test_training_mode_normalizes_over_the_batch_and_learns():
    model = build_model("cgcnn", SMALL, seed=0, device="cpu").train()
    graph = model.make_graph([sparse(), bulk("NaCl", "rocksalt", a=5.6)])
    before = model.convs[0].bn1.running_mean.clone()
    model(graph)["property"].sum().backward()
    assert not torch.equal(before, model.convs[0].bn1.running_mean)
    assert all(p.grad is not None for p in model.parameters())
