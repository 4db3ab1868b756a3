"""Integers beyond 64 bits stay integers, in every format that can hold one."""

from __future__ import annotations

import json

import pytest
from ase.build import molecule
from ase.db import connect
from ase.io import read

from ase_nnp.datasets import convert, open_dataset, write_dataset
from ase_nnp.datasets.formats.rows import parse_json
from ase_nnp.errors import DatasetError

ENDINGS = ("aselmdb", "lmdb", "extxyz", "h5")
NUMBERS = {
    **{"a": 2**70, "b": -(2**64) - 1, "c": 2**63, "d": -(2**63), "e": 10**19 + 1},
    **{"list": [1, 2**80 + 1], "nested": {"x": [2**64, 1.5]}, "charge": 2**70, "energy": 2**65},
    **{"float": 1e20, "large": 1e300, "beyond floats": -(10**400)},
}


def assert_exact(info):
    for name, value in NUMBERS.items():
        assert info[name] == value, name
        assert type(info[name]) is type(value), name


@pytest.mark.parametrize("source", ENDINGS)
def test_long_integers_survive_every_pair_of_formats(tmp_path, source):
    water = molecule("H2O")
    water.info = dict(NUMBERS)
    write_dataset(tmp_path / f"a.{source}", [water])
    assert_exact(open_dataset(tmp_path / f"a.{source}")[0].info)
    for target in ENDINGS:
        convert(tmp_path / f"a.{source}", tmp_path / f"to.{target}", overwrite=True)
        assert_exact(open_dataset(tmp_path / f"to.{target}")[0].info)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_integer_that_no_reader_takes_is_refused_and_named(tmp_path, ending):
    water = molecule("H2O")
    water.info = {"list": [1, 10**5000]}
    with pytest.raises(DatasetError, match=r"structure 0.*is an integer of 16610 bits"):
        write_dataset(tmp_path / f"a.{ending}", [water])


def test_a_number_beyond_the_largest_float_is_no_infinity():
    with pytest.raises(DatasetError, match="1e999 is beyond the largest float"):
        parse_json(b'{"a": 1e999}')


def test_long_integers_in_a_comment_line(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(
        "1\nProperties=species:S:1:pos:R:3 id=12345678901234567890 n=4611686018427387905 "
        'm="1 99999999999999999999"\nH 0 0 0\n'
    )
    info = open_dataset(path)[0].info
    assert info["id"] == 12345678901234567890
    assert info["n"] == 4611686018427387905
    assert info["m"] == [1, 99999999999999999999]


def test_what_is_written_with_long_integers_is_read_by_ase(tmp_path):
    water = molecule("H2O")
    water.info = {"a": 2**70, "b": 7}
    write_dataset(tmp_path / "a.extxyz", [water])
    assert read(tmp_path / "a.extxyz").info["b"] == 7


@pytest.mark.parametrize("name", ["a.db", "a.json"])
def test_rows_of_ase_with_long_integers(tmp_path, name):
    with connect(tmp_path / name, use_lock_file=False) as database:
        database.write(molecule("H2O"), data={"id": 2**70, "list": [2**70, 1]})
    info = open_dataset(tmp_path / name)[0].info
    assert info["id"] == 2**70
    assert info["list"] == [2**70, 1]


@pytest.mark.parametrize(
    "value",
    [2**64, [0.5, 2**64], [2**64, 0.5], {"a": {"b": [[1, 2], [3, -(2**70)]]}}, ["x", 2**90]],
)
def test_json_keeps_long_integers_wherever_they_stand(value):
    assert parse_json(json.dumps(value).encode()) == value
    assert repr(parse_json(json.dumps(value).encode())) == repr(value)
