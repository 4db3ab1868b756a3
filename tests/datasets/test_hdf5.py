"""HDF5 layouts: stored files of each kind, and small files of our own with every convention."""

from __future__ import annotations

import json
import os
import pickle

import h5py
import numpy as np
import pytest

from ase_nnp.datasets import open_dataset, write_dataset
from ase_nnp.datasets.formats.hdf5_h5md import unit_factor
from ase_nnp.datasets.formats.hdf5_safe import natural
from ase_nnp.errors import DatasetError

from .conftest import slab

HARTREE, BOHR = 27.211386245988, 0.529177210903


@pytest.fixture(scope="module")
def expected(shared):
    return json.loads((shared / "datasets/hdf5/expected.json").read_text())["files"]


def check_group(frames, group, energy_tolerance=1e-8):
    assert len(frames) == group["n"]
    energies = [atoms.get_potential_energy() for atoms in frames]
    np.testing.assert_allclose(energies, group["energy_eV"], rtol=0, atol=energy_tolerance)
    assert frames[0].get_chemical_formula() == group.get("formula", "C5H8O2")
    np.testing.assert_allclose(frames[0].positions[0], group["pos_first"], atol=1e-6)
    if "numbers" in group:
        assert frames[0].numbers.tolist() == group["numbers"]
    if "forces" in frames[0].calc.results:
        forces = [atoms.calc.results["forces"] for atoms in frames]
        np.testing.assert_allclose(forces[0][0], group["forces_first"], atol=1e-6)
        if "forces_abs_sum" in group:
            total = sum(np.abs(f).sum() for f in forces)
            assert total == pytest.approx(group["forces_abs_sum"], rel=1e-6)


@pytest.mark.parametrize(
    "name", ["torchmdnet.h5", "ani1x.h5", "ani1_old.h5", "spice.hdf5", "qm7x.hdf5"]
)
def test_molecules_in_groups_read_as_expected(shared, expected, name):
    dataset = open_dataset(shared / "datasets/hdf5" / name)
    frames = {}
    for index in range(len(dataset)):
        key = str(dataset.locate(index)[1]).split("/")
        frames.setdefault(key[1] if name == "ani1_old.h5" else key[0], []).append(dataset[index])
    groups = expected[name]["groups"]
    assert set(frames) == set(groups)
    for key, group in groups.items():
        check_group(frames[key], group)
        if "conformers" in group:
            assert [atoms.info["conformer"] for atoms in frames[key]] == group["conformers"]


def test_a_mace_file_reads_in_numeric_order(shared, expected):
    dataset = open_dataset(shared / "datasets/hdf5/mace.h5")
    assert len(dataset) == expected["mace.h5"]["n"]
    check_group(list(dataset[:12]), expected["mace.h5"]["first"], 1e-10)
    check_group(list(dataset[12:]), expected["mace.h5"]["second"], 1e-10)


def test_trajectories_read_as_expected(shared, expected):
    h5md = open_dataset(shared / "datasets/hdf5/traj.h5md")
    check_group(list(h5md), expected["traj.h5md"]["frames"], 1e-10)
    torch_sim = open_dataset(shared / "datasets/hdf5/torchsim_traj.h5")
    wanted = expected["torchsim_traj.h5"]
    check_group(list(torch_sim), wanted, 1e-3)  # the file is float32
    assert [atoms.info["step"] for atoms in torch_sim] == wanted["steps"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad_shapes.h5", r"record '15/0': 'energy' has shape \(10,\), wanted \(12,\)"),
        ("bad_external_link.h5", "ExternalLink to 'no_such_file.h5'"),
        ("bad_no_pos.h5", "no known layout"),
        ("bad_truncated.h5", "no readable HDF5 file"),
    ],
)
def test_bad_files_are_named_errors(shared, name, message):
    with pytest.raises(DatasetError, match=message) as error:
        list(open_dataset(shared / "datasets/hdf5" / name))
    assert name in str(error.value)


def test_missing_ccsd_labels_stay_missing(shared, expected):
    path = shared / "datasets/hdf5/ani1x.h5"
    dataset = open_dataset(path, level="ccsd(t)_cbs")
    missing = [atoms for atoms in dataset if atoms.calc is None]
    groups = expected["ani1x.h5"]["groups"]
    assert len(missing) == sum(group["ccsdt_missing"] for group in groups.values())
    with pytest.raises(DatasetError, match="stored are"):
        open_dataset(path, level="mp2")[0]


def h5(path, **items):
    with h5py.File(path, "w") as root:
        for name, value in items.items():
            root[name.replace("__", "/")] = value
    return path


