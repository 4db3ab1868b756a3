"""The numbers of the reference implementations, from stored inputs, weights and outputs."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.geometry import complete_cell

from ase_nnp import AtomGraph, build_model, load_model, predict
from ase_nnp_escaip.knn import nearest

FIRST = ("escaip_v1_direct_h64l2", "escaip_v1_grad_h32l2")
THIRD = ("escaip_v2_direct_h64l2", "escaip_v2_direct_options_h32l2", "escaip_v2_grad_stress_h32l3")
STRUCTURES = (
    "bulk_CuAu_4",
    "oc20_slab",
    "molecule_ethanol",
    "one_atom_triclinic",
    "slab_mixed_pbc",
)
#: Equal distances at the cut: an own graph may choose other neighbors than the reference did.
TIES = {
    ("escaip_v1_direct_h64l2", "oc20_slab"),
    ("escaip_v1_grad_h32l2", "slab_mixed_pbc"),
    ("escaip_v2_direct_options_h32l2", "oc20_slab"),
    ("escaip_v2_direct_options_h32l2", "one_atom_triclinic"),
}
#: In single precision the reference itself breaks the ties differently.
TIES_F32 = TIES | {("escaip_v2_direct_options_h32l2", "slab_mixed_pbc")}


@lru_cache(maxsize=2)
def arrays(path: Any) -> Any:
    with np.load(path) as file:
        return {k: file[k] for k in file.files}


class Case:
    """One stored structure of one stored model."""

    def __init__(self, shared: Any, name: str, structure: str) -> None:
        self.folder = shared / "reference" / "escaip" / name
        self.name, self.structure = name, structure
        start = structure + "/"
        both = {
            **arrays(self.folder / "inputs.npz"),
            **{k + "/out": v for k, v in arrays(self.folder / "outputs.npz").items()},
        }
        here = {k.removeprefix(start): v for k, v in both.items() if k.startswith(start)}
        self.given = {k: v for k, v in here.items() if not k.endswith("/out")}
        self.out = {k.removesuffix("/out"): v for k, v in here.items() if k.endswith("/out")}

    def model(self, dtype: str) -> Any:
        weights, config = self.folder / "weights.safetensors", self.folder / "config.json"
        return load_model("escaip", config=config, weights=weights, dtype=dtype, device="cpu")

    def atoms(self, dtype: str) -> Atoms:
        atoms = Atoms(**self.given)
        if dtype == "float64":  # the reference's double run saw positions wrapped and rounded
            graph = AtomGraph.from_atoms(atoms, 1.0, wrap=True, dtype=torch.float32)
            atoms.positions = graph.positions.double().numpy()
            atoms.cell = graph.cell[0].double().numpy()
        return atoms

    def check(self, result: dict[str, Any], dtype: str) -> None:
        """1e-8 relative in double; five times the reference's own rounding in single precision."""
        for key in ("energy", "forces", "stress"):
            if f"{key}_f64" not in self.out or (key == "stress" and not self.given["pbc"].any()):
                continue
            single = self.out[f"{key}_f32"].astype(float).ravel()
            double = self.out[f"{key}_f64"].ravel()
            values = result[key].detach().double().numpy().ravel()
            if dtype == "float64":
                # Forces that vanish by symmetry are rounding in the reference too.
                limit = max(1e-8 * np.abs(double).max(), 1e-13)
                assert np.abs(values - double).max() < limit, key
            else:
                eps = 4 * np.finfo(np.float32).eps * max(1.0, np.abs(double).max())
                gap = np.abs(single - double).max()
                assert np.abs(values - single).max() < 5 * gap + eps, key


