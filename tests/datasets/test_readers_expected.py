"""Every reference set reads to what its ``expected.json`` says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ase_nnp.datasets import load_mapping, load_references, open_dataset

LMDB = ["oc20_is2re_old", "oc20_is2re_new", "oc20_s2ef_old", "oc20_s2ef_new", "oc20_s2ef_test"]


def expected(folder):
    return json.loads((folder / "expected.json").read_text())


def close(values, wanted, tolerance):
    np.testing.assert_allclose(values, wanted, rtol=tolerance, atol=tolerance)


def check_structure(atoms, wanted, tolerance, *, fixed=True, tags=True, positions=True):
    assert len(atoms) == wanted["natoms"]
    assert atoms.get_chemical_formula() == wanted["formula"]
    assert atoms.numbers.sum() == wanted["atomic_numbers_sum"]
    close(atoms.cell.array, wanted["cell"], max(tolerance, 1e-6))
    if positions:
        close(atoms.positions[0], wanted["pos_first"], tolerance)
        close(atoms.positions.sum(axis=0), wanted["pos_sum"], 10 * tolerance)
    if tags:
        assert atoms.get_tags().sum() == wanted["tags_sum"]
    held = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if type(constraint).__name__ == "FixAtoms":
            held[constraint.index] = True
    if fixed:
        assert held.sum() == wanted["fixed_sum"]
    return held


def check_forces(atoms, wanted, held, tolerance, *, free=True):
    forces = atoms.get_forces(apply_constraint=False)
    close(forces[0], wanted["forces_first"], tolerance)
    close(forces[-1], wanted["forces_last"], tolerance)
    close(np.abs(forces).sum(), wanted["forces_abs_sum"], 1000 * tolerance)
    if free:
        close(np.linalg.norm(forces[~held], axis=1).max(), wanted["fmax_free"], tolerance)


@pytest.mark.parametrize("name", LMDB)
def test_legacy_lmdb(shared, name):
    wanted = expected(shared / "datasets" / name)
    dataset = open_dataset(shared / "datasets" / name)
    assert len(dataset) == len(wanted["samples"])
    for number, sample in enumerate(wanted["samples"]):
        atoms, arrays = dataset[number], dataset.arrays(number)
        held = check_structure(atoms, sample, 1e-9 if name.endswith("new") else 3e-7)
        assert atoms.pbc.all()
        assert atoms.info["sid"] == sample["sid"]
        assert atoms.info.get("fid") == sample.get("fid")
        if "forces_first" in sample:
            check_forces(atoms, sample, held, 1e-7)
        if "num_edges" in sample:
            assert arrays["edge_index"].shape == (2, sample["num_edges"])
            assert arrays["edge_shift"].shape == (sample["num_edges"], 3)
        if "y_relaxed" in sample:
            assert atoms.info["y_init"] == pytest.approx(sample["y_init"], abs=1e-12)
            assert atoms.info["y_relaxed"] == pytest.approx(sample["y_relaxed"], abs=1e-12)
            assert atoms.get_potential_energy() == atoms.info["y_init"]
            assert atoms.info["pos_relaxed"].shape == (len(atoms), 3)
            close(atoms.info["pos_relaxed"][0], sample["pos_relaxed_first"], 1e-6)
        if name == "oc20_s2ef_old":
            assert atoms.get_potential_energy() == pytest.approx(sample["y"], abs=1e-12)
            assert atoms.info["energy_kind"] == "adsorption"
        if name == "oc20_s2ef_new":
            assert atoms.get_potential_energy() == pytest.approx(sample["energy_total"], abs=1e-9)
            assert atoms.info["energy_kind"] == "total"
            assert dataset.locate(number)[0].name == f"data.{sample['shard']:04}.lmdb"
        if name == "oc20_s2ef_test":
            assert atoms.calc is None


def test_energies_say_what_they_are(shared):
    kinds = {name: open_dataset(shared / "datasets" / name).energy_kind for name in LMDB}
    assert kinds == {
        "oc20_is2re_old": "adsorption",
        "oc20_is2re_new": "adsorption",
        "oc20_s2ef_old": "adsorption",
        "oc20_s2ef_new": "total",
        "oc20_s2ef_test": None,
    }
    old = open_dataset(shared / "datasets" / "oc20_s2ef_old")
    assert "gas-phase" in old.energy_reference
    assert open_dataset(shared / "datasets" / "oc20_s2ef_new").energy_reference is None


def test_stored_edges_are_the_distances_they_claim(shared):
    dataset = open_dataset(shared / "datasets" / "oc20_is2re_old")
    for number in range(len(dataset)):
        sample = dataset.arrays(number)
        source, target = sample["edge_index"]
        positions = sample["positions"].astype(float)
        shift = sample["edge_shift"] @ sample["cell"].astype(float)
        distance = np.linalg.norm(positions[source] + shift - positions[target], axis=1)
        close(distance, sample["edge_distance"], 1e-4)
        assert distance.max() < 6.0 + 1e-4


def test_references_turn_adsorption_energies_into_totals_and_back(shared):
    wanted = expected(shared / "datasets" / "oc20_s2ef_old")
    references = {f"random{s['sid']}": s["ref_energy"] for s in wanted["samples"]}
    path = shared / "datasets" / "oc20_s2ef_old"
    totals = open_dataset(path, references=references, energy_kind="total")
    for atoms, sample in zip(totals, wanted["samples"], strict=True):
        assert atoms.get_potential_energy() == pytest.approx(sample["energy_total"], abs=1e-9)
        assert atoms.info["energy_kind"] == "total"
    back = totals.with_energy("adsorption")
    assert back.energy_kind == "adsorption"
    assert back[0].get_potential_energy() == pytest.approx(wanted["samples"][0]["y"], abs=1e-9)


def test_raw_pairs(shared):
    folder = shared / "datasets" / "oc20_s2ef_raw"
    wanted = expected(folder)
    dataset = open_dataset(folder)
    referenced = dataset.with_energy("adsorption")
    assert dataset.energy_reference is None
    assert "gas-phase" in referenced.energy_reference
    assert len(dataset) == wanted["n"]
    for number, sample in enumerate(wanted["samples"]):
        atoms = dataset[number]
        held = check_structure(atoms, sample, 1e-7)
        check_forces(atoms, sample, held, 1e-7)
        info = atoms.info
        assert (info["sid"], info["fid"]) == (sample["sid"], sample["fid"])
        assert info["system_id"] == sample["system_id"]
        assert info["reference_energy"] == pytest.approx(sample["ref_energy"], abs=1e-12)
        assert atoms.get_potential_energy() == pytest.approx(sample["energy_total"], abs=1e-9)
        assert atoms.calc.results["free_energy"] != atoms.calc.results["energy"]
        energy = referenced[number].get_potential_energy()
        assert energy == pytest.approx(sample["energy_referenced"], abs=1e-7)
        assert dataset.locate(number)[0].name.startswith(str(sample["file"]) + ".extxyz")


def test_relaxation_trajectories(shared):
    folder = shared / "datasets" / "oc20_is2res_trajectories"
    wanted = expected(folder)["samples"]
    dataset = open_dataset(folder)
    assert len(dataset) == sum(sample["n_frames"] for sample in wanted)
    for sample in wanted:
        frames = dataset.select(sid=sample["sid"])
        assert len(frames) == sample["n_frames"]
        energies = [atoms.get_potential_energy() for atoms in frames]
        close(energies, sample["energies"], 1e-9)
        assert frames[0].info["reference_energy"] == pytest.approx(sample["ref_energy"], abs=1e-7)
        assert [atoms.info["fid"] for atoms in frames] == list(range(len(frames)))
        for atoms, part in ((frames[0], sample["first"]), (frames[-1], sample["last"])):
            check_structure(atoms, part, 1e-7)


@pytest.mark.parametrize("name", ["oc20_aselmdb", "oc25_aselmdb"])
def test_aselmdb_shards(shared, name):
    folder = shared / "datasets" / name
    wanted = expected(folder)
    dataset = open_dataset(folder / "data")
    assert len(dataset) == wanted["n"]
    assert dataset.energy_kind == "total"
    assert dataset.natoms.tolist() == [sample["natoms"] for sample in wanted["samples"]]
    for number, sample in enumerate(wanted["samples"]):
        atoms = dataset[number]
        held = check_structure(atoms, sample, 1e-10)
        check_forces(atoms, sample, held, 1e-12)
        assert atoms.get_potential_energy() == pytest.approx(sample["energy_total"], abs=1e-10)
        info = atoms.info
        assert f"{info['sid']}-frame-{info['fid']}" == sample["sid_fairchem"]
        assert dataset.locate(number)[1] == sample["row_id"]
        if name == "oc20_aselmdb":
            assert info["reference_energy"] == sample["ref_energy"]
            continue
        assert info["source"] == sample["source"]
        close(info["total_drift"], sample["total_drift"], 1e-15)
        assert info.get("charge", 0) == sample["charge"]
        assert info.get("spin", 0) == sample["spin"]
        assert np.bincount(atoms.get_tags()).tolist() == sample["tag_counts"]
        if sample["has_stress"]:
            close(atoms.get_stress(apply_constraint=False), sample["stress_voigt"], 1e-15)
        else:
            assert "stress" not in atoms.calc.results


def test_aselmdb_with_everything_a_row_can_hold(shared):
    folder = shared / "datasets" / "aselmdb_misc"
    wanted = expected(folder)
    dataset = open_dataset(folder)
    assert len(dataset) == wanted["n_left"]
    assert [dataset.locate(k)[1] for k in range(len(dataset))] == wanted["ids_left"]
    for atoms, sample in zip(dataset, wanted["samples"], strict=True):
        held = check_structure(atoms, sample, 1e-12)
        check_forces(atoms, sample, held, 1e-12)
        assert atoms.pbc.tolist() == sample["pbc"]
        assert sorted(type(c).__name__ for c in atoms.constraints) == sorted(sample["constraints"])
        for key, value in sample["key_value_pairs"].items():
            assert atoms.info[key] == value
        assert atoms.info.get("key_value_pairs", {}) == sample["key_value_pairs"]
        for key, value in sample["data"].items():
            stored = atoms.info[key]
            assert (stored.tolist() if isinstance(stored, np.ndarray) else stored) == value
        for name in ("stress", "dipole", "magmoms", "charges", "free_energy"):
            if name in sample:
                close(atoms.calc.results[name], sample[name], 1e-15)
        close(atoms.get_initial_magnetic_moments().sum(), sample["initial_magmoms_sum"], 1e-12)
        close(atoms.get_initial_charges().sum(), sample["initial_charges_sum"], 1e-12)
        close(np.abs(atoms.get_momenta()).sum(), sample["momenta_abs_sum"], 1e-12)


def test_solvation_cycles(shared):
    folder = shared / "datasets" / "oc25_solvation"
    wanted = {row["identifier"]: row for row in expected(folder)["rows"]}
    cycles = {}
    for atoms in open_dataset(folder):
        cycle = wanted[atoms.info["identifier"]]
        part = atoms.info["part"]
        assert len(atoms) == cycle["natoms"][part]
        cycles.setdefault(atoms.info["identifier"], {})[part] = atoms.get_potential_energy()
    assert cycles.keys() == wanted.keys()
    for identifier, energies in cycles.items():
        assert energies == pytest.approx(wanted[identifier]["energies"], abs=1e-9)


@pytest.mark.parametrize("file", ["set.db", "set.json", "set.traj", "set.extxyz"])
def test_ase_files(shared, file):
    folder = shared / "datasets" / "ase_formats"
    dataset = open_dataset(folder / file)
    wanted = expected(folder)["samples"]
    assert len(dataset) == len(wanted)
    tolerance = 1e-7 if file.endswith("extxyz") else 1e-12
    for number, (atoms, sample) in enumerate(zip(dataset, wanted, strict=True)):
        held = check_structure(atoms, sample, tolerance)
        check_forces(atoms, sample, held, tolerance)
        assert atoms.get_potential_energy() == pytest.approx(sample["energy_total"], abs=1e-9)
        if file in ("set.db", "set.json"):
            assert atoms.info["sid"] == f"s{number}"
            assert atoms.info["ads_energy"] == pytest.approx(sample["energy_total"])
            assert {"fid", "charge"} <= atoms.info.keys()


def test_labels_under_other_names(shared):
    folder = shared / "datasets" / "ase_formats"
    names = {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"}
    tensor = np.arange(9).reshape(3, 3) / 100
    for options in ({}, {"keys": names}):
        dataset = open_dataset(folder / "custom_keys.extxyz", **options)
        for atoms, sample in zip(dataset, expected(folder)["samples"], strict=True):
            held = check_structure(atoms, sample, 1e-7, fixed=False)
            check_forces(atoms, sample, held, 1e-7, free=False)
            assert atoms.get_potential_energy() == pytest.approx(sample["energy_total"])
            close(atoms.info["REF_stress"], tensor, 1e-12)
            symmetric = (tensor + tensor.T) / 2
            close(atoms.get_stress(voigt=False, apply_constraint=False), symmetric, 1e-12)
            assert atoms.info["config_type"] == "custom"


def test_a_crystal_structure_without_labels(shared):
    folder = shared / "datasets" / "ase_formats"
    (atoms,) = open_dataset(folder / "no_labels.cif")
    sample = expected(folder)["samples"][0]
    check_structure(atoms, sample, 1e-4, fixed=False, tags=False, positions=False)
    assert atoms.calc is None
    other = open_dataset(folder / "set.traj")[0]
    difference = atoms.get_scaled_positions() - other.get_scaled_positions()
    assert np.abs(difference - np.round(difference)).max() < 1e-4


def test_mapping_files(shared):
    folder = shared / "datasets" / "oc20_mapping"
    wanted = expected(folder)
    table = load_mapping(folder / "oc20_data_mapping.pkl")
    assert len(table) == wanted["n"]
    assert list(table)[:5] == wanted["keys"]
    first = dict(table[wanted["keys"][0]])
    assert list(first.pop("miller_index")) == wanted["first"].pop("miller_index")
    sites = [list(site) for site in first.pop("adsorption_site")]
    assert sites == wanted["first"].pop("adsorption_site")
    assert first == wanted["first"]
    assert len(load_mapping(folder / "mapping_adslab_slab.pkl")) == wanted["n_slab"]


def test_reference_energies_from_a_list(shared):
    path = shared / "datasets" / "oc20_is2res_trajectories" / "system.txt"
    assert load_references(path)["random100003"] == 11.65066664


def test_a_folder_of_several_kinds_is_an_error_that_lists_them(shared):
    from ase_nnp.errors import DatasetError

    with pytest.raises(DatasetError, match="several kinds") as caught:
        open_dataset(shared / "datasets" / "ase_formats")
    for name in ("set.db", "set.traj", "extxyz"):
        assert name in str(caught.value)
    chosen = open_dataset(shared / "datasets" / "ase_formats", format="ase-db")
    assert len(chosen) == 8
