"""Writing: everything on an Atoms survives, and a file is there whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from ase_nnp.datasets import open_dataset, write_dataset
from ase_nnp.errors import DatasetError

from .conftest import assert_same_atoms, rich

ENDINGS = ["aselmdb", "lmdb", "extxyz", "extxyz.xz", "h5"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_everything_on_the_atoms_survives_a_round_trip(tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    assert write_dataset(path, iter(rich())) == 3
    back = open_dataset(path)
    assert len(back) == 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    for ours, theirs in zip(back, rich(), strict=True):
        if ours.calc is None or "energy" not in ours.calc.results:
            ours.info.pop("energy_kind", None)
        if "sid" not in theirs.info:
            ours.info.pop("sid", None)
        assert_same_atoms(ours, theirs)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_kind_of_energy_is_known_of_the_whole_file(tmp_path, slabs, ending):
    path = tmp_path / f"out.{ending}"
    write_dataset(path, slabs)
    back = open_dataset(path)
    assert back.energy_kind == "adsorption"
    total = back.with_energy("total")[2].get_potential_energy()
    stored = slabs[2].calc.results["energy"]
    assert total == pytest.approx(stored + slabs[2].info["reference_energy"])


def test_an_existing_file_is_not_replaced_unasked(tmp_path, slabs):
    path = tmp_path / "out.lmdb"
    write_dataset(path, slabs)
    with pytest.raises(DatasetError, match="exists already"):
        write_dataset(path, slabs)
    write_dataset(path, slabs[:2], overwrite=True)
    assert len(open_dataset(path)) == 2


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_leaves_nothing_behind(tmp_path, slabs, ending):
    def broken():
        yield from slabs
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_dataset(tmp_path / f"out.{ending}", broken(), chunk_size=2)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_stored_is_named(tmp_path, slabs):
    slabs[4].info["thing"] = object()
    with pytest.raises(DatasetError, match=r"structure 4: .*thing.* is a object"):
        write_dataset(tmp_path / "out.aselmdb", slabs)


def test_no_structure_and_no_known_ending_are_errors(tmp_path, slabs):
    with pytest.raises(DatasetError, match="no structure"):
        write_dataset(tmp_path / "out.lmdb", [])
    with pytest.raises(DatasetError, match=r"\.parquet.* choose from aselmdb"):
        write_dataset(tmp_path / "out.parquet", slabs)
    with pytest.raises(DatasetError, match="does not exist"):
        write_dataset(tmp_path / "none" / "out.lmdb", slabs)


@pytest.mark.parametrize("ending", ENDINGS)
def test_writing_twice_gives_the_same_records(tmp_path, slabs, ending):
    for name in "ab":
        write_dataset(tmp_path / f"{name}.{ending}", slabs)
    if ending == "h5":  # the container holds its own addresses; its records are compared
        for one, two in zip(*(open_dataset(tmp_path / f"{n}.h5") for n in "ab"), strict=True):
            assert_same_atoms(one, two)
    else:
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_a_foreign_reader_of_extended_xyz_sees_labels_tags_and_fixed_atoms(tmp_path, slabs):
    from ase.io import read

    write_dataset(tmp_path / "out.extxyz", slabs)
    for ours, theirs in zip(read(tmp_path / "out.extxyz", ":"), slabs, strict=True):
        np.testing.assert_array_equal(ours.positions, theirs.positions)
        np.testing.assert_array_equal(ours.calc.results["forces"], theirs.calc.results["forces"])
        np.testing.assert_array_equal(ours.get_tags(), theirs.get_tags())
        np.testing.assert_array_equal(ours.constraints[0].index, theirs.constraints[0].index)


def test_large_and_strange_numbers_survive(tmp_path):
    atoms = Atoms("H", [[1e-300, -0.0, 1 / 3]], info={"big": 2**70, "nan": float("nan")})
    for ending in ENDINGS:
        write_dataset(tmp_path / f"x.{ending}", [atoms])
        back = open_dataset(tmp_path / f"x.{ending}")[0]
        assert back.positions.tolist() == atoms.positions.tolist()
        assert back.info["big"] == 2**70
        assert np.isnan(back.info["nan"])


@pytest.mark.parametrize("ending", ["aselmdb", "lmdb"])
def test_an_lmdb_file_grows_as_it_must(tmp_path, slabs, ending, monkeypatch):
    from ase_nnp.datasets.writing import record_writers

    monkeypatch.setattr(record_writers, "_MAP", 64 * 1024)
    write_dataset(tmp_path / f"a.{ending}", slabs * 40, chunk_size=30)
    back = open_dataset(tmp_path / f"a.{ending}")
    assert len(back) == 240
    assert_same_atoms(back[239], slabs[5])


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "value",
    ["\udce9", ["\udce9"], {"\udce9": 1}, np.ones(2, np.longdouble), np.array([b"\xff"]), b"a"],
    ids=ascii,
)
def test_what_cannot_be_stored_is_named_in_every_format(tmp_path, ending, value):
    atoms = Atoms("H")
    atoms.info = {"good": 1, "bad": value}
    with pytest.raises(DatasetError, match=r"structure 1: info\['bad'\]"):
        write_dataset(tmp_path / f"out.{ending}", [Atoms("H"), atoms])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_arrays_of_unusual_making_keep_shape_and_values(tmp_path, ending):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]])
    atoms.info = {
        "other bytes": np.arange(3, dtype=">f8"),
        "matrix": np.asmatrix(np.eye(2)),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "number": np.array(3.0),
        "config_type": "a\0b",
    }
    atoms.set_array("swapped", np.arange(2, dtype=">i4"))
    write_dataset(tmp_path / f"out.{ending}", [atoms])
    back = open_dataset(tmp_path / f"out.{ending}")[0]
    for name, value in atoms.info.items():
        np.testing.assert_array_equal(back.info[name], value)
        assert np.shape(back.info[name]) == np.shape(value)
    assert back.arrays["swapped"].tolist() == [0, 1]