def stored_edges(case: Case, dtype: str, atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges and their envelopes out of the stored neighbor slots of generation 3."""
    out, end = case.out, "_f64" if dtype == "float64" else ""
    env = out["env" + end]
    if "neighbor_list" + end not in out:
        end = ""
    center, slot = np.nonzero(np.isfinite(env))
    other = out["neighbor_list" + end][center, slot]
    vector = out["displacement" + end][center, slot].astype(float)
    image = vector - atoms.positions[other] + atoms.positions[center]
    shift = np.rint(np.linalg.solve(complete_cell(atoms.cell).T, image.T).T)
    return np.stack([other, center]), shift * atoms.pbc.any(), env[center, slot]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", FIRST + THIRD)
def test_our_own_graph_gives_the_stored_numbers(shared, name, structure, dtype):
    if (name, structure) in (TIES if dtype == "float64" else TIES_F32):
        pytest.skip("neighbors at equal distance at the cut; the stored edges are tested instead")
    case = Case(shared, name, structure)
    model = case.model(dtype)
    case.check(model(model.make_graph(case.atoms(dtype))), dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", FIRST)
def test_stored_edges_of_generation_1_give_the_stored_numbers(shared, name, structure, dtype):
    case = Case(shared, name, structure)
    model = case.model(dtype)
    edges, shift = case.out["edge_index"], case.out["cell_offsets"]
    wrap = dtype == "float32"
    graph = AtomGraph.from_edges(case.atoms(dtype), edges, shift, dtype=model.dtype, wrap=wrap)
    case.check(model(graph), dtype)


@pytest.mark.parametrize("envelopes", [False, True], ids=["own envelopes", "stored envelopes"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", THIRD)
def test_stored_slots_of_generation_3_give_the_stored_numbers(
    shared, name, structure, dtype, envelopes
):
    if envelopes and "grad" in name:
        pytest.skip("a constant envelope has no gradient")
    case = Case(shared, name, structure)
    model = case.model(dtype)
    atoms = case.atoms("float64")
    edges, shift, env = stored_edges(case, dtype, atoms)
    extra = {"edge_env": torch.from_numpy(env)} if envelopes else None
    graph = AtomGraph.from_edges(atoms, edges, shift, dtype=model.dtype, extra=extra)
    case.check(model(graph), dtype)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", ["escaip_v2_direct_h64l2", "escaip_v2_grad_stress_h32l3"])
def test_envelopes_of_our_graph_are_the_stored_ones(shared, name, structure):
    case = Case(shared, name, structure)
    model = case.model("float64")
    edges = nearest(model.make_graph(case.atoms("float64")), model.settings)
    for atom, stored in enumerate(case.out["env_f64"]):
        wanted = np.sort(stored[np.isfinite(stored) & (stored > 0)])
        envelopes = np.sort(edges.env[edges.receiver == atom].numpy())
        np.testing.assert_allclose(envelopes, wanted, atol=1e-12)


@pytest.mark.parametrize("structure", ["bulk_CuAu_4", "molecule_ethanol"])
@pytest.mark.parametrize("name", ["escaip_v1_direct_h64l2", "escaip_v2_direct_h64l2"])
def test_bond_order_features_are_the_stored_ones(shared, name, structure):
    case = Case(shared, name, structure)
    model = case.model("float64")
    features, _ = model.features(model.make_graph(case.atoms("float64")))
    stored = case.out["node_direction_expansion"]
    np.testing.assert_allclose(features.orders.numpy(), stored, atol=5e-6 * np.abs(stored).max())


@pytest.mark.parametrize("structure", ["bulk_CuAu_4", "slab_mixed_pbc"])
@pytest.mark.parametrize("name", THIRD)
def test_features_after_every_block_are_the_stored_ones(shared, name, structure):
    case = Case(shared, name, structure)
    if "options" in name and structure == "slab_mixed_pbc":
        pytest.skip("the stored single-precision graph breaks its ties differently")
    model = case.model("float64")
    features, _ = model.features(model.make_graph(case.atoms("float64")))
    nodes, edges = model.backbone.input_block(features)
    after_block = {"input_block": nodes}
    for k, block in enumerate(model.backbone.transformer_blocks):
        nodes, edges = block(nodes, edges, features, only_nodes=False)
        after_block[f"block{k}"] = nodes
    for key, value in after_block.items():
        stored = case.out[f"inter/{key}_node"]
        np.testing.assert_allclose(value.numpy(), stored, atol=2e-5 * np.abs(stored).max())


PUBLISHED = (
    "published_escaip_v1_2M_L10_H8_512",
    "published_escaip_v1_mptrj_L6_H16_512",
    "published_escaip_v2_H512L10_oc20_sm",
    "published_escaip_v2_H512L10_spice_grad",
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_published_names_and_shapes(shared, name):
    text = (shared / "reference" / "escaip" / name / "published.json").read_text()
    published = json.loads(text)
    with torch.device("meta"):
        from ase_nnp_escaip import FAMILY
        from ase_nnp_escaip.build import build

        given = {k: v for k, v in published["config"].items() if k not in FAMILY.ignored}
        model = build({**FAMILY.defaults, **given, "heads": published.get("heads")})
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    assert shapes == published["state_dict_shapes"]
    assert sum(p.numel() for p in model.parameters()) == published["n_parameters"]


@pytest.mark.parametrize("name", FIRST + THIRD)
def test_small_sizes_have_the_stored_names_shapes_and_number_of_parameters(shared, name):
    folder = shared / "reference" / "escaip" / name
    config = json.loads((folder / "config.json").read_text())
    model = build_model("escaip", folder / "config.json", device="cpu")
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    assert shapes == config["state_dict_shapes"]
    assert sum(p.numel() for p in model.parameters()) == config["n_parameters"]


@pytest.mark.parametrize("ema", [True, False], ids=["average", "raw"])
@pytest.mark.parametrize("file", ["escaip_v1_training_format.pt", "escaip_v2_inference_ckpt.pt"])
def test_checkpoints_of_both_trainers_give_their_expected_numbers(shared, file, ema):
    folder = shared / "reference" / "checkpoints"
    expected = json.loads((folder / "expected.json").read_text())[file]
    inputs = arrays(shared / "reference" / expected["fixture_case"] / "inputs.npz")
    model = load_model("escaip", checkpoint=folder / file, ema=ema, device="cpu")
    key, force = ("energy_eV_ema", "ema") if ema else ("energy_eV_raw_state_dict", "raw")
    compared = 0
    for name, wanted in expected["expected"].items():
        keys = ("numbers", "positions", "cell", "pbc")
        result = predict(model, [Atoms(**{k: inputs[f"{name}/{k}"] for k in keys})])[0]
        if key in wanted:
            compared += 1
            assert result["energy"] == pytest.approx(wanted[key], abs=3e-5)
            first = wanted[f"force0_eV_A_{force}"]
            np.testing.assert_allclose(result["forces"][0], first, atol=1e-5)
        if not ema and key not in wanted:  # the raw weights of this file differ from the average
            assert abs(result["energy"] - wanted["energy_eV_ema"]) > 1e-3
    assert compared or not ema


def test_a_checkpoint_says_what_its_energies_are(shared):
    folder = shared / "reference" / "checkpoints"
    total = load_model("escaip", checkpoint=folder / "escaip_v2_inference_ckpt.pt", device="cpu")
    assert total.energy_kind == "total"
    first = load_model("escaip", checkpoint=folder / "escaip_v1_training_format.pt", device="cpu")
    assert (first.energy_kind, first.conservative) == ("adsorption", False)
    assert "OC20" in first.energy_reference
