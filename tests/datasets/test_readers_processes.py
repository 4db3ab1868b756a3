"""Datasets in workers, threads and beside writers; what an open one holds; opening."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import ase.db
import lmdb
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from dataset_workers import read_energy

from ase_nnp.datasets import AtomsDataset, Shard, open_dataset, write_dataset
from ase_nnp.datasets.sample import from_atoms
from ase_nnp.errors import AseNnpError, DatasetError, UnknownModelError
from ase_nnp.files.lmdb import LmdbFile

from .conftest import energies

# ---------------------------------------------------------------- processes


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_every_kind_read_what_we_read(dataset, method):
    wanted = energies(dataset)  # the files are open here
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        answers = pool.starmap(read_energy, [(dataset, k) for k in range(len(dataset))])
    assert [energy for energy, _ in answers] == wanted
    assert os.getpid() not in {pid for _, pid in answers}
    assert energies(dataset) == wanted


def test_threads_share_a_dataset(dataset):
    wanted, errors = energies(dataset), []

    def work():
        try:
            for _ in range(5):
                assert energies(dataset) == wanted
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_pickled_dataset_holds_no_open_file(dataset):
    dataset[0]
    data = pickle.dumps(dataset[2:5])
    assert len(data) < 20_000
    assert energies(pickle.loads(data)) == energies(dataset)[2:5]


_APPEND = """
import lmdb, sys, time, zlib
env = lmdb.open(sys.argv[1], subdir=False, map_size=1 << 28, lock=False)
row = None
for round in range(150):
    with env.begin(write=True) as t:
        row = row or bytes(t.get(b"1"))
        next = int(zlib.decompress(t.get(b"nextid")))
        for k in range(5):
            t.put(b"%d" % (next + k), row)
        t.put(b"nextid", zlib.compress(b"%d" % (next + 5)))
    if round == 0:
        print("going", flush=True)
