"""Readers on small files made here: every layout and convention, without reference material."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import sys
import types
import warnings
import zlib

import lmdb
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read, write

from ase_nnp.datasets import (
    DatasetWarning,
    load_mapping,
    load_references,
    open_dataset,
    write_dataset,
)
from ase_nnp.datasets.formats.rows import row_to_sample
from ase_nnp.datasets.sample import check_sample, to_atoms
from ase_nnp.errors import DatasetError, UnsafeFileError

from .conftest import slab

# ---------------------------------------------------------------- legacy LMDB


@pytest.fixture
def pyg(monkeypatch):
    """Classes under PyG's names, so that pickles name them; gone again when the files are read."""
    modules = {}
    for name in ("torch_geometric", "torch_geometric.data", "torch_geometric.data.data"):
        modules[name] = types.ModuleType(name)
    modules["torch_geometric.data.storage"] = types.ModuleType("torch_geometric.data.storage")
    for module, name in (("data.data", "Data"), ("data.storage", "GlobalStorage")):
        full = f"torch_geometric.{module}"
        setattr(modules[full], name, type(name, (), {"__module__": full}))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def dump(fields, layout, protocol=5):
        data = modules["torch_geometric.data.data"].Data()
        if layout == "flat":
            data.__dict__.update(dict.fromkeys(("x", "face", "normal")) | fields)
        else:
            store = modules["torch_geometric.data.storage"].GlobalStorage()
            store.__dict__.update(_mapping=fields, _parent=None)
            data.__dict__["_store"] = store
        return pickle.dumps(data, protocol)

    return dump


def fields_of(atoms, **more):
    """What the OC20 writers of 2020 stored of a structure."""
    n = len(atoms)
    fixed = torch.zeros(n)
    fixed[atoms.constraints[0].index] = 1
    return {
        "pos": torch.tensor(atoms.positions, dtype=torch.float32),
        "cell": torch.tensor(atoms.cell.array, dtype=torch.float32).view(1, 3, 3),
        "atomic_numbers": torch.tensor(atoms.numbers, dtype=torch.float32),
        "natoms": n,
        "tags": torch.tensor(atoms.get_tags(), dtype=torch.long),
        "fixed": fixed,
        "force": torch.tensor(atoms.calc.results["forces"], dtype=torch.float32),
        "sid": atoms.info["sid"],
        "fid": atoms.info["fid"],
        **more,
    }


def lmdb_of(path, values):
    env = lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False)
    with env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(str(key).encode(), value)
    env.close()
    return path


