"""Conversion: killed at any moment and continued, nothing is lost and nothing doubled."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time

import lmdb
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp.datasets import convert, open_dataset, write_dataset
from ase_nnp.errors import DatasetError

from .conftest import assert_same_atoms, slab

COUNT = 600
CHUNK = 4
SCRIPT = """
import sys
from ase_nnp.datasets import convert
if __name__ == "__main__":
    source, target, workers, chunk = sys.argv[1:]
    import lmdb, h5py, ase.io
    print("ready", flush=True)
    convert(source, target, workers=int(workers), chunk_size=int(chunk))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "source.lmdb"
    few = [slab(seed, "Cu", (1, 1, 2)) for seed in range(20)]
    write_dataset(path, stream(few))
    return path


def stream(few):
    for number in range(COUNT):
        atoms = few[number % 20].copy()
        atoms.info["number"] = number
        atoms.positions[0, 0] = number * 1e-3
        atoms.calc = SinglePointCalculator(atoms, **few[number % 20].calc.results)
        yield atoms


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "run.py"
    path.write_text(SCRIPT)
    return path


def start(script, source, target, workers=1):
    process = subprocess.Popen(
        [sys.executable, script, source, target, str(workers), str(CHUNK)],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    return process


def records(path):
    """Return what a file holds: LMDB entries, the text, or the samples."""
    if path.suffix in (".aselmdb", ".lmdb"):
        with (
            lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env,
            env.begin() as transaction,
        ):
            return dict(transaction.cursor())
    if path.suffix == ".h5":
        import h5py

        out = {}
        with h5py.File(path) as root:
            root.visititems(
                lambda name, item: (
                    out.update({name: str(item[()])}) if hasattr(item, "shape") else None
                )
            )
        return out
    return path.read_bytes()


def kill_and_continue(script, source, target, kills, workers=1):
    """Convert under SIGKILL at random moments; return how many kills hit unfinished work."""
    whole = math.inf
    for _ in range(2):  # the first run also compiles what it imports
        target.unlink(missing_ok=True)
        began = time.perf_counter()
        start(script, source, target, workers).wait()
        whole = min(whole, time.perf_counter() - began)
    expected = records(target)
    target.unlink()
    moments = random.Random(len(str(target)))
    hits = 0
    for _ in range(4 * kills):
        if hits == kills:
            break
        process = start(script, source, target, workers)
        try:
            process.wait(timeout=moments.uniform(0, whole / (kills + 1)))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            hits += not target.exists()
        target.unlink(missing_ok=True)  # it was quicker than the kill: once more
    if not target.exists():
        assert start(script, source, target, workers).wait() == 0
    assert records(target) == expected
    leftovers = {file.name for file in target.parent.iterdir()} - {target.name}
    assert leftovers <= {f".{target.name}.lock"}
    return hits


@pytest.mark.slow
def test_a_killed_conversion_continues_with_nothing_lost_or_doubled(tmp_path, source, script):
    target = tmp_path / "out.lmdb"
    assert kill_and_continue(script, source, target, 2) > 0
    back = open_dataset(target)
    assert [atoms.info["number"] for atoms in back] == list(range(COUNT))
    for index in (0, COUNT // 2, COUNT - 1):
        assert_same_atoms(back[index], open_dataset(source)[index])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("ending", ["aselmdb", "lmdb", "extxyz", "extxyz.xz", "h5"])
def test_ten_kills_at_random_moments(tmp_path, source, script, ending, workers):
    hits = kill_and_continue(script, source, tmp_path / f"out.{ending}", 10, workers)
    assert hits >= 3


@pytest.mark.parametrize("ending", ["aselmdb", "lmdb", "extxyz", "extxyz.xz", "h5"])
def test_an_interrupted_conversion_continues_where_it_stopped(tmp_path, source, ending):
    class StopHere(Exception):
        pass

    few = open_dataset(source)[:64]

    def stop(done, total):
        assert total == 64
        if done >= 3 * 8:
            raise StopHere

    target = tmp_path / f"out.{ending}"
    with pytest.raises(StopHere):
        convert(few, target, chunk_size=8, progress=stop)
    assert not target.exists()
    result = convert(few, target, chunk_size=8)
    assert (result.resumed_at, result.written) == (24, 64)
    convert(few, tmp_path / f"once.{ending}", chunk_size=8)
    assert records(target) == records(tmp_path / f"once.{ending}")


def test_two_processes_give_the_file_of_one(tmp_path, source):
    convert(source, tmp_path / "one.aselmdb", chunk_size=100)
    convert(source, tmp_path / "two.aselmdb", chunk_size=100, workers=2)
    assert records(tmp_path / "one.aselmdb") == records(tmp_path / "two.aselmdb")


class Broken:
    """A sequence with two records that cannot be read."""

    def __init__(self, structures):
        self.structures = structures

    def __len__(self):
        return len(self.structures)

    def __getitem__(self, index):
        if index in (1, 4):
            raise DatasetError("damaged", path="x.lmdb", key=index)
        return self.structures[index]


def test_a_broken_record_stops_the_conversion_or_is_listed(tmp_path, slabs):
    with pytest.raises(DatasetError, match=r"x\.lmdb: record 1: damaged"):
        convert(Broken(slabs), tmp_path / "a.lmdb")
    result = convert(Broken(slabs), tmp_path / "b.lmdb", skip_broken=True, chunk_size=2)
    assert (result.total, result.written) == (6, 4)
    assert [entry["index"] for entry in result.skipped] == [1, 4]
    assert [a.info["sid"] for a in open_dataset(tmp_path / "b.lmdb")] == [1000, 1002, 1003, 1005]


def test_the_rest_of_another_conversion_is_not_mixed_in(tmp_path, source, slabs):
    def stop(done, total):
        raise KeyboardInterrupt

    target = tmp_path / "out.lmdb"
    with pytest.raises(KeyboardInterrupt):
        convert(source, target, chunk_size=25, progress=stop)
    with pytest.raises(DatasetError, match="another source"):
        convert(slabs, target, chunk_size=25)
    assert convert(slabs, target, resume=False).written == len(slabs)


def test_two_conversions_to_one_file_do_not_meet(tmp_path, slabs):
    target = tmp_path / "out.lmdb"

    def meanwhile(done, total):
        with pytest.raises(DatasetError, match="another process"):
            convert(slabs, target)

    assert convert(slabs, target, progress=meanwhile).written == len(slabs)


def test_reading_goes_on_while_another_shard_grows(tmp_path, slabs):
    folder = tmp_path / "shards"
    folder.mkdir()
    write_dataset(folder / "a.lmdb", slabs)
    reading = open_dataset(folder)
    seen = []

    def look(done, total):
        seen.append(reading[done % len(reading)].get_potential_energy())

    convert(slabs * 20, folder / "b.lmdb", chunk_size=10, progress=look)
    assert len(seen) == 12
    assert np.isfinite(seen).all()
    assert len(reading) == len(slabs)
    assert len(open_dataset(folder)) == 21 * len(slabs)


def test_reading_goes_on_while_a_file_is_appended_to(tmp_path, slabs):
    from ase_nnp.datasets.sample import from_atoms
    from ase_nnp.datasets.writing.encode import ase_row

    for name in "ab":
        write_dataset(tmp_path / f"{name}.aselmdb", slabs)
    reading = open_dataset(tmp_path)
    before = [atoms.get_potential_energy() for atoms in reading]
    with lmdb.open(str(tmp_path / "b.aselmdb"), subdir=False, lock=False) as env:
        for number in range(50):
            with env.begin(write=True) as transaction:
                row = ase_row(from_atoms(slabs[number % 6]))
                transaction.put(str(7 + number).encode(), row)
            index = number % 12
            assert reading[index].get_potential_energy() == before[index]
    assert [atoms.get_potential_energy() for atoms in reading] == before


@pytest.mark.parametrize("ending", [None, "hdf5"])
def test_a_folder_of_shards_continues_and_is_complete(tmp_path, source, ending):
    few = open_dataset(source)[:44]

    def stop(done, total):
        if done > 28:
            raise KeyboardInterrupt

    folder = tmp_path / "out"
    options = {"chunk_size": 4, "shard_size": 16, "format": ending}
    with pytest.raises(KeyboardInterrupt):
        convert(few, folder, progress=stop, **options)
    result = convert(few, folder, **options)
    assert (result.resumed_at, result.written) == (32, 44)
    suffix = "h5" if ending else "aselmdb"
    names = [f"data.{k:04d}.{suffix}" for k in range(3)]
    assert sorted(file.name for file in folder.iterdir()) == [*names, "metadata.npz"]
    back = open_dataset(folder)
    assert [atoms.info["number"] for atoms in back] == list(range(44))
    assert back.natoms.tolist() == [len(atoms) for atoms in back]
    with pytest.raises(DatasetError, match="not empty"):
        convert(few, folder, **options)


def test_a_source_that_changed_is_not_continued(tmp_path, slabs):
    def stop(done, total):
        raise KeyboardInterrupt

    source, target = tmp_path / "a.lmdb", tmp_path / "b.lmdb"
    write_dataset(source, slabs)
    with pytest.raises(KeyboardInterrupt):
        convert(source, target, chunk_size=2, progress=stop)
    write_dataset(source, slabs[::-1], overwrite=True)
    with pytest.raises(DatasetError, match="another source"):
        convert(source, target, chunk_size=2)


def test_a_folder_that_takes_no_lock_is_named_by_the_target(tmp_path, folder, monkeypatch):
    def denied(path, wait):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sys.modules[convert.__module__], "take_lock", denied)
    with pytest.raises(DatasetError, match=r"out\.lmdb: cannot be written: Permission denied"):
        convert(folder, tmp_path / "out.lmdb")
