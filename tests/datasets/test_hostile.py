"""Damaged and malicious files do what the reference list says: no crash, no code, no silence."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from ase_nnp.datasets import DatasetWarning, load_mapping, open_dataset
from ase_nnp.errors import DatasetError, UnsafeFileError

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "hostile"
_LIST = REFERENCE / "expected.json"
CASES = json.loads(_LIST.read_text()) if _LIST.is_file() else {}

#: Cases where opening itself raises; all others open.
REFUSED = {
    "truncated_40pct.lmdb",
    "truncated_90pct.lmdb",
    "truncated_header.lmdb",
    "garbage_meta_pages.lmdb",
    "truncated_50pct.aselmdb",
    "zero_length.lmdb",
    "zero_length.aselmdb",
    "not_an_lmdb.aselmdb",
    "empty_env.lmdb",
    "length_negative.lmdb",
    "pickle_exec_length.lmdb",
    "oc20_data_mapping_exec.pkl",
    "npz_exec/",
    "folder_metadata_wrong_length/",
    "folder_metadata_float/",
    "folder_metadata_wrong_natoms/",
    "folder_empty/",
    "folder_one_bad_shard/",
    "readonly_dir/",  # two kinds of dataset in one folder
}
#: What reads and what does not, where the list has no numbers for it.
GOOD = {
    "keys_start_at_1.lmdb": ([1, 2], [0]),
    "none_value.lmdb": ([0, 2], [1]),
    "empty_value.lmdb": ([0, 2], [1]),
    "pickle_unknown_class.lmdb": ([0, 2], [1]),
    "dup_positions.lmdb": ([0], []),
    "deleted_ids_wrong.aselmdb": ([0, 1, 2], []),
    "length_float.lmdb": ([0, 1, 2], []),
    "subdir_layout/": ([0, 1], []),
    "raw_counts_differ/": ([], range(19)),
    "raw_truncated_frame/": (range(18), [18, 19]),
    "raw_truncated_xz/": (range(9), range(9, 20)),
    "raw_bad_line/": ([0, 2, 19], [1]),
    "raw_missing_txt/": (range(5), []),
}
WARNS = {"length_too_small.lmdb"}


def numbers(case, expect, length):
    """Indices that must read, and indices that must raise."""
    if case in GOOD:
        return GOOD[case]
    if "bad_index" in expect:
        bad = [expect["bad_index"]]
    elif "payload_index" in expect:
        bad = [expect["payload_index"]]
    elif "bad_row" in expect:
        bad = [expect["bad_row"] - 1]
    else:
        bad = range(expect.get("entries", expect.get("rows", expect.get("n", 0))), length)
    good = expect.get("good", [k for k in range(length) if k not in bad])
    return good, bad


def snapshot(folder):
    return sorted((path.name, path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.fixture
def hostile(shared):
    return shared / "datasets" / "hostile"


def test_the_list_is_complete():
    assert not CASES or len(CASES) == 74


@pytest.mark.parametrize("case", list(CASES))
def test_hostile_case(hostile, case):
    expect = CASES[case] if isinstance(CASES[case], dict) else {}
    before = snapshot(hostile)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if case in REFUSED:
            with pytest.raises(DatasetError, match=case.rstrip("/").split(".")[0]):
                open_dataset(hostile / case)
        else:
            check_records(case, expect, open_dataset(hostile / case))
    assert bool([w for w in caught if w.category is DatasetWarning]) == (case in WARNS)
    assert not list(Path(tempfile.gettempdir()).glob("ASE_NNP_MARKER_*"))
    assert snapshot(hostile) == before


def check_records(case, expect, dataset):
    wanted = expect.get("entries", expect.get("n"))
    if wanted is not None and case != "length_too_big.lmdb":
        assert len(dataset) == wanted
    good, bad = numbers(case, expect, len(dataset))
    for number in good:
        atoms, arrays = dataset[number], dataset.arrays(number)
        assert len(atoms) > 0
        assert np.isfinite(atoms.positions).all()
        assert len(arrays["atomic_numbers"]) == len(atoms)
    for number in bad:
        path, key = dataset.locate(number)
        with pytest.raises(DatasetError) as caught:
            dataset[number]
        assert path.name in str(caught.value) or path.stem in str(caught.value)
        assert str(key) in str(caught.value) or "line" in str(caught.value)
        with pytest.raises(DatasetError):
            dataset.arrays(number)
    if "payload_index" in expect or "payload_key" in expect:
        with pytest.raises(UnsafeFileError):
            dataset[expect["payload_index"]]


def test_the_mapping_payload_is_refused_by_name(hostile):
    with pytest.raises(UnsafeFileError, match="eval"):
        load_mapping(hostile / "oc20_data_mapping_exec.pkl")


def test_counts_that_are_wrong_can_be_left_out(hostile):
    for case in ("folder_metadata_wrong_natoms", "folder_metadata_float", "npz_exec"):
        dataset = open_dataset(hostile / case, metadata=False)
        assert dataset.natoms.tolist() == [len(atoms) for atoms in dataset]


def test_a_damaged_download_can_be_read_as_far_as_it_goes(hostile):
    for case, count in (("raw_truncated_frame", 18), ("raw_truncated_xz", 9)):
        with pytest.warns(DatasetWarning, match=r"0\.extxyz"):
            dataset = open_dataset(hostile / case, strict=False)
        assert len(dataset) == count
        assert all("reference_energy" in atoms.info for atoms in dataset)


def test_with_counts_that_differ_nothing_is_guessed(hostile):
    with pytest.warns(DatasetWarning, match="left out"):
        dataset = open_dataset(hostile / "raw_counts_differ", strict=False)
    assert len(dataset) == 20
    assert all("reference_energy" not in atoms.info for atoms in dataset)


def test_a_file_that_is_not_writable_in_a_folder_that_is_not_writable(hostile, tmp_path):
    folder = tmp_path / "readonly"
    shutil.copytree(hostile / "readonly_dir", folder)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        for name in ("data.lmdb", "data.aselmdb"):
            dataset = open_dataset(folder / name)
            assert all(len(atoms) for atoms in dataset)
            assert len(dataset.metadata) == len(dataset)
        assert sorted(path.name for path in folder.iterdir()) == ["data.aselmdb", "data.lmdb"]
    finally:
        folder.chmod(stat.S_IRWXU)


def test_bombs_stay_within_bounded_memory(hostile):
    """In a process of its own whose address space ends 300 MB above what importing takes."""
    code = """