def test_units_become_ev_and_angstrom(tmp_path):
    rng = np.random.default_rng(0)
    positions, gradient = rng.normal(size=(2, 3, 3)), rng.normal(size=(2, 3, 3))
    spice = h5(
        tmp_path / "spice.h5",
        m__atomic_numbers=[8, 1, 1],
        m__conformations=positions,
        m__dft_total_energy=[-1.0, -2.0],
        m__dft_total_gradient=gradient,
        m__scf_dipole=np.ones((2, 3)),
        m__mbis_charges=np.arange(6.0).reshape(2, 3, 1),
    )
    atoms = open_dataset(spice)[1]
    np.testing.assert_allclose(atoms.positions, positions[1] * BOHR)
    assert atoms.get_potential_energy() == pytest.approx(-2 * HARTREE)
    np.testing.assert_allclose(atoms.get_forces(), -gradient[1] * HARTREE / BOHR)
    np.testing.assert_allclose(atoms.calc.results["dipole"], BOHR)
    np.testing.assert_allclose(atoms.calc.results["charges"], [3, 4, 5])

    own = h5(
        tmp_path / "own.h5", g__types=[8, 1, 1], g__pos=positions, g__energy=[[1.0], [2.0]],
        g__forces=gradient,
    )  # fmt: skip
    atoms = open_dataset(own, energy_unit="Hartree", length_unit="Bohr")[0]
    assert atoms.get_potential_energy() == pytest.approx(HARTREE)
    np.testing.assert_allclose(atoms.get_forces(), gradient[0] * HARTREE / BOHR)
    assert open_dataset(own)[0].get_potential_energy() == 1.0
    with pytest.raises(DatasetError, match=r"energy_unit 'furlong'.*Hartree"):
        open_dataset(own, energy_unit="furlong")


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("eV", 1.0),
        ("eV Angstrom-1", 1.0),
        ("kJ mol-1", 0.010364269656262174),
        ("kJ mol-1 nm-1", 0.0010364269656262174),
        ("kcal mol-1 Angstrom-1", 4.184 * 0.010364269656262174),
        ("Hartree Bohr-1", HARTREE / BOHR),
        ("nm", 10.0),
        ("eV/Angstrom", 1.0),
    ],
)
def test_units_of_h5md(unit, factor):
    assert unit_factor(unit) == pytest.approx(factor, rel=1e-8)


def test_h5md_boxes_steps_and_units(tmp_path):
    path = tmp_path / "md.h5md"
    rng = np.random.default_rng(1)
    positions = rng.normal(size=(3, 2, 3))
    with h5py.File(path, "w") as root:
        root.create_group("h5md").attrs["version"] = [1, 1]
        group = root.create_group("particles/all")
        group["species"] = [11, 17]
        group["position/value"], group["position/step"] = positions, [0, 10, 20]
        group["position/value"].attrs["unit"] = "nm"
        group["force/value"], group["force/step"] = positions[:2], [0, 20]
        group["force/value"].attrs["unit"] = "kJ mol-1 nm-1"
        group["box/edges/value"], group["box/edges/step"] = [[1, 2, 3], [2, 2, 3], [3, 2, 3]], 10
        group["box/edges/value"].attrs["unit"] = "nm"
        group["box"].attrs["boundary"] = ["periodic", "periodic", "none"]
        root["observables/potential_energy/value"] = [1.0, 2.0, 3.0]
        root["observables/potential_energy/step"] = [0, 10, 20]
        root["observables/potential_energy/value"].attrs["unit"] = "kJ mol-1"
    dataset = open_dataset(path)
    np.testing.assert_allclose(dataset[2].positions, positions[2] * 10)
    assert dataset[2].cell.lengths().tolist() == [30, 20, 30]
    assert dataset[2].pbc.tolist() == [True, True, False]
    assert dataset[1].get_potential_energy() == pytest.approx(2 * 0.010364269656262174)
    assert "forces" not in dataset[1].calc.results
    np.testing.assert_allclose(
        dataset[2].get_forces(), positions[1] * 0.0010364269656262174, rtol=1e-8
    )


def test_a_torch_sim_cell_has_its_vectors_in_columns(tmp_path):
    cell = np.array([[5.0, 0, 0], [1, 6, 0], [2, 3, 7]])
    path = h5(
        tmp_path / "t.h5",
        data__positions=np.zeros((2, 1, 3)), steps__positions=[0, 5],
        data__cell=[cell.T], steps__cell=[0],
        data__atomic_numbers=[[29]], steps__atomic_numbers=[0],
        data__pbc=[1], steps__pbc=[0],
        data__potential_energy=[[1.0], [2.0]], steps__potential_energy=[0, 5],
    )  # fmt: skip
    atoms = open_dataset(path)[1]
    np.testing.assert_array_equal(atoms.cell[:], cell)
    assert atoms.pbc.all()
    assert atoms.get_potential_energy() == 2.0


def test_numbers_in_names_sort_as_numbers():
    names = ["config_10", "config_2", "config_1", "a", "3bpa"]
    assert sorted(names, key=natural) == ["3bpa", "a", "config_1", "config_2", "config_10"]


