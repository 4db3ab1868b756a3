"""A folder of shards that is written again holds the new records alone."""

from __future__ import annotations

import pytest

from ase_nnp.datasets import convert, open_dataset
from ase_nnp.errors import DatasetError

from .conftest import slab

FORMATS = ("aselmdb", "flat-lmdb", "extxyz", "hdf5")


def structures(count, metal="Cu"):
    few = [slab(seed, metal, (1, 1, 2)) for seed in range(count)]
    for number, atoms in enumerate(few):
        atoms.info["number"] = number
    return few


def numbers(folder):
    return [atoms.info["number"] for atoms in open_dataset(folder)]


def interrupted(source, folder, after, **options):
    def stop(done, total):
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, folder, progress=stop, **options)


@pytest.mark.parametrize("format", FORMATS)
def test_fewer_shards_leave_none_of_the_last_dataset(tmp_path, format):
    folder = tmp_path / "out"
    convert(structures(9), folder, shard_size=2, format=format)
    (folder / "README").write_text("mine")
    result = convert(structures(3, "Ni"), folder, shard_size=2, format=format, overwrite=True)
    assert (result.written, len(open_dataset(folder))) == (3, 3)
    assert {atoms.get_chemical_symbols()[0] for atoms in open_dataset(folder)} == {"Ni"}
    assert (folder / "README").read_text() == "mine"


def test_a_conversion_that_fails_removes_no_other_file(tmp_path):
    folder, few = tmp_path / "out", structures(9)
    convert(few, folder, shard_size=2)
    interrupted(few[:3], folder, 2, shard_size=2, chunk_size=1, overwrite=True)
    assert (folder / "data.0004.aselmdb").exists()
    assert convert(few[:3], folder, shard_size=2, chunk_size=1).written == 3
    assert numbers(folder) == [0, 1, 2]


def test_another_format_leaves_no_second_kind_of_file(tmp_path):
    folder = tmp_path / "out"
    convert(structures(5), folder, shard_size=2, format="hdf5")
    convert(structures(5), folder, shard_size=2, overwrite=True)
    assert numbers(folder) == list(range(5))


@pytest.mark.parametrize("format", FORMATS)
def test_a_restart_with_larger_shards_doubles_nothing(tmp_path, format):
    few, folder = structures(9), tmp_path / "out"
    interrupted(few, folder, 7, shard_size=2, chunk_size=1, format=format)
    convert(few, folder, shard_size=5, format=format, resume=False)
    assert numbers(folder) == list(range(9))
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]


def test_a_finished_shard_that_is_gone_is_no_finished_shard(tmp_path):
    few, folder = structures(6), tmp_path / "out"
    interrupted(few, folder, 5, shard_size=2, chunk_size=1)
    (folder / "data.0000.aselmdb").unlink()
    with pytest.raises(DatasetError, match=r"data.0000.aselmdb.*--restart"):
        convert(few, folder, shard_size=2, chunk_size=1)
    convert(few, folder, shard_size=2, chunk_size=1, resume=False)
    assert numbers(folder) == list(range(6))


def test_a_source_is_not_replaced_by_its_own_conversion(tmp_path):
    folder = tmp_path / "out"
    convert(structures(5), folder, shard_size=2)
    with pytest.raises(DatasetError, match="the source lies in this folder"):
        convert(folder, folder, shard_size=3, overwrite=True)
    assert numbers(folder) == list(range(5))