@pytest.mark.parametrize("layout", ["flat", "_store"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_both_layouts_in_every_protocol(pyg, tmp_path, layout, protocol):
    made = [slab(1), slab(2, "Pt")]
    values = {
        k: pyg(fields_of(a, y=float(a.get_potential_energy())), layout, protocol)
        for k, a in enumerate(made)
    }
    dataset = open_dataset(lmdb_of(tmp_path / "a.lmdb", values | {"length": pickle.dumps(2)}))
    assert dataset.energy_kind == "adsorption"
    for ours, theirs in zip(dataset, made, strict=True):
        assert np.array_equal(ours.numbers, theirs.numbers)
        assert ours.positions == pytest.approx(theirs.positions, abs=1e-5)
        assert ours.get_tags().tolist() == theirs.get_tags().tolist()
        assert ours.constraints[0].index.tolist() == theirs.constraints[0].index.tolist()
        assert ours.get_potential_energy() == theirs.get_potential_energy()
        forces = ours.get_forces(apply_constraint=False)
        assert forces == pytest.approx(theirs.calc.results["forces"], abs=1e-6)
        assert (ours.info["sid"], ours.info["fid"]) == (theirs.info["sid"], theirs.info["fid"])
        assert ours.pbc.all()


def test_types_that_old_writers_mixed_up(pyg, tmp_path):
    fields = fields_of(slab(1), y=torch.tensor([1.5]), tags=torch.ones(14), pbc=torch.ones(1, 3))
    fields |= {"sid": torch.tensor([7]), "fid": torch.tensor(3), "note": "kept"}
    fields["atomic_numbers"] = fields["atomic_numbers"].to(torch.uint8)
    fields["fixed"] = fields["fixed"].int()
    (atoms,) = open_dataset(lmdb_of(tmp_path / "a.lmdb", {0: pyg(fields, "flat")}))
    assert atoms.get_potential_energy() == 1.5
    assert atoms.info["sid"] == 7
    assert atoms.info["fid"] == 3
    assert atoms.info["note"] == "kept"
    assert atoms.get_tags().tolist() == [1] * 14


def test_energies_of_oc22_are_totals_and_the_caller_may_know_better(pyg, tmp_path):
    record = pyg(fields_of(slab(1), y=-200.0, oc22=1, nads=1), "flat")
    assert open_dataset(lmdb_of(tmp_path / "a.lmdb", {0: record})).energy_kind == "total"
    record = pyg(fields_of(slab(1), y=-200.0), "flat")
    path = lmdb_of(tmp_path / "b.lmdb", {0: record})
    assert open_dataset(path).energy_kind == "adsorption"
    assert open_dataset(path, stored_energy_kind="total").energy_kind == "total"
    assert open_dataset(path, stored_energy_kind="total")[0].info["energy_kind"] == "total"


def test_reference_energies_by_system_id(pyg, tmp_path):
    record = pyg(fields_of(slab(1), y=-1.0), "flat")
    path = lmdb_of(tmp_path / "b.lmdb", {0: record})
    (tmp_path / "oc20_ref.pkl").write_bytes(pickle.dumps({"random1001": -50.0}))
    for references in ({"random1001": -50.0}, {1001: -50.0}, tmp_path / "oc20_ref.pkl"):
        dataset = open_dataset(path, references=references, energy_kind="total")
        assert dataset[0].get_potential_energy() == -51.0


def test_a_folder_may_mix_layouts_and_files_with_and_without_edges(pyg, tmp_path):
    edges = torch.tensor([[0, 1], [1, 0]])
    more = {"edge_index": edges, "cell_offsets": torch.tensor([[0, 0, 1], [0, 0, -1]])}
    lmdb_of(tmp_path / "1.lmdb", {0: pyg(fields_of(slab(1), **more), "flat")})
    lmdb_of(tmp_path / "2.lmdb", {0: pyg(fields_of(slab(2)), "_store")})
    dataset = open_dataset(tmp_path)
    assert dataset.arrays(0)["edge_shift"].tolist() == [[0, 0, 1], [0, 0, -1]]
    assert "edge_index" not in dataset.arrays(1)
    assert dataset.metadata.num_edges.tolist() == [2, -1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atomic_numbers": None}, "no atomic_numbers"),
        ({"natoms": 13}, "natoms is 13"),
        ({"force": torch.full((14, 3), torch.nan)}, "forces"),
        ({"y": float("nan")}, "an energy of nan"),
        ({"y": "high"}, "energy is str"),
        ({"cell": torch.zeros(1, 3, 3)}, "lattice vector"),
        ({"cell": torch.ones(1, 3, 3)}, "singular"),
        ({"cell": torch.ones(2, 3)}, "cell of shape"),
        ({"pos_relaxed": torch.zeros(3, 3)}, "pos_relaxed"),
        ({"edge_index": torch.tensor([[0], [14]])}, "edge_index"),
        ({"edge_index": torch.zeros(2, 3).long(), "cell_offsets": torch.zeros(2, 3)}, "edge_shift"),
        ({"tags": "none"}, "cannot be decoded"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_records_that_cannot_be_meant_are_named(pyg, tmp_path, change, message):
    fields = fields_of(slab(1), y=0.5) | change
    dataset = open_dataset(lmdb_of(tmp_path / "a.lmdb", {0: pyg(fields, "flat")}))
    with pytest.raises(DatasetError, match=rf"a\.lmdb: record '0': .*{message}"):
        dataset[0]


# ---------------------------------------------------------------- rows of ASE


def row(**more):
    return {
        "numbers": {"__ndarray__": [[2], "int64", [1, 8]]},
        "positions": {"__ndarray__": [[2, 3], "float64", [0, 0, 0, 0, 0, 1.0]]},
        "cell": {"__ndarray__": [[3, 3], "float64", [0.0] * 9]},
        "pbc": {"__ndarray__": [[3], "bool", [0, 0, 0]]},
        **more,
    }


def aselmdb_of(path, rows, **keys):
    values = {k + 1: zlib.compress(json.dumps(r).encode()) for k, r in enumerate(rows)}
    keys = {"nextid": len(rows) + 1} | keys
    return lmdb_of(
        path, values | {k: zlib.compress(json.dumps(v).encode()) for k, v in keys.items()}
    )


def test_a_row_may_hold_nan_where_it_does_no_harm(tmp_path):
    rows = [row(data={"bad": float("nan")}), row(energy=float("nan"))]
    dataset = open_dataset(aselmdb_of(tmp_path / "a.aselmdb", rows))
    assert np.isnan(dataset[0].info["bad"])
    with pytest.raises(DatasetError, match=r"record 2: an energy of nan"):
        dataset[1]


def test_free_data_are_decoded_and_labels_are_those_of_the_calculator(tmp_path):
    data = {
        "array": {"__ndarray__": [[2], "float32", [1, 2]]},
        "z": {"__complex__": [1, 2]},
        "deep": {"list": [1, {"__ndarray__": [[1], "int64", [3]]}]},
        "energy": -2.0,
        "stress": [1, 2, 3, 4, 5, 6],
        "charge": -1,
    }
    pairs = {"config": "x", "charge": 5}
    path = aselmdb_of(tmp_path / "a.aselmdb", [row(energy=1.0, data=data, key_value_pairs=pairs)])
    (atoms,) = open_dataset(path)
    assert atoms.calc.results == {"energy": 1.0}  # as ASE reads the same row
    assert atoms.info["energy"] == -2.0
    assert atoms.info["stress"] == [1, 2, 3, 4, 5, 6]
    assert atoms.info["array"].dtype == np.float32
    assert atoms.info["z"] == 1 + 2j
    assert atoms.info["deep"]["list"][1].tolist() == [3]
    assert atoms.info["charge"] == -1
    assert atoms.info["key_value_pairs"] == pairs
    assert atoms.info["sid"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"numbers": {"__ndarray__": [[2], "int64", [1]]}},
        {"numbers": {"__ndarray__": [[-1], "int64", [1]]}},
        {"numbers": {"__ndarray__": [[1.0], "int64", [1]]}},
        {"numbers": {"__ndarray__": [[2], "O", [1, 2]]}},
        {"numbers": {"__ndarray__": [[2], "int64", "ab"]}},
        {"numbers": "H2"},
        {"positions": {"__ndarray__": [[3, 2], "float64", [0.0] * 6]}},
        {"pbc": {"__ndarray__": [[3], "bool", [1, 1, 1]]}},
        {"constraints": [{"name": "FixAtoms", "kwargs": {"indices": [2]}}]},
        {"constraints": [{"name": "FixAtoms", "kwargs": {"indices": [0.5]}}]},
        {"constraints": [{"name": "FixAtoms", "kwargs": {}}]},
        {"constraints": [{"name": "os.system", "kwargs": {"command": "true"}}]},
        {"constraints": [{"name": "FixBondLengths", "kwargs": {"pairs": [[0, 7]]}}]},
        {"constraints": {"name": "FixAtoms"}},
        {"energy": "low"},
        {"stress": {"__ndarray__": [[4], "float64", [0.0] * 4]}},
        {"momenta": {"__ndarray__": [[1, 3], "float64", [0.0] * 3]}},
        {"data": [1]},
        {"key_value_pairs": [1]},
    ],
    ids=str,
)
def test_rows_that_cannot_be_meant_are_named(tmp_path, change):
    dataset = open_dataset(aselmdb_of(tmp_path / "a.aselmdb", [row(**change)]))
    with pytest.raises(DatasetError, match=r"a\.aselmdb: record 1: "):
        dataset[0]


def test_constraints_by_mask_negative_numbers_and_text():
    for indices in ([-1], {"__ndarray__": [[2], "bool", [0, 1]]}, [1]):
        fix = [{"name": "FixAtoms", "kwargs": {"indices": indices}}]
        for described in (fix, json.dumps(fix)):
            sample = row_to_sample(row(constraints=described))
            assert sample["fixed"].tolist() == [False, True]


@pytest.mark.parametrize("value", [0, -3, 1.5, "9", 10**15, [1]])
def test_a_next_id_that_cannot_be_is_named(tmp_path, value):
    with pytest.raises(DatasetError, match=r"nextid|no visible rows"):
        open_dataset(aselmdb_of(tmp_path / "a.aselmdb", [row()], nextid=value))


def test_the_whole_of_a_folder_is_counted_before_its_counts_are_believed(tmp_path):
    for number in range(2):
        aselmdb_of(tmp_path / f"{number}.aselmdb", [row(), row()])
    np.savez(tmp_path / "metadata.npz", natoms=np.array([2, 2, 2, 2]))
    assert open_dataset(tmp_path).natoms.tolist() == [2] * 4
    assert len(open_dataset(tmp_path / "1.aselmdb")) == 2  # one file of two: not its counts
    np.savez(tmp_path / "metadata.npz", natoms=np.array([2, 2, 2, 3]))
    with pytest.raises(DatasetError, match=r"natoms\[3\] is 3"):
        open_dataset(tmp_path)
    (tmp_path / "metadata.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DatasetError, match="npz"):
        open_dataset(tmp_path)


def test_deep_json_is_an_error(tmp_path):
    deep = b'{"numbers": ' + b"[" * 200_000 + b"]" * 200_000 + b', "x": NaN}'
    path = lmdb_of(tmp_path / "a.aselmdb", {1: zlib.compress(deep), "nextid": zlib.compress(b"2")})
    with pytest.raises(DatasetError, match="not JSON"):
        open_dataset(path)[0]


# ---------------------------------------------------------------- extended XYZ


def frames():
    first, second = slab(1), molecule("H2O")
    second.info = {"name": "water molecule", "flag": True, "v": np.array([1.0, 2.0, 3.0])}
    third = bulk("NaCl", "rocksalt", 5.6)
    third.pbc = (True, True, False)
    third.set_constraint(FixCartesian([1], mask=(True, False, False)))
    first.info = {"count": 3, "text": "a b", "number": 1.5}
    return [first, second, third]


@pytest.mark.parametrize("ending", ["", ".xz", ".gz", ".bz2"])
def test_extended_xyz_reads_as_ase_reads_it(tmp_path, ending):
    plain, path = tmp_path / "a.extxyz", tmp_path / f"b.extxyz{ending}"
    write(plain, frames(), write_results=True)
    pack = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress}[ending]
    path.write_bytes(pack(plain.read_bytes()))
    dataset, theirs = open_dataset(path), read(plain, ":")
    assert len(dataset) == len(theirs) == 3
    for number in (2, 0, 1):
        ours, other = dataset[number], theirs[number]
        assert ours == other
        held = [[c.todict() for c in atoms.constraints] for atoms in (ours, other)]
        held = [[c for c in part if any(c["kwargs"].get("mask", [1]))] for part in held]
        assert held[0] == held[1]
        if other.calc is not None:
            assert ours.get_potential_energy() == other.get_potential_energy()
            assert np.array_equal(
                ours.get_forces(apply_constraint=False), other.get_forces(apply_constraint=False)
            )
        for key, value in other.info.items():
            assert np.array_equal(ours.info[key], value), key


XYZ = """2
{comment}
H 0 0 0 {row}
O 0 0 1 {row}
"""


def xyz(tmp_path, comment, rows="", name="a.extxyz"):
    path = tmp_path / name
    path.write_text(XYZ.format(comment=comment, row=rows))
    return open_dataset(path)


def test_comments_in_the_ways_people_write_them(tmp_path):
    comment = (
        "Properties=species:S:1:pos:R:3 Lattice=\"4 0 0 0 5 0 0 0 6\" alone quoted='a b' "
        'escaped="say \\"x\\"" old={1 2 3} new=[1, 2] nested="_JSON [[1, 2], [3, 4]]" '
        "yes=T no=F i=-3 f=1e-3 word=Txt energy=-1.5"
    )
    (atoms,) = xyz(tmp_path, comment)
    info = atoms.info
    assert atoms.cell.lengths().tolist() == [4, 5, 6]
    assert atoms.pbc.all()
    assert info["alone"] is True
    assert info["quoted"] == "a b"
    assert info["escaped"] == 'say "x"'
    assert info["old"].tolist() == [1, 2, 3]
    assert info["new"].tolist() == [1, 2]
    assert info["nested"] == [[1, 2], [3, 4]]
    assert (info["yes"], info["no"], info["i"], info["f"]) == (True, False, -3, 1e-3)
    assert info["word"] == "Txt"
    assert atoms.get_potential_energy() == -1.5


def test_a_cell_that_is_not_orthogonal_keeps_its_rows(tmp_path):
    (atoms,) = xyz(tmp_path, 'Properties=species:S:1:pos:R:3 Lattice="1 2 3 4 5 6 7 8 10"')
    assert atoms.cell.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 10]]


