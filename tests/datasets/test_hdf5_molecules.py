"""HDF5 files of ANI, COMP6, Transition1x and AIMNet2; virials of MACE files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ase_nnp.datasets import open_dataset
from ase_nnp.errors import DatasetError

# CODATA 2018: a Hartree is 27.211386245988 eV, so -76 Hartree are
WATER = -2068.065354695088
RNG = np.random.default_rng(3)
COORDINATES, FORCES = RNG.normal(size=(2, 2, 3, 3))


def h5(path, **items):
    with h5py.File(path, "w") as root:
        for name, value in items.items():
            root[name] = value
    return path


def check_water(dataset):
    first, second = dataset
    assert first.numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(second.positions, COORDINATES[1])
    assert first.get_potential_energy() == pytest.approx(WATER, abs=1e-9)
    np.testing.assert_allclose(second.get_forces(), FORCES[1] * 27.211386245988, rtol=1e-12)


@pytest.mark.parametrize(
    "species",
    [
        np.array([b"O", b"H", b"H"], dtype=object),
        np.array([b"O", b"H", b"H"]),
        np.array([8, 1, 1]),
        np.array([[8, 1, 1], [8, 1, 1]]),
    ],
    ids=["texts", "bytes", "numbers", "numbers of each frame"],
)
def test_ani_files_keep_their_forces(tmp_path, species):
    items = {"coordinates": COORDINATES, "energies": [-76.0, -76.1], "forces": FORCES}
    items = {f"g/m0/{name}": value for name, value in (items | {"species": species}).items()}
    check_water(open_dataset(h5(tmp_path / "a.h5", **items)))


def test_ani_2x_names_each_frames_elements(tmp_path):
    path = h5(
        tmp_path / "ani2x.h5",
        **{"3/coordinates": COORDINATES, "3/species": [[8, 1, 1], [16, 1, 1]]},
        **{"3/energies": [[-76.0], [-398.0]], "3/forces": FORCES},
    )
    dataset = open_dataset(path)
    assert [atoms.get_chemical_formula() for atoms in dataset] == ["H2O", "H2S"]
    assert dataset[0].get_potential_energy() == pytest.approx(WATER, abs=1e-9)


@pytest.mark.parametrize(
    ("missing", "message"), [("species", "no atomic numbers"), ("coordinates", "no 'coordinates'")]
)
def test_a_damaged_group_of_ani_is_named_and_not_left_out(tmp_path, missing, message):
    items = {"coordinates": COORDINATES, "species": [8, 1, 1], "energies": [-76.0, -76.1]}
    groups = {f"s01/m{k}/{name}": value for k in range(3) for name, value in items.items()}
    del groups[f"s01/m1/{missing}"]
    dataset = open_dataset(h5(tmp_path / "a.h5", **groups))
    assert len(dataset) == (6 if missing == "species" else 5)
    assert dataset[-1].get_potential_energy() == pytest.approx(WATER - 0.1 * 27.211386, abs=1e-6)
    with pytest.raises(DatasetError, match=f"s01/m1.*{message}"):
        dataset[2]


def test_forces_of_another_shape_are_refused_by_name(tmp_path):
    items = {"coordinates": COORDINATES, "species": [8, 1, 1], "forces": FORCES[:1]}
    path = h5(tmp_path / "a.h5", **{f"m/{name}": value for name, value in items.items()})
    with pytest.raises(DatasetError, match=r"'forces' has shape \(1, 3, 3\), wanted \(2, 3, 3\)"):
        open_dataset(path)[0]


def test_transition1x_is_in_ev_and_counts_each_frame_once(tmp_path):
    level = "wB97x_6-31G(d)"
    band = {
        "atomic_numbers": [8, 1, 1],
        "positions": COORDINATES,
        f"{level}.energy": [-2000.0, -2001.0],
        f"{level}.forces": FORCES,
    }
    with h5py.File(tmp_path / "t1x.h5", "w") as root:
        for place in ("data/H2O/rxn10", "data/H2O/rxn9", "train/H2O/rxn9"):
            for name, value in band.items():
                root[f"{place}/{name}"] = value
            for name, value in band.items():
                root[f"{place}/reactant/{name}"] = value if len(value) == 3 else value[:1]
    dataset = open_dataset(tmp_path / "t1x.h5")
    assert [a.info["reaction"] for a in dataset] == ["rxn9", "rxn9", "rxn10", "rxn10"]
    assert dataset[1].get_potential_energy() == -2001.0
    np.testing.assert_array_equal(dataset[1].get_forces(), FORCES[1])


def test_aimnet2_is_in_ev_with_charges(tmp_path):
    items = {
        "coord": COORDINATES,
        "numbers": [[8, 1, 1], [8, 1, 1]],
        "charge": [0, -1],
        "mult": [1, 2],
        "energy": [-1.0, -2.0],
        "forces": FORCES,
        "charges": [[-0.8, 0.4, 0.4], [-1.0, 0.0, 0.0]],
    }
    path = h5(tmp_path / "aimnet.h5", **{f"003/{name}": value for name, value in items.items()})
    atoms = open_dataset(path)[1]
    assert atoms.get_potential_energy() == -2.0
    np.testing.assert_array_equal(atoms.get_forces(), FORCES[1])
    assert atoms.info["charge"] == -1
    assert atoms.info["spin"] == 2
    assert atoms.get_charges().tolist() == [-1.0, 0.0, 0.0]


def test_virials_of_a_mace_file_are_a_stress(tmp_path):
    virials = np.array([[1.0, 0.1, 0], [0.1, 2, 0], [0, 0, 3]])
    place = "config_batch_0/config_0"
    path = h5(
        tmp_path / "mace.h5",
        **{f"{place}/atomic_numbers": [29], f"{place}/positions": np.zeros((1, 3))},
        **{f"{place}/cell": np.diag([2.0, 3, 4]), f"{place}/pbc": [True] * 3},
        **{f"{place}/properties/energy": -1.0, f"{place}/properties/virials": virials},
        **{f"{place}/properties/stress": "None"},
    )
    (atoms,) = open_dataset(path)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), -virials / 24)


@pytest.mark.parametrize(
    ("name", "count"), [("comp6.h5", 2), ("ani2x.h5", 2), ("transition1x.h5", 2), ("aimnet2.h5", 2)]
)
def test_published_layouts_have_energies_and_forces(shared, name, count):
    dataset = open_dataset(shared / "faults/data/fail_6" / name)
    assert len(dataset) == count
    assert {"energy", "forces"} <= dataset[0].calc.results.keys()
