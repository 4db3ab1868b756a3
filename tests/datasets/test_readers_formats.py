"""Files of ASE and pymatgen, tables beside OC20, and the checks of every structure."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms
from ase.io import write

from ase_nnp.datasets import (
    load_mapping,
    load_references,
    open_dataset,
)
from ase_nnp.datasets.sample import check_sample, to_atoms
from ase_nnp.errors import DatasetError, UnsafeFileError

from .conftest import slab

# ---------------------------------------------------------------- ASE, pymatgen, tables


def test_structure_files_of_ase(tmp_path):
    crystal = bulk("Cu", cubic=True)
    for name in ("a.cif", "POSCAR", "a.vasp", "a.xsf"):
        write(tmp_path / name, crystal)
        (atoms,) = open_dataset(tmp_path / name)
        assert atoms.numbers.tolist() == [29] * 4
        assert atoms.cell.lengths() == pytest.approx(crystal.cell.lengths())
        (tmp_path / name).unlink()


def test_a_json_that_is_no_database_is_not_taken_for_one(tmp_path):
    (tmp_path / "notes.json").write_text('{"1": {"a": 1}, "ids": "none"}')
    with pytest.raises(DatasetError, match="no known kind"):
        open_dataset(tmp_path / "notes.json")


def test_a_database_in_a_read_only_folder(tmp_path):
    from ase.db import connect

    with connect(tmp_path / "a.db", use_lock_file=False) as database:
        database.write(slab(1), data={"x": np.arange(3)})
    before = sorted(tmp_path.iterdir())
    tmp_path.chmod(0o555)
    try:
        (atoms,) = open_dataset(tmp_path / "a.db")
        assert atoms.info["x"].tolist() == [0, 1, 2]
    finally:
        tmp_path.chmod(0o755)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.filterwarnings("ignore")
def test_pymatgen_json_reads_as_pymatgen_reads_it(tmp_path):
    from pymatgen.entries import computed_entries as entries
    from pymatgen.io.ase import AseAtomsAdaptor as adaptor

    structures = [bulk("NaCl", "rocksalt", 5.6), fcc111("Pt", (2, 2, 3), vacuum=5.0)]
    structures[1].pbc = True
    made = [adaptor.get_structure(atoms) for atoms in structures]
    water = adaptor.get_molecule(molecule("H2O"))
    labeled = entries.ComputedStructureEntry(made[0], -7.5, entry_id="mp-1")
    forces = [[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]]
    forms = {
        "one.json": made[1].as_dict(),
        "list.json": [s.as_dict() for s in made],
        "dict.json": {"a": made[0].as_dict(), "b": {"structure": made[1].as_dict()}},
        "molecule.json": water.as_dict(),
        "entry.json": [labeled.as_dict()],
        "nested.json": {
            "mp-1": {"mp-1-0": {"structure": made[0].as_dict(), "uncorrected_total_energy": -7.0,
                                "force": forces, "stress": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}}
        },
    }  # fmt: skip
    for name, content in forms.items():
        (tmp_path / name).write_text(json.dumps(content, default=str))
    for ours, theirs in zip(open_dataset(tmp_path / "list.json"), structures, strict=True):
        assert ours.numbers.tolist() == theirs.numbers.tolist()
        assert ours.positions == pytest.approx(theirs.positions)
        assert ours.cell.array == pytest.approx(theirs.cell.array)
    assert len(open_dataset(tmp_path / "one.json")) == 1
    assert [a.info["sid"] for a in open_dataset(tmp_path / "dict.json")] == ["a", "b"]
    (opened,) = open_dataset(tmp_path / "molecule.json")
    assert opened.positions == pytest.approx(molecule("H2O").positions)
    assert not opened.pbc.any()
    (entry,) = open_dataset(tmp_path / "entry.json")
    assert entry.get_potential_energy() == -7.5
    assert entry.info["sid"] == "mp-1"
    (nested,) = open_dataset(tmp_path / "nested.json")
    assert nested.get_potential_energy() == -7.0
    assert nested.get_forces().tolist() == forces
    assert nested.info["sid"] == "mp-1/mp-1-0"
    assert nested.info["stress"][0] == [1, 0, 0]


def test_a_disordered_crystal_is_refused(tmp_path):
    site = {"species": [{"element": "Cu", "occu": 0.5}, {"element": "Au", "occu": 0.5}]}
    site |= {"abc": [0, 0, 0], "xyz": [0, 0, 0]}
    content = {"@class": "Structure", "lattice": {"matrix": np.eye(3).tolist()}, "sites": [site]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="disordered"):
        open_dataset(tmp_path / "a.json")[0]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_tables_of_every_protocol(tmp_path, protocol):
    table = {"random1": {"site": ((np.float64(1.5), np.float64(2)),), "class": 1, "top": True}}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(table, protocol))
    assert load_mapping(tmp_path / "m.pkl") == table
    (tmp_path / "l.pkl").write_bytes(pickle.dumps([1], protocol))
    with pytest.raises(DatasetError, match="not a dict"):
        load_mapping(tmp_path / "l.pkl")
    (tmp_path / "u.pkl").write_bytes(pickle.dumps({"a": FixAtoms([0])}, protocol))
    with pytest.raises(UnsafeFileError, match="ase"):
        load_mapping(tmp_path / "u.pkl")


def test_lists_of_reference_energies(tmp_path):
    (tmp_path / "r.txt").write_text("random1,1.5\nrandom2,-2e0\n")
    assert load_references(tmp_path / "r.txt") == {"random1": 1.5, "random2": -2.0}
    (tmp_path / "r.txt").write_text("random1,high\n")
    with pytest.raises(DatasetError, match="id,energy"):
        load_references(tmp_path / "r.txt")


# ---------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("cell", "pbc", "good"),
    [
        (np.zeros((3, 3)), (0, 0, 0), True),
        (np.diag([5.0, 5, 0]), (1, 1, 0), True),
        (np.diag([5.0, 0, 0]), (1, 0, 0), True),
        (np.diag([5.0, 0, 5]), (1, 1, 0), False),
        ([[5, 0, 0], [5, 0, 0], [0, 0, 5]], (1, 1, 0), False),
        ([[5, 0, 0], [0, 5, 0], [5, 5, 0]], (1, 1, 1), False),
        ([[5, 0, 0], [2.5, 4, 0], [0, 0, 40]], (1, 1, 1), True),
        (np.full((3, 3), np.nan), (0, 0, 0), False),
    ],
)
def test_cells_must_span_their_periodic_directions(cell, pbc, good):
    sample = {
        "atomic_numbers": np.array([1]),
        "positions": np.zeros((1, 3)),
        "cell": np.array(cell, float),
        "pbc": np.array(pbc, bool),
        "info": {},
    }
    if good:
        assert isinstance(to_atoms(check_sample(sample)), Atoms)
    else:
        with pytest.raises(DatasetError, match=r"cell|periodic"):
            check_sample(sample)


def test_checks_raise_no_warnings_on_infinities():
    sample = {
        "atomic_numbers": np.array([1, 1]),
        "positions": np.array([[np.inf, 0, 0], [-np.inf, 0, 0]], np.float32),
        "cell": np.zeros((3, 3)),
        "pbc": np.zeros(3, bool),
        "info": {},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DatasetError, match="positions"):
            check_sample(dict(sample))
        sample["positions"] = np.full((2, 3), 1e30, np.float32)  # large but finite
        check_sample(sample)
