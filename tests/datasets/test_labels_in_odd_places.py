"""Labels in objects and columns of JSON, in units of SchNetPack; boxes and flags in odd words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from ase_nnp.datasets import DatasetWarning, open_dataset, write_dataset
from ase_nnp.datasets.labels import candidates
from ase_nnp.errors import DatasetError

SITES = [
    {"species": [{"element": element, "occu": 1}], "abc": [x, x, x], "xyz": [4 * x] * 3}
    for element, x in (("Na", 0.0), ("Cl", 0.5))
]
SALT = {"@class": "Structure", "lattice": {"matrix": (4 * np.eye(3)).tolist()}, "sites": SITES}
FORCES = [[0, 0, 1.5], [0, 0, -1.5]]


def labels(path, number=-1):
    atoms = open_dataset(path)[number]
    return {} if atoms.calc is None else atoms.calc.results


def stored(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("holder", ["results", "output", "labels", "properties", "data"])
def test_labels_of_an_object_beside_the_structure(tmp_path, holder):
    entry = {"structure": SALT, holder: {"energy": -2.5, "forces": FORCES, "note": "x"}}
    results = labels(stored(tmp_path, [entry]))
    assert results["energy"] == -2.5
    assert results["forces"].tolist() == FORCES


def test_labels_beside_the_structure_go_first_and_two_objects_are_no_source(tmp_path):
    entry = {"structure": SALT, "energy": -1.0, "data": {"energy": -2.0, "forces": FORCES}}
    assert labels(stored(tmp_path, [entry])) == {"energy": -1.0}
    entry = {"structure": SALT, "output": {"energy": -1.0}, "data": {"energy": -2.0}}
    assert labels(stored(tmp_path, [entry])) == {}


def test_columns_inside_a_list_or_an_object_are_rows(tmp_path):
    table = {"structures": [SALT, SALT], "energies": [-1.0, -2.0], "forces": [FORCES] * 2}
    for content in ([{**table, "id": "a"}, table], {"a": {**table, "id": "a"}, "b": table}):
        path = stored(tmp_path, content)
        assert len(open_dataset(path)) == 4
        assert [labels(path, k)["energy"] for k in range(4)] == [-1, -2, -1, -2]
        assert labels(path)["forces"].tolist() == FORCES
        assert [a.info.get("id") for a in open_dataset(path)] == ["a", "a", None, None]
    with pytest.raises(DatasetError, match="columns of different lengths"):
        open_dataset(stored(tmp_path, [{"structures": [SALT, SALT], "energy": [-1.0]}]))


def schnetpack(path, units, data, **metadata):
    with connect(path, use_lock_file=False) as database:
        database.write(molecule("H2O"), data=data)
    with connect(path, use_lock_file=False) as database:
        database.metadata = {"_property_unit_dict": units, "_distance_unit": "Ang", **metadata}


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("kcal/mol/Ang", 0.0433641042),
        ("kcal/(mol Ang)", 0.0433641042),
        ("kcal/(mol*Ang)", 0.0433641042),
        ("Hartree/Bohr", 51.4220675),
        ("Ha / a0", 51.4220675),
        ("meV/Å", 0.001),
    ],
)
def test_forces_of_schnetpack_come_in_electronvolts(tmp_path, unit, factor):
    units = {"energy": "eV", "forces": unit}
    schnetpack(tmp_path / "a.db", units, {"energy": np.ones(1), "forces": np.ones((3, 3))})
    # CODATA 2018: 1 Hartree/Bohr is 51.4220675 eV/A, 1 kcal/mol 0.0433641042 eV (thermochemical).
    np.testing.assert_allclose(labels(tmp_path / "a.db")["forces"], factor, rtol=5e-8)


@pytest.mark.parametrize(
    ("unit", "factor"), [("GPa", 1 / 160.2176634), ("kbar", 1 / 1602.176634), ("eV/Ang^3", 1.0)]
)
def test_stress_of_schnetpack_comes_in_ase_units(tmp_path, unit, factor):
    units = {"energy": "eV", "stress": unit}
    schnetpack(tmp_path / "a.db", units, {"energy": np.ones(1), "stress": np.eye(3)})
    np.testing.assert_allclose(labels(tmp_path / "a.db")["stress"][:3], factor, rtol=1e-7)


def test_the_energy_of_schnetpacks_qm9_is_u0_with_its_own_atomrefs(tmp_path):
    units = {"energy_U0": "Hartree", "zpve": "Hartree"}
    references = [0.0] * 9
    references[1], references[8] = -0.5, -75.0
    data = {"energy_U0": np.array([-76.4]), "zpve": np.array([0.02])}
    schnetpack(tmp_path / "a.db", units, data, atomrefs={"energy_U0": references})
    dataset = open_dataset(tmp_path / "a.db")
    assert dataset[0].get_potential_energy() == pytest.approx(-76.4 * 27.2113862, rel=1e-8)
    assert dataset[0].info["reference_energy"] == pytest.approx(-76 * 27.2113862, rel=1e-8)
    assert dataset.energy_kind == "total"


def test_what_ase_says_of_shared_sites_is_refused_in_any_file(tmp_path):
    copper = bulk("Cu", cubic=True)
    copper.info["occupancy"] = {"0": {"Cu": 0.5, "Ni": 0.5}}
    write(tmp_path / "a.xyz", copper, format="extxyz")
    with pytest.raises(DatasetError, match="disordered site"):
        open_dataset(tmp_path / "a.xyz")[0]
    copper.info["occupancy"] = {"0": {"Cu": 1.0}}
    write(tmp_path / "a.xyz", copper, format="extxyz")
    assert len(open_dataset(tmp_path / "a.xyz")[0]) == 4


@pytest.mark.parametrize(
    "words",
    ["[np.True_, np.True_, np.False_]", "tensor([ True,  True, False])", "(True, True, False)"],
)
def test_pbc_as_python_prints_it(tmp_path, words):
    path = tmp_path / "a.xyz"
    box = 'Lattice="4 0 0 0 5 0 0 0 6" Properties=species:S:1:pos:R:3'
    path.write_text(f'1\n{box} pbc="{words}"\nCu 0 0 0\n')
    assert open_dataset(path)[0].pbc.tolist() == [True, True, False]


def test_a_lattice_of_sgdml_has_its_vectors_in_columns(tmp_path):
    lattice = np.array([[9.0, 1, 0], [0, 8, 0], [0, 0, 7]])
    arrays = {"z": np.array([8, 1]), "R": np.ones((2, 2, 3)), "E": np.zeros(2)}
    np.savez(tmp_path / "a.npz", **arrays, lattice=lattice, r_unit="Bohr")
    atoms = open_dataset(tmp_path / "a.npz")[0]
    np.testing.assert_allclose(atoms.cell[1], np.array([1, 8, 0]) * 0.529177211, rtol=1e-8)
    assert atoms.pbc.all()


def test_arrays_that_md17_does_not_have_are_named(tmp_path):
    arrays = {"z": np.array([8, 1]), "R": np.ones((2, 2, 3)), "E": np.zeros(2)}
    np.savez(tmp_path / "a.npz", **arrays, cell=np.eye(3), name="water")
    with pytest.warns(DatasetWarning, match="'cell' is left out") as said:
        open_dataset(tmp_path / "a.npz")[0]
    assert len(said) == 1


def test_what_repeats_a_label_is_no_candidate_for_one(tmp_path):
    units = {"energy": "Hartree", "forces": "Hartree/Bohr", "energy_gap": "Hartree"}
    data = {"energy": np.ones(1), "forces": np.ones((3, 3)), "energy_gap": np.full(1, 0.5)}
    schnetpack(tmp_path / "a.db", units, data)
    assert candidates(open_dataset(tmp_path / "a.db").arrays(0)) == {"energy_gap": "energy"}
    schnetpack(tmp_path / "b.db", {}, data)
    named = {"energy": "energy", "forces": "forces", "energy_gap": "energy"}
    assert candidates(open_dataset(tmp_path / "b.db").arrays(0)) == named


NOT_FINITE = {
    "free_energy": np.nan,
    "magmom": np.inf,
    "dipole": np.array([1, np.inf, 0]),
    "charges": np.array([np.nan, 1]),
    "stresses": np.full((2, 6), np.nan),
    "polarization": np.full(3, np.nan),
    "born_effective_charges": np.full((2, 3, 3), -np.inf),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_any_label_that_is_not_finite_is_named_and_refused(tmp_path, name):
    atoms = molecule("CO")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, **{name: NOT_FINITE[name]})
    with connect(tmp_path / "a.json") as rows:
        rows.write(atoms)
    with pytest.raises(DatasetError, match=name):
        open_dataset(tmp_path / "a.json")[0]
    with pytest.raises(DatasetError, match=f"structure 0: .*{name}"):
        write_dataset(tmp_path / "b.aselmdb", [atoms])


def test_scores_and_intervals_may_be_infinite_and_no_more_than_that(tmp_path):
    atoms = molecule("CO")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.calc.results |= {"ood_score": np.inf, "energy_interval": np.array([-np.inf, np.inf])}
    write_dataset(tmp_path / "a.aselmdb", [atoms])
    assert open_dataset(tmp_path / "a.aselmdb")[0].calc.results["ood_score"] == np.inf
    atoms.calc.results["ood_score"] = np.nan
    with pytest.raises(DatasetError, match="ood_score is nan"):
        write_dataset(tmp_path / "b.aselmdb", [atoms])


@pytest.mark.parametrize("ending", ["db", "json"])
def test_magnetic_moments_of_three_components_keep_their_rows(tmp_path, ending):
    atoms = molecule("CO")
    moments = np.arange(6.0).reshape(2, 3)
    atoms.set_initial_magnetic_moments(moments)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, magmoms=2 * moments)
    with connect(tmp_path / f"a.{ending}") as rows:
        rows.write(atoms)
    back = open_dataset(tmp_path / f"a.{ending}")[0]
    np.testing.assert_array_equal(back.get_initial_magnetic_moments(), moments)
    np.testing.assert_array_equal(back.calc.results["magmoms"], 2 * moments)