"""


@pytest.mark.parametrize("target", ["data.0000.aselmdb", "data.0002.aselmdb"])
def test_reading_goes_on_while_another_process_appends(folder, tmp_path, target):
    """To another shard, and even to the one that is read."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    dataset = open_dataset(tmp_path)
    wanted = energies(dataset)
    writer = subprocess.Popen(
        [sys.executable, "-c", _APPEND, str(tmp_path / target)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout.readline() == "going\n"
        rounds = 0
        while writer.poll() is None or rounds == 0:
            assert energies(dataset) == wanted
            rounds += 1
    finally:
        writer.stdout.close()
        assert writer.wait() == 0
    assert len(dataset) == len(wanted)
    assert len(open_dataset(tmp_path)) == len(wanted) + 750


def test_memory_does_not_grow_with_what_was_read(folder):
    code = """
import sys
from ase_nnp.datasets import open_dataset
dataset = open_dataset(sys.argv[1])
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096
for number in range(300):
    dataset[number % 10]
before = resident()
for number in range(2500):
    dataset[number % 10]; dataset.arrays(number % 10)
assert resident() - before < 2_000_000, resident() - before
"""
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs /proc")
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_a_hundred_shards_open_with_little_work(tmp_path, structures):
    write_dataset(tmp_path / "data.0000.aselmdb", structures[:2])
    content = (tmp_path / "data.0000.aselmdb").read_bytes()
    for number in range(1, 100):
        (tmp_path / f"data.{number:04}.aselmdb").write_bytes(content)
    open_dataset(tmp_path / "data.0000.aselmdb")
    # Calls are counted: seconds depend on the machine and on what else it does.
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        dataset = open_dataset(tmp_path)
    finally:
        sys.setprofile(before)
    assert calls < 100 * 400, calls / 100
    assert len(dataset) == 200


# ---------------------------------------------------------------- LMDB


@pytest.mark.parametrize("count", [1, 7, 300, 5000])
@pytest.mark.parametrize("size", [1, 900, 2500, 30_000])
def test_the_lmdb_reader_agrees_with_the_library(tmp_path, count, size):
    if count * size > 20_000_000:
        count = 600
    rng = np.random.default_rng(count + size)
    env = lmdb.open(
        str(tmp_path / "x.lmdb"), subdir=False, map_size=1 << 28, lock=False, sync=False
    )
    pairs = {}
    for part in range(3):
        with env.begin(write=True) as transaction:
            for number in range(part, count, 3):
                pairs[b"%d" % number] = rng.bytes(int(rng.integers(size + 1)))
                transaction.put(b"%d" % number, pairs[b"%d" % number])
            for number in range(0, count, 7):
                if pairs.pop(b"%d" % number, None) is not None:
                    transaction.delete(b"%d" % number)
    env.close()
    file = LmdbFile(tmp_path / "x.lmdb")
    assert len(file) == len(pairs)
    assert list(file) == sorted(pairs)
    for key, value in pairs.items():
        assert file.get(key) == value
    for absent in (b"", b"0", b"x", b"99999999"):
        assert file.get(absent) == pairs.get(absent)


def test_more_files_than_may_stay_open(tmp_path, structures, monkeypatch):
    monkeypatch.setattr("ase_nnp.files.lmdb._MAX_OPEN", LmdbFile._open_count + 3)
    for number in range(8):
        write_dataset(tmp_path / f"{number}.aselmdb", structures[number : number + 1])
    dataset = open_dataset(tmp_path)
    for _ in range(3):
        assert energies(dataset) == energies(structures[:8])
    assert len(os.listdir("/proc/self/fd")) < 100 if os.path.isdir("/proc/self/fd") else True
    dataset.close()
    assert energies(dataset) == energies(structures[:8])


# ---------------------------------------------------------------- opening


def test_file_folder_pattern_and_list_open_the_same(folder, structures):
    files = sorted(folder.glob("*.aselmdb"))
    for path in (folder, str(folder), folder / "*.aselmdb", files, [folder]):
        assert energies(open_dataset(path)) == energies(structures)
    assert len(open_dataset([files[2], files[0]])) == 9
    assert energies(open_dataset([files[2], files[0]])) == energies(structures[5:] + structures[:4])


@pytest.mark.parametrize("name", ["a.extxyz", "a.extxyz.xz", "a.aselmdb", "a.h5", "a.db"])
def test_a_file_stays_the_file_when_the_process_goes_elsewhere(tmp_path, monkeypatch, name):
    opened = []
    for number in (1, 2):
        folder = tmp_path / f"run[{number}]"
        folder.mkdir()
        atoms = bulk("Cu")
        atoms.calc = SinglePointCalculator(atoms, energy=-float(number))
        if name == "a.db":
            ase.db.connect(folder / name).write(atoms)
        else:
            write_dataset(folder / name, [atoms])
        monkeypatch.chdir(folder)
        opened += [open_dataset(name), open_dataset("a.*"), open_dataset(".")]
    for dataset in opened:
        dataset.close()
    assert [d[0].get_potential_energy() for d in opened] == [-1, -1, -1, -2, -2, -2]


def test_content_counts_and_not_the_name(folder, tmp_path, structures):
    for name in ("x", "x.lmdb", "x.db", "x.txt"):
        (tmp_path / name).write_bytes((folder / "data.0001.aselmdb").read_bytes())
        assert energies(open_dataset(tmp_path / name)) == energies(structures[4:5])


def test_what_is_no_dataset_is_ignored_in_a_folder(folder, tmp_path):
    for path in folder.glob("*.aselmdb"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "notes.json").write_text('{"n": 3, "1": {"a": 2}}')
    (tmp_path / "log.txt").write_text("random1,frame2\n")
    (tmp_path / "README").write_text("12\nhello\n")
    (tmp_path / "data.0000.aselmdb-lock").write_bytes(bytes(8192))
    (tmp_path / "sub").mkdir()
    assert len(open_dataset(tmp_path)) == 10


def test_endings_of_notes_are_taken_where_the_format_is_named(tmp_path, structures):
    for name in ("a.log", "b.md", "c.xyz", "d.xyz.part", "e.xyz.lock"):
        write_dataset(tmp_path / name, structures[:2], format="extxyz")
    (tmp_path / "README.md").write_text("12 frames of copper\n\nfrom a friend\n")
    assert len(open_dataset(tmp_path)) == 2
    assert len(open_dataset(tmp_path, format="extxyz")) == 6
    assert len(open_dataset(tmp_path / "*.log", format="extxyz")) == 2


def test_errors_of_opening_say_what_is_there(tmp_path):
    (tmp_path / "notes.md").write_text("nothing here")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.doc").write_text("nothing here")
    for path, message in (
        (tmp_path / "absent", "no such file"),
        (tmp_path, r"no dataset in this folder; it holds notes\.md"),
        (other / "notes.doc", "no known kind"),
        (tmp_path / "*.lmdb", "no dataset matches"),
        ([], "empty list"),
    ):
        with pytest.raises(DatasetError, match=message):
            open_dataset(path)
    with pytest.raises(UnknownModelError, match="aselmdb"):
        open_dataset(tmp_path, format="lmbd")
    with pytest.raises(AseNnpError, match="nonsense"):
        open_dataset(tmp_path / "notes.md", format="aselmdb", nonsense=1)


def test_a_reader_of_ones_own_is_one_class(structures):
    class Listed(Shard):
        path = "memory"
        format = "listed"

        def __len__(self):
            return len(structures)

        def read(self, index):
            if index == 5:
                raise KeyError("broken")
            return from_atoms(structures[index])

    dataset = AtomsDataset([Listed(), Listed()])
    assert len(dataset) == 20
    assert energies(dataset[[0, 19]]) == energies([structures[0], structures[9]])
    with pytest.raises(DatasetError, match=r"memory: record 5: cannot be decoded: KeyError"):
        dataset[15]


def test_an_lmdb_file_is_opened_once(folder, tmp_path, structures, monkeypatch):
    write_dataset(tmp_path / "flat.lmdb", structures[:2])
    opened = []
    init = LmdbFile.__init__
    monkeypatch.setattr(LmdbFile, "__init__", lambda self, p: (opened.append(p), init(self, p))[1])
    for path in (folder / "data.0000.aselmdb", tmp_path / "flat.lmdb"):
        opened.clear()
        assert open_dataset(path)[0].calc is not None
        assert opened == [path]
