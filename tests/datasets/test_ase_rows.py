"""Rows of ASE databases in LMDB files: what they may hold, and what cannot be meant."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from ase_nnp.datasets import (
    open_dataset,
)
from ase_nnp.datasets.formats.rows import row_to_sample
from ase_nnp.errors import DatasetError

from .conftest import lmdb_of


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
