"""The numbers of the reference implementation, from its stored inputs, weights and results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from ase_nnp import AtomGraph, build_model, load_model

CASES = ("scn_l3_m0_r1", "scn_l4_m1_t1_b1_r2", "scn_l6_m1_t4_b2_r2")
STRUCTURES = (
    "bulk_CuAu_4",
    "oc20_slab",
    "molecule_ethanol",
    "one_atom_triclinic",
    "slab_mixed_pbc",
)


class Stored:
    """One stored case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
            self.arrays = dict(inputs) | dict(outputs)

    def model(self, dtype):
        folder = self.folder
        return load_model(
            "scn",
            config=folder / "config.json",
            weights=folder / "weights.safetensors",
            dtype=dtype,
            device="cpu",
        )

    def atoms(self, structure):
        keys = ("numbers", "positions", "cell", "pbc")
        return Atoms(**{key: self.arrays[f"{structure}/{key}"] for key in keys})

    def graph(self, structure, model):
        """The stored edges and draw; positions rounded to single precision, as stored results."""
        graph = AtomGraph.from_edges(
            self.atoms(structure),
            self.arrays[f"{structure}/edge_index"],
            self.arrays[f"{structure}/cell_offsets"],
            wrap=True,
            extra={"edge_random": torch.tensor(self.arrays[f"{structure}/rand_vec"])},
        )
        return graph.to(dtype=model.dtype)


@pytest.fixture(scope="module", params=CASES)
def stored(request, shared):
    return Stored(shared / "reference" / "scn" / request.param)


@pytest.fixture(scope="module")
def double(stored):
    return stored.model("float64")


@pytest.fixture(scope="module")
def single(stored):
    return stored.model("float32")


@pytest.mark.parametrize("structure", STRUCTURES)
def test_double_precision_agrees_to_round_off(stored, double, structure):
    results = double(stored.graph(structure, double))
    for name, key in (("energy", "energy_f64"), ("forces", "forces_f64")):
        wanted = stored.arrays[f"{structure}/{key}"]
        np.testing.assert_allclose(
            results[name].numpy(), wanted, rtol=0, atol=1e-8 * abs(wanted).max()
        )