def test_mace_shards_are_one_dataset_and_older_files_read_too(tmp_path):
    write_dataset(tmp_path / "train_0.h5", [slab(0), slab(1)])
    with h5py.File(tmp_path / "train_1.h5", "w") as root:
        group = root.create_group("config_batch_0/config_0")
        group["atomic_numbers"], group["positions"] = [1, 1], np.eye(3)[:2]
        group["energy"], group["forces"] = -1.5, np.zeros((2, 3))
        group["stress"], group["cell"], group["pbc"] = "None", "None", "None"
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 3
    assert dataset[2].get_potential_energy() == -1.5
    assert not dataset[2].pbc.any()
    other = h5(tmp_path / "x.h5", g__types=[1], g__pos=np.zeros((1, 1, 3)), g__energy=[0.0])
    assert other.exists()
    with pytest.raises(DatasetError, match=r"different layouts.*x\.h5 \(torchmd-net\)"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g__types": [0, 1]}, "atomic numbers"),
        ({"g__types": [119, 1]}, "atomic numbers"),
        ({"g__pos": np.full((1, 2, 3), np.nan)}, "positions"),
        ({"g__forces": np.full((1, 2, 3), np.inf)}, "forces"),
        ({"g__energy": [np.nan]}, "energy"),
        ({"g__types": [[1, 1, 1]]}, "shape"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(tmp_path, change, message):
    items = {"g__types": [8, 1], "g__pos": np.ones((1, 2, 3)), "g__energy": [1.0]}
    path = h5(tmp_path / "bad.h5", **{**items, **change})
    with pytest.raises(DatasetError, match=message) as error:
        open_dataset(path)[0]
    assert "bad.h5" in str(error.value)
    assert "'g'" in str(error.value)


def test_links_and_data_outside_the_file_are_refused(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.zeros(6).tobytes())
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as root:
        group = root.create_group("g")
        group["types"] = [1, 1]
        group.create_dataset("pos", (1, 2, 3), "f8", external=[(str(secret), 0, 48)])
    with pytest.raises(DatasetError, match="in another file"):
        list(open_dataset(path))
    with h5py.File(path, "w") as root:
        root["g/types"], root["g/real"] = [1, 1], np.ones((1, 2, 3))
        root["g/pos"] = h5py.SoftLink("/g/real")
    with pytest.raises(DatasetError, match=r"in another file|SoftLink"):
        list(open_dataset(path))


def test_a_claimed_size_is_not_believed(tmp_path):
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as root:
        group = root.create_group("g")
        group.create_dataset("types", (10**12,), "i8", chunks=(1000,))
        group.create_dataset("pos", (1, 10**12, 3), "f8", chunks=(1, 1000, 3))
        group["energy"] = [1.0]
    with pytest.raises(DatasetError, match="are believed"):
        open_dataset(path)[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_dataset_survives_pickling_and_fork(tmp_path):
    write_dataset(tmp_path / "a.h5", [slab(0), slab(1)])
    dataset = open_dataset(tmp_path / "a.h5")
    first = dataset[0].get_potential_energy()
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy[0].get_potential_energy() == first
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, repr(dataset[1].get_potential_energy()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert float(os.read(reader, 100)) == dataset[1].get_potential_energy()
    os.close(reader)
    os.close(writer)


def damage(path, offset, content):
    """Overwrite bytes of the first heap of strings."""
    data = bytearray(path.read_bytes())
    start = data.find(b"GCOL")
    assert start > 0
    data[start + offset : start + offset + len(content)] = content
    path.write_bytes(bytes(data))


def test_a_heap_that_makes_the_library_loop_is_an_error(tmp_path):
    path = tmp_path / "md.h5md"
    with h5py.File(path, "w") as root:
        root.create_group("h5md").attrs["version"] = [1, 1]
        group = root.create_group("particles/all")
        group["species"], group["position/value"] = [1], np.zeros((1, 1, 3))
        group["position/step"] = [0]
        group["position/value"].attrs["unit"] = "nm"
    assert len(open_dataset(path)) == 1
    damage(path, 16, bytes(16))  # index and size of the first object: none, and no end
    with pytest.raises(DatasetError, match="damaged heap of strings"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (16, b"\x09", "missing from its heap"),
        (24, b"\x01", "cut short"),
        (0, b"XXXX", "damaged heap"),
    ],
)
def test_damaged_texts_are_errors(tmp_path, offset, content, message):
    path = tmp_path / "spice.h5"
    with h5py.File(path, "w") as root:
        group = root.create_group("m")
        group["atomic_numbers"], group["conformations"] = [1], np.zeros((1, 1, 3))
        group["smiles"] = np.array(["[H]"], dtype=object)
    assert open_dataset(path)[0].info["smiles"] == "[H]"
    damage(path, offset, content)
    with pytest.raises(DatasetError, match=message):
        open_dataset(path)[0]
