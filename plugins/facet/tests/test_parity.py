"""Agreement with the stored runs of the published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

import ase_nnp
from ase_nnp import AtomGraph

STRUCTURES = ("bulk_nacl", "bulk_si8_knn13", "slab_al111_o", "mol_ethanol")


@pytest.fixture(scope="module")
def case(shared):
    return shared / "reference" / "facet" / "s2_l2"


def model_of(case, dtype, **options):
    return ase_nnp.load_model(
        "facet",
        config=case / "config.json",
        weights=case / "params.npz",
        reference=True,
        device="cpu",
        dtype=dtype,
        **options,
    )


def stored(case, name, dtype):
    data = dict(np.load(case / f"{name}.f64.npz"))
    atoms = Atoms(
        data["in.numbers"], data["in.positions"], cell=data["in.cell"], pbc=data["in.pbc"]
    )
    edges = np.stack([data["in.edge_sender"], data["in.edge_receiver"]])
    shift = -data["in.edge_shift"].astype(int)  # ours belongs to the source
    return data, atoms, AtomGraph.from_edges(atoms, edges, shift, dtype=dtype)


@pytest.mark.parametrize("summation", ["moments", "messages"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_energies_forces_and_stress_are_the_stored_ones_in_double_precision(case, name, summation):
    data, _, graph = stored(case, name, torch.float64)
    results = model_of(case, "float64", summation=summation)(graph)
    assert abs(results["energy"].item() - data["out.energy_total"]) < 1e-9
    np.testing.assert_allclose(results["forces"], data["out.forces"], rtol=0, atol=1e-9)
    if "out.stress" in data:
        np.testing.assert_allclose(results["stress"][0], data["out.stress"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", STRUCTURES)
def test_intermediates_are_the_stored_ones_under_their_published_names(case, name):
    data, _, graph = stored(case, name, torch.float64)
    by_name = model_of(case, "float64").intermediates(graph)
    assert len(by_name) > 30
    for key, value in by_name.items():
        if f"mid.{key}" in data:
            np.testing.assert_allclose(value, data[f"mid.{key}"], rtol=0, atol=1e-9, err_msg=key)
    compared = {key for key in by_name if f"mid.{key}" in data}
    assert {"edge_sh", "mace/layer_0", "mace/layer_1/self_connection/proj_down", "head"} <= compared
    assert set(by_name) == compared


@pytest.mark.parametrize("name", STRUCTURES)
def test_single_precision_errs_no_more_than_the_published_code_does(case, name):
    data, _, graph = stored(case, name, torch.float32)
    single = np.load(case / f"{name}.f32.npz")
    results = model_of(case, "float32")(graph)
    scale = np.abs(data["out.forces"]).max()
    allowed = max(np.abs(single["out.forces"] - data["out.forces"]).max(), 2e-6 * scale)
    assert np.abs(results["forces"].numpy() - data["out.forces"]).max() <= 1.5 * allowed
    energy = float(data["out.energy_total"])
    allowed = max(abs(float(single["out.energy_total"]) - energy), 2.4e-7 * abs(energy))
    assert abs(results["energy"].item() - energy) <= 1.5 * allowed


def test_a_truncated_neighbor_list_is_found_again_from_the_atoms(case):
    data, atoms, _ = stored(case, "bulk_si8_knn13", torch.float64)
    model = model_of(case, "float64", max_neighbors=13)
    results = model(model.make_graph(atoms))
    np.testing.assert_allclose(results["forces"], data["out.forces"], rtol=0, atol=1e-9)


def test_weights_keep_their_published_names(case):
    model = model_of(case, "float32")
    with np.load(case / "params.npz") as file:
        named = model.reference_state_dict()
        assert set(named) == set(file.files)
        for key in file.files:
            np.testing.assert_array_equal(named[key], file[key])


def test_published_weights_also_make_an_extensive_potential(case):
    model = ase_nnp.load_model(
        "facet",
        config=case / "config.json",
        weights=case / "params.npz",
        device="cpu",
        dtype="float64",
    )
    _, atoms, _ = stored(case, "bulk_nacl", torch.float64)
    one, many = ase_nnp.predict(model, [atoms, atoms.repeat((2, 1, 3))])
    assert abs(one["energy"] / 2 - many["energy"] / 12) < 1e-10