@pytest.mark.parametrize("structure", STRUCTURES)
def test_single_precision_agrees_with_the_stored_single_precision(stored, single, structure):
    results = single(stored.graph(structure, single))
    for name in ("energy", "forces"):
        value = results[name].numpy()
        np.testing.assert_allclose(
            value, stored.arrays[f"{structure}/{name}_f32"], rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(
            value, stored.arrays[f"{structure}/{name}_f64"], rtol=3e-5, atol=3e-5
        )


@pytest.mark.parametrize("structure", STRUCTURES)
def test_own_neighbors_are_the_stored_ones_in_the_stored_order(stored, double, structure):
    graph = double.make_graph(stored.atoms(structure))
    wanted = stored.graph(structure, double)
    about = stored.config["summary"][structure]
    if about["atoms_with_tie_at_max_neighbors"] or about["atoms_with_tie_at_resolution_split"]:
        target, distance = graph.edge_index[1], graph.edge_vectors().norm(dim=1)
        other, length = wanted.edge_index[1], wanted.edge_vectors().norm(dim=1)
        for atom in range(graph.num_atoms):
            mine, theirs = distance[target == atom].sort()[0], length[other == atom].sort()[0]
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
        return
    assert torch.equal(graph.edge_index, wanted.edge_index)
    assert torch.equal(graph.edge_shift, wanted.edge_shift)
    vectors = stored.arrays[f"{structure}/edge_distance_vec"]
    np.testing.assert_allclose(graph.edge_vectors().numpy(), vectors, atol=2e-5)


def test_structures_in_one_batch_keep_their_numbers(stored, double):
    names = [s for s in STRUCTURES if s != "oc20_slab"]
    results = double(AtomGraph.collate([stored.graph(s, double) for s in names]))
    wanted = np.concatenate([stored.arrays[f"{s}/energy_f64"] for s in names])
    np.testing.assert_allclose(results["energy"].numpy(), wanted, rtol=1e-8)


def test_intermediate_results_agree(stored, single):
    caught = {}

    def keep(name):
        return lambda module, inputs, output: caught.__setitem__(name, output)

    first = single.edge_blocks[0]
    hooks = [
        *(b.register_forward_hook(keep(f"block {k}")) for k, b in enumerate(single.edge_blocks)),
        first.dist_block.register_forward_hook(keep("edge")),
    ]
    checked = 0
    for structure in STRUCTURES:
        if f"{structure}/inter/edge_block_0_out" not in stored.arrays:
            continue
        graph = stored.graph(structure, single)
        single(graph)
        for number in range(len(single.edge_blocks)):
            key = f"{structure}/inter/edge_block_{number}_out"
            if key in stored.arrays:
                wanted = stored.arrays[key]
                value = caught[f"block {number}"].numpy()
                np.testing.assert_allclose(value, wanted, atol=2e-5 * abs(wanted).max())
                checked += 1
    for hook in hooks:
        hook.remove()
    assert checked >= len(single.edge_blocks)


def test_features_and_messages_of_single_edges_agree(stored, single):
    """The message of one edge is what its center receives when no other edge exists."""
    structure = "bulk_CuAu_4"
    graph = stored.graph(structure, single)
    message = stored.arrays[f"{structure}/inter/message_block00_out_first32"]
    features = stored.arrays[f"{structure}/inter/dist_block0_out_first32"]
    block, caught = single.edge_blocks[0], {}
    hooks = [
        block.dist_block.register_forward_hook(lambda m, i, o: caught.setdefault("edge", o)),
        block.message_blocks[0].register_forward_hook(lambda m, i, o: caught.setdefault("sum", o)),
    ]
    for edge in range(0, 32, 7):
        caught.clear()
        one = slice(edge, edge + 1)
        single(
            graph.replace(
                edge_index=graph.edge_index[:, one],
                edge_shift=graph.edge_shift[one],
                extra={"edge_random": graph.extra["edge_random"][one]},
            )
        )
        center = int(graph.edge_index[1, edge])
        value = caught["sum"][center].numpy()
        np.testing.assert_allclose(value, message[edge], atol=2e-5 * abs(message).max())
        value = caught["edge"][center, 0].numpy()
        np.testing.assert_allclose(value, features[edge], atol=2e-5 * abs(features).max())
    for hook in hooks:
        hook.remove()


def test_constants_agree_with_the_stored_conventions(stored, double):
    with np.load(stored.folder / "conventions.npz") as conventions:
        points, values = conventions["sphere_points"], conventions["sphere_points_sph"]
        frames, matrices = conventions["wigner_test_R"], conventions["wigner_test_D"]
    np.testing.assert_allclose(double.points.numpy(), points, atol=3e-5)
    np.testing.assert_allclose(double.point_harmonics.numpy(), values, atol=1e-4)
    rows = double.rotation(torch.tensor(frames).double())
    start = 0
    for degree in range(double.lmax + 1):
        reach = min(degree, double.mmax)
        for coefficient in range(degree**2, (degree + 1) ** 2):
            for order in range(-reach, reach + 1):
                wanted = matrices[:, degree**2 + degree + order, coefficient]
                np.testing.assert_allclose(rows[:, start].numpy(), wanted, atol=2e-6)
                start += 1
    assert start == rows.shape[1]


def test_stored_configurations_have_the_same_weights(stored, double):
    shapes = {name: list(value.shape) for name, value in double.state_dict().items()}
    assert shapes == stored.config["state_dict_shapes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["published_scn_t1_b1", "published_scn_all_md"])
def test_published_configurations_have_the_same_weights(shared, name):
    published = json.loads((shared / "reference" / "scn" / name / "published.json").read_text())
    model = build_model("scn", published["config"], device="cpu")
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == published["state_dict_shapes"]
    assert sum(p.numel() for p in model.parameters()) == published["n_parameters"]


@pytest.mark.parametrize(("ema", "suffix"), [(True, "ema"), (False, "raw")])
def test_a_training_checkpoint_gives_its_energies_and_forces(shared, ema, suffix):
    folder = shared / "reference"
    expected = json.loads((folder / "checkpoints" / "expected.json").read_text())
    about = expected["scn_v1_training_format.pt"]
    stored = Stored(folder / about["fixture_case"])
    path = folder / "checkpoints" / "scn_v1_training_format.pt"
    model = load_model("scn", checkpoint=path, ema=ema, device="cpu")
    energy = "energy_eV_ema" if ema else "energy_eV_raw_state_dict"
    for structure, wanted in about["expected"].items():
        results = model(stored.graph(structure, model))
        assert float(results["energy"]) == pytest.approx(wanted[energy], abs=3e-5 + 1e-6)
        np.testing.assert_allclose(
            results["forces"][0].numpy(), wanted[f"force0_eV_A_{suffix}"], atol=2e-5
        )


def test_a_checkpoint_says_what_its_energy_means(shared):
    path = shared / "reference" / "checkpoints" / "scn_v1_training_format.pt"
    model = load_model(path, device="cpu")
    assert model.family == "scn"
    assert model.energy_kind == "adsorption"
    assert "slab" in model.energy_reference
    assert model.provenance["weights"] == "exponential moving average"


def test_fresh_weights_of_a_stored_configuration_run(stored):
    model = build_model("scn", stored.folder / "config.json", seed=0, device="cpu")
    results = model(model.make_graph(stored.atoms("molecule_ethanol")))
    assert torch.isfinite(results["energy"]).all()