def test_a_virial_becomes_the_stress(tmp_path):
    comment = (
        'Properties=species:S:1:pos:R:3 Lattice="2 0 0 0 2 0 0 0 2" virial="8 0 0 0 16 0 0 0 24"'
    )
    (atoms,) = xyz(tmp_path, comment)
    assert atoms.calc.results["stress"] == pytest.approx([-1, -2, -3, 0, 0, 0])


@pytest.mark.parametrize(
    ("comment", "rows", "message"),
    [
        ("Properties=species:S:1:pos:R:3:x:R:2", "7", "5 words for atom 0 with 6 columns"),
        ("Properties=species:S:1:pos:R", "", "damaged"),
        ("Properties=species:S:1:pos:R:3:x:L:1", "maybe", "neither T nor F"),
        ("Properties=species:S:1:pos:R:3:x:I:1", "1.5", "column x"),
        ("Properties=species:S:1:pos:R:3:forces:R:3", "1 2 nan", "forces"),
        ("Properties=species:S:1:vel:R:3", "", "positions"),
        ('Properties=species:S:1:pos:R:3 Lattice="1 2 3"', "", "nine numbers"),
        ("Properties=species:S:1:pos:R:3 energy=low", "", "energy"),
        ('Properties=species:S:1:pos:R:3 broken="never closed', "", "comment line"),
        ('Properties=species:S:1:pos:R:3 pbc="T F"', "", "pbc"),
        ("Properties=pos:R:3:species:S:1", "", "cannot|could|symbol"),
    ],
)
def test_frames_that_cannot_be_meant_are_named(tmp_path, comment, rows, message):
    dataset = xyz(tmp_path, comment, rows)
    with pytest.raises(DatasetError, match=rf"a\.extxyz: record 0: .*({message})"):
        dataset[0]