import resource, sys, numpy
import orjson, ase.constraints, ase.calculators.singlepoint, zlib, lmdb
from ase_nnp.datasets import open_dataset
from ase_nnp.errors import DatasetError
open_dataset(sys.argv[1] + '/subdir_layout')[0]
now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 300_000_000,) * 2)
for name in ('zip_bomb.aselmdb', 'row_ndarray_shape_bomb.aselmdb',
             'value_tensor_out_of_bounds.lmdb'):
    dataset = open_dataset(sys.argv[1] + '/' + name)
    assert len(dataset[0])
    try:
        dataset[1]
    except DatasetError as error:
        assert not isinstance(error.__cause__, MemoryError), error
    else:
        raise SystemExit(name + ' was read')
"""
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs /proc")
    subprocess.run([sys.executable, "-c", code, str(hostile)], check=True)
    assert resource.getrlimit(resource.RLIMIT_AS)


def test_a_file_truncated_while_it_is_open_is_an_error(shared, tmp_path):
    path = tmp_path / "data.lmdb"
    shutil.copy(shared / "datasets" / "oc20_s2ef_new" / "data.0000.lmdb", path)
    path.chmod(0o644)
    dataset = open_dataset(path)
    assert len(dataset[5]) > 0
    os.truncate(path, 9000)
    with pytest.raises(DatasetError):
        dataset[6]
