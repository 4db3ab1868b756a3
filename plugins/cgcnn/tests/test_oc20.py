"""The OC20 model: stored numbers, the formulas, periodic images, and units."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from ase_nnp import AtomGraph, NNPCalculator, build_model, load_model, predict
from ase_nnp.errors import ConfigError
from ase_nnp_cgcnn.elements import element_features

CASES = ("cgcnn_oc20_snapshot_test", "cgcnn_oc20_s2ef_200k_size")
PUBLISHED = ("is2re_10k", "is2re_all", "s2ef_200k", "s2ef_2M", "s2ef_all")
SMALL = {
    "atom_embedding_size": 6,
    "num_graph_conv_layers": 2,
    "fc_feat_size": 5,
    "num_fc_layers": 3,
    "num_gaussians": 8,
    "cutoff": 4.0,
}


def small(seed=0, **options):
    return build_model("cgcnn_oc20", SMALL, seed=seed, device="cpu", dtype="float64", **options)


def stored(folder, case, dtype, weights="weights.safetensors"):
    folder = folder / "reference/cgcnn_oc20" / case
    model = load_model(
        "cgcnn_oc20",
        config=folder / "config.json",
        weights=folder / weights,
        dtype=dtype,
        device="cpu",
    )
    given, wanted = (dict(np.load(folder / f"{kind}.npz")) for kind in ("inputs", "outputs"))
    names = list(json.loads((folder / "config.json").read_text())["summary"])
    structures = {
        name: Atoms(
            given[f"{name}/numbers"],
            given[f"{name}/positions"].astype(np.float32),  # what the reference computed with
            cell=given[f"{name}/cell"].astype(np.float32),
            pbc=given[f"{name}/pbc"],
        )
        for name in names
    }
    return model, structures, wanted


def stored_graph(atoms, name, wanted, dtype):
    index, shift = wanted[f"{name}/edge_index"], wanted[f"{name}/cell_offsets"]
    return AtomGraph.from_edges(atoms, index, shift, dtype=dtype)


@pytest.mark.parametrize("case", CASES)
def test_float64_agrees_on_stored_edges(shared, case):
    model, structures, wanted = stored(shared, case, "float64")
    for name, atoms in structures.items():
        results = model(stored_graph(atoms, name, wanted, torch.float64))
        np.testing.assert_allclose(results["energy"], wanted[f"{name}/energy_f64"][0], atol=1e-6)
        np.testing.assert_allclose(results["forces"], wanted[f"{name}/forces_f64"], atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_float32_agrees_within_five_times_the_stored_gap(shared, case):
    model, structures, wanted = stored(shared, case, "float32")
    for name, atoms in structures.items():
        results = model(stored_graph(atoms, name, wanted, torch.float32))
        for key, value in results.items():
            if key == "stress":
                continue
            single, double = (wanted[f"{name}/{key}_{bits}"] for bits in ("f32", "f64"))
            gap = np.abs(single - double).max()
            value = value.double().numpy().reshape(double.shape)
            assert np.abs(value - double).max() <= 5 * gap, (name, key)
            assert np.abs(value - single).max() <= 5 * gap, (name, key)


def by_edge(graph):
    """Target, source and vector of each edge, in an order that depends on nothing else."""
    rows = np.column_stack([*graph.edge_index.flip(0).numpy(), graph.edge_vectors().numpy()])
    return rows[np.lexsort(np.round(rows, 2).T[::-1])]


@pytest.mark.parametrize("case", CASES)
def test_our_own_edges_are_the_stored_ones(shared, case):
    model, structures, wanted = stored(shared, case, "float32")
    for name, atoms in structures.items():
        graph = model.make_graph(atoms)
        # Atoms are folded home first, so offsets may differ where the vectors do not.
        own = AtomGraph.from_edges(
            atoms, wanted[f"{name}/edge_index"], wanted[f"{name}/cell_offsets"]
        )
        np.testing.assert_allclose(by_edge(graph), by_edge(own), atol=2e-4)
        assert graph.pbc[0].tolist() == atoms.pbc.tolist()
    together = model.make_graph(list(structures.values()))
    assert together.num_edges == sum(len(wanted[f"{n}/cell_offsets"]) for n in structures)


def test_published_training_snapshot_is_reproduced(shared):
    weights = "weights_initial_seed4.safetensors"
    model, structures, wanted = stored(shared, CASES[0], "float32", weights)
    results = model.train()(
        stored_graph(structures["oc20_slab"], "oc20_slab", wanted, torch.float32)
    )
    energy = results["energy"].detach()
    np.testing.assert_allclose(energy, wanted["snapshot/train_mode_energy"][0], atol=1e-6)
    np.testing.assert_allclose(energy, -0.6980915, atol=1e-6)
    forces = results["forces"].detach()
    np.testing.assert_allclose(forces, wanted["snapshot/train_mode_forces"], atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_intermediate_values_are_the_stored_ones(shared, case):
    model, structures, wanted = stored(shared, case, "float64")
    seen = {}
    model.embedding_fc.register_forward_hook(lambda m, a, out: seen.update(embedding=out))
    model.convs[0].register_forward_hook(lambda m, a, out: seen.update(after_conv0=out))
    model.convs[-1].register_forward_hook(lambda m, a, out: seen.update(after_last_conv=out))
    for name, atoms in structures.items():
        if f"{name}/inter/embedding" not in wanted:
            continue
        model(stored_graph(atoms, name, wanted, torch.float64))
        for key, value in seen.items():
            ours = value.detach().numpy()
            np.testing.assert_allclose(ours, wanted[f"{name}/inter/{key}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_published_tensors(shared, name):
    folder = shared / f"reference/cgcnn_oc20/published_cgcnn_{name}"
    published = json.loads((folder / "published.json").read_text())
    model = build_model("cgcnn_oc20", published["config"], device="cpu")
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    assert shapes == published["state_dict_shapes"]
    assert sum(p.numel() for p in model.parameters()) == published["n_parameters"]
    assert ("forces" in model.outputs) == name.startswith("s2ef")


def test_network_is_the_one_of_the_paper_written_in_plain_loops(plain):
    model = plain.randomise(small(pbc=[True, True, True]))
    mixed = fcc111("Cu", (1, 1, 2), vacuum=3.0)
    mixed.positions[1] += (0.2, 0.1, 0.05)
    alone = Atoms("O", positions=[[1.0, 2.0, 3.0]])
    structures = [mixed, alone, molecule("CH3OH"), bulk("NaCl", "rocksalt", a=5.6)]
    for result, atoms in zip(predict(model, structures), structures, strict=True):
        wanted = plain.slab_energy(
            plain.weights(model), element_features(), atoms, layers=2, depth=3, cutoff=4.0
        )
        assert result["energy"] == pytest.approx(wanted, rel=1e-10)
    assert np.abs(predict(model, [alone])[0]["forces"]).max() == 0


def test_at_most_fifty_neighbors_are_the_nearest(plain):
    model = plain.randomise(small(pbc=[True, True, True], cutoff=6.0))
    atoms = bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))
    atoms.positions += np.random.default_rng(0).normal(scale=0.1, size=(2, 3))
    assert model.make_graph(atoms).num_edges == 2 * 50
    wanted = plain.slab_energy(
        plain.weights(model), element_features(), atoms, layers=2, depth=3, cutoff=6.0
    )
    assert predict(model, [atoms])[0]["energy"] == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, [True, True, False]),
        ({"pbc": [True, True, True]}, [True, True, True]),
        ({"use_pbc": False}, [False, False, False]),
    ],
)
def test_images_are_those_of_the_structure_that_the_model_was_trained_with(options, flags):
    model = small(**options)
    for own in ([True, True, True], [True, False, True], [False, False, False]):
        atoms = bulk("Cu", "fcc", a=3.6)
        atoms.pbc = own
        seen = bulk("Cu", "fcc", a=3.6)
        seen.pbc = np.array(own) & flags
        wanted = AtomGraph.from_atoms(seen, 4.0, 50, dtype=torch.float64)
        graph = model.make_graph(atoms)
        assert torch.equal(graph.edge_shift, wanted.edge_shift)
        assert graph.pbc[0].tolist() == own
        assert atoms.pbc.tolist() == own


def test_energy_belongs_to_the_structure_and_not_to_the_number_of_its_atoms():
    model = small(pbc=[True, True, True])
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.positions[1] += (0.1, 0.2, 0.05)
    one, eight = predict(model, [atoms, atoms.repeat(2)])
    assert eight["energy"] == pytest.approx(one["energy"], rel=1e-12)
    np.testing.assert_allclose(8 * eight["forces"][:2], one["forces"], atol=1e-12)


def test_normalizer_gives_electronvolts_and_forces_stay_the_gradient():
    scale = {"target": {"mean": -0.7, "std": 2.9}, "grad_target": {"mean": 0.0, "std": 2.9}}
    raw, scaled = small(), small(normalizer=scale)
    atoms = molecule("CH3OH")
    one, two = (predict(m, [atoms])[0] for m in (raw, scaled))
    assert two["energy"] == pytest.approx(2.9 * one["energy"] - 0.7, rel=1e-12)
    np.testing.assert_allclose(two["forces"], 2.9 * one["forces"], rtol=1e-10, atol=1e-12)
    assert scaled.conservative


def test_a_scale_of_its_own_for_forces_is_kept_and_said():
    scale = {"target": {"mean": 0.0, "std": 2.0}, "grad_target": {"mean": 0.0, "std": 3.0}}
    raw, scaled = small(), small(normalizer=scale)
    atoms = molecule("CH3OH")
    one, two = (predict(m, [atoms])[0] for m in (raw, scaled))
    np.testing.assert_allclose(two["forces"], 3.0 * one["forces"], rtol=1e-12)
    assert not scaled.conservative
    assert scaled.outputs == ("energy", "forces")


def test_is2re_models_give_an_energy_only():
    model = small(regress_forces=False)
    atoms = molecule("CH3OH")
    assert set(predict(model, [atoms])[0]) == {"energy"}
    calc = NNPCalculator(model)
    assert calc.energy_kind == "adsorption"
    assert "relaxed" in calc.energy_reference
    assert "forces" not in calc.implemented_properties


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"constructor": {"num_atoms": None, "bond_feat_dim": 9, "num_targets": 1}}, "bond_feat"),
        ({"constructor": {"num_atoms": None, "bond_feat_dim": 8, "num_targets": 3}}, "one target"),
        ({"embeddings": "qmof"}, "khot"),
        ({"pbc": [True, True]}, "three booleans"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        small(**options)


def test_training_on_forces_reaches_every_parameter():
    model = small().train()
    graph = model.make_graph([molecule("CH3OH"), bulk("Cu", "fcc", a=3.6)])
    results = model(graph)
    (results["energy"].sum() + (results["forces"] ** 2).sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