def test_plain_xyz_and_unknown_symbols(tmp_path):
    (atoms,) = xyz(tmp_path, "water without anything", name="a.xyz")
    assert atoms.get_chemical_symbols() == ["H", "O"]
    assert not atoms.pbc.any()
    (tmp_path / "b.xyz").write_text("1\n\nXx 0 0 0\n")
    with pytest.raises(DatasetError, match="'Xx' is no chemical symbol"):
        open_dataset(tmp_path / "b.xyz")[0]


def test_raw_pairs_in_number_order_with_references(tmp_path):
    for number in (0, 2, 10):
        made = [slab(number), slab(number + 1)]
        for atoms in made:
            atoms.info = {}
        write(tmp_path / f"{number}.extxyz", made)
        lines = f"random{number},frame5,-2.5\nrandom99,frame-1,1e1\n"
        with lzma.open(tmp_path / f"{number}.txt.xz", "wt") as stream:
            stream.write(lines)
    dataset = open_dataset(tmp_path)
    assert [atoms.info["sid"] for atoms in dataset] == [0, 99, 2, 99, 10, 99]
    assert dataset[1].info["fid"] == -1
    assert dataset[0].info["reference_energy"] == -2.5
    difference = (
        dataset[1].get_potential_energy()
        - dataset.with_energy("adsorption")[1].get_potential_energy()
    )
    assert difference == pytest.approx(10.0)


