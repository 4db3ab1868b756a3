"""What is kept of a dataset is stale as soon as any file that it was read from has changed."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ase_nnp.datasets import convert, open_dataset, write_dataset
from ase_nnp.errors import DatasetError

from .conftest import slab

FRAMES = 100


class Killed(Exception):
    pass


def stop(done, total):
    if done >= 16:
        raise Killed


def raw_pair(folder):
    """OC20's raw frames under a name with a dot, and their text with ids and references."""
    frames = [slab(seed, "Cu", (1, 1, 2)) for seed in range(FRAMES)]
    for atoms in frames:
        atoms.info = {}
    write_dataset(folder / "run.1.extxyz", frames)
    lines = "".join(f"random{seed},frame{seed},-30.0\n" for seed in range(FRAMES))
    (folder / "run.1.txt").write_text(lines)
    return folder / "run.1.extxyz", folder / "run.1.txt", lines.replace("random2,", "random7,")


def deepmd(folder):
    (folder / "d" / "set.000").mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / "d" / "set.000" / "coord.npy", rng.normal(size=(FRAMES, 6)))
    np.save(folder / "d" / "set.000" / "energy.npy", rng.normal(size=FRAMES))
    (folder / "d" / "type.raw").write_text("0 1\n")
    (folder / "d" / "type_map.raw").write_text("Cu\nPt\nAu\n")
    (folder / "d" / "nopbc").touch()
    return folder / "d", folder / "d" / "type.raw", "0 2\n"


def replace(file, text):
    before = file.stat().st_mtime_ns
    file.write_text(text)
    os.utime(file, ns=(before + 10**9, before + 10**9))


@pytest.fixture(params=[raw_pair, deepmd], ids=lambda make: make.__name__)
def source(request, tmp_path):
    return request.param(tmp_path)


def test_an_index_is_refused_when_a_file_beside_has_changed(source, tmp_path):
    path, beside, text = source
    open_dataset(path).index(tmp_path / "i.sqlite")
    open_dataset(path).index(tmp_path / "i.sqlite")
    replace(beside, text)
    with pytest.raises(DatasetError, match="an index of other content"):
        open_dataset(path).index(tmp_path / "i.sqlite")


def test_a_conversion_is_not_continued_when_a_file_beside_has_changed(source, tmp_path):
    path, beside, text = source
    with pytest.raises(Killed):
        convert(path, tmp_path / "a.aselmdb", chunk_size=8, progress=stop)
    replace(beside, text)
    with pytest.raises(DatasetError, match="from another source"):
        convert(path, tmp_path / "a.aselmdb", chunk_size=8)


def test_columns_are_made_anew_when_a_file_beside_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("ASE_NNP_CACHE", str(tmp_path / "cache"))
    path, beside, text = raw_pair(tmp_path)
    assert open_dataset(path).metadata.sid[:3].tolist() == [0, 1, 2]
    replace(beside, text)
    assert open_dataset(path).metadata.sid[:3].tolist() == [0, 1, 7]


def test_an_array_inside_of_a_folder_that_changes_is_another_source(tmp_path):
    path, _, _ = deepmd(tmp_path)
    with pytest.raises(Killed):
        convert(path, tmp_path / "a.aselmdb", chunk_size=8, progress=stop)
    energies = np.load(path / "set.000" / "energy.npy")
    energies[2] += 1  # between the records whose content is looked at
    with open(path / "set.000" / "energy.npy", "r+b") as file:
        np.save(file, energies)
    state = (path / "set.000" / "energy.npy").stat()
    os.utime(path / "set.000" / "energy.npy", ns=(state.st_mtime_ns + 10**9,) * 2)
    with pytest.raises(DatasetError, match="from another source"):
        convert(path, tmp_path / "a.aselmdb", chunk_size=8)


@pytest.mark.parametrize("name", ["~$notes.extxyz", "~nobody-at-all/a.extxyz"])
def test_a_name_with_a_tilde_that_is_nobodys_home_is_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_dataset(tmp_path / name, [slab()])
    assert len(open_dataset(name)) == 1
    open_dataset(name).index("~nobody.sqlite")


@pytest.mark.parametrize("ending", ["aselmdb", "lmdb", "extxyz", "extxyz.xz", "h5"])
def test_a_name_in_another_encoding_is_written_and_read(tmp_path, ending):
    file = tmp_path / os.fsdecode(f"caf\xe9.{ending}".encode("latin-1"))
    assert convert([slab()], file).written == 1
    assert len(open_dataset(file)) == 1