@pytest.mark.parametrize("name", ["a.extxyz", "a.aselmdb", "a.traj"])
def test_a_file_that_says_what_its_energies_are_is_believed(tmp_path, name):
    atoms = slab(1)
    assert atoms.info["energy_kind"] == "adsorption"
    if name == "a.traj":
        write(tmp_path / name, atoms)
    else:
        write_dataset(tmp_path / name, [atoms])
    dataset = open_dataset(tmp_path / name)
    assert dataset.energy_kind == "adsorption"
    found = dataset.with_energy("total")[0].get_potential_energy()
    assert found == pytest.approx(atoms.get_potential_energy() + atoms.info["reference_energy"])


def test_somebodys_notes_beside_a_file_are_no_list_of_frames(tmp_path):
    write(tmp_path / "a.extxyz", [slab(1)])
    (tmp_path / "a.txt").write_text("measured on a Tuesday\n")
    assert len(open_dataset(tmp_path / "a.extxyz")) == 1


def test_a_large_file_is_scanned_in_pieces(tmp_path, monkeypatch):
    write(tmp_path / "a.extxyz", [slab(k) for k in range(12)])
    whole = open_dataset(tmp_path / "a.extxyz").metadata.energy
    monkeypatch.setattr("ase_nnp.datasets.formats.framefile._CHUNK", 700)
    monkeypatch.setattr("ase_nnp.datasets.formats.framefile._HELD", 100)
    with lzma.open(tmp_path / "b.extxyz.xz", "wb") as stream:
        stream.write((tmp_path / "a.extxyz").read_bytes())
    for name in ("a.extxyz", "b.extxyz.xz"):
        dataset = open_dataset(tmp_path / name)
        found = [dataset[k].get_potential_energy() for k in (3, 4, 0, 11, 5)]
        assert found == whole[[3, 4, 0, 11, 5]].tolist()


def test_few_inflated_files_are_held_at_a_time(tmp_path):
    for number in range(6):
        with lzma.open(tmp_path / f"{number}.extxyz.xz", "wb") as stream:
            write(tmp_path / "one.tmp", slab(number), format="extxyz")
            stream.write((tmp_path / "one.tmp").read_bytes())
        (tmp_path / f"{number}.txt").write_text(f"random{number},frame0,1.0\n")
    dataset = open_dataset(tmp_path)
    for _ in range(2):
        assert [atoms.info["sid"] for atoms in dataset] == list(range(6))
    assert sum(shard._file._held is not None for shard in dataset.shards) == 2
    assert sum(shard._lines._lines is not None for shard in dataset.shards) == 4


def test_a_file_that_ends_in_the_middle(tmp_path):
    path = tmp_path / "a.extxyz"
    write(path, [slab(1), slab(2)])
    path.write_bytes(path.read_bytes()[:-200])
    dataset = open_dataset(path)
    assert len(dataset[0]) == 14
    with pytest.raises(DatasetError, match="cut off"):
        dataset[1]
    with pytest.warns(DatasetWarning, match="cut off"):
        assert len(open_dataset(path, strict=False)) == 1


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
    labelled = entries.ComputedStructureEntry(made[0], -7.5, entry_id="mp-1")
    forces = [[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]]
    forms = {
        "one.json": made[1].as_dict(),
        "list.json": [s.as_dict() for s in made],
        "dict.json": {"a": made[0].as_dict(), "b": {"structure": made[1].as_dict()}},
        "molecule.json": water.as_dict(),
        "entry.json": [labelled.as_dict()],
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
    (found,) = open_dataset(tmp_path / "molecule.json")
    assert found.positions == pytest.approx(molecule("H2O").positions)
    assert not found.pbc.any()
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
