"""An interrupted conversion continues with its own input, and with no other."""

from __future__ import annotations

import os
import shutil

import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp.datasets import convert, open_dataset, write_dataset
from ase_nnp.errors import DatasetError

from .conftest import slab

ENDINGS = ("aselmdb", "lmdb", "extxyz", "extxyz.xz", "h5")


class Killed(Exception):
    pass


def interrupted(source, target, **options):
    """Leave a conversion after its second chunk, as a kill would."""

    def stop(done, total):
        if done >= 16:
            raise Killed

    with pytest.raises(Killed):
        convert(source, target, chunk_size=8, progress=stop, **options)


def structures(shift=0.0, metal="Cu"):
    return [slab(seed, metal, (1, 1, 2)) for seed in range(40)] if not shift else moved(shift)


def moved(shift):
    atoms = structures()
    atoms[39].positions[0, 0] += shift
    return atoms


def other_energy():
    atoms = structures()
    forces = atoms[30].calc.results["forces"]
    atoms[30].calc = SinglePointCalculator(atoms[30], energy=5.0, forces=forces)
    return atoms


def other_info():
    atoms = structures()
    atoms[20].info["sid"] = 77
    return atoms


def other_cell():
    atoms = structures()
    atoms[35].cell[2, 2] += 1e-9
    return atoms


def other_pbc():
    atoms = structures()
    atoms[35].pbc = (True, True, False)
    return atoms


OTHERS = {
    "another element": lambda: structures(metal="Ni"),
    "the last atom moved": lambda: structures(shift=1e-12),
    "one energy": other_energy,
    "one id": other_info,
    "one cell": other_cell,
    "one pbc": other_pbc,
    "another order": lambda: structures()[::-1],
    "fewer": lambda: structures()[:39],
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_list_continues_with_itself_and_with_no_other(tmp_path, ending):
    target = tmp_path / f"out.{ending}"
    interrupted(structures(), target)
    for make in OTHERS.values():
        with pytest.raises(DatasetError, match="another source"):
            convert(make(), target, chunk_size=8)
    result = convert(structures(), target, chunk_size=8)
    assert (result.resumed_at, result.written) == (16, 40)
    symbols = [atoms.get_chemical_formula() for atoms in open_dataset(target)]
    assert symbols == [atoms.get_chemical_formula() for atoms in structures()]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_view_continues_with_its_own_positions_only(tmp_path, ending):
    write_dataset(tmp_path / "all.lmdb", structures() * 3)
    dataset = open_dataset(tmp_path / "all.lmdb")
    target = tmp_path / f"out.{ending}"
    interrupted(dataset[40:80], target)
    for other in (dataset[:40], dataset[80:], dataset[40:80][::-1], dataset[40:81]):
        with pytest.raises(DatasetError, match="another source"):
            convert(other, target, chunk_size=8)
    with pytest.raises(DatasetError, match="another source"):
        convert(dataset[40:80].with_energy("total"), target, chunk_size=8)
    assert convert(dataset[40:80], target, chunk_size=8).resumed_at == 16


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_continue_wherever_they_lie_and_not_when_their_content_is_another(tmp_path, ending):
    source, target = tmp_path / "a.lmdb", tmp_path / f"out.{ending}"
    write_dataset(source, structures())
    interrupted(source, target)

    other = tmp_path / "b.lmdb"
    write_dataset(other, structures(metal="Ni"))
    stamp = source.stat()
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # size and time alone do not tell
    with pytest.raises(DatasetError, match="another source"):
        convert(other, target, chunk_size=8)
    with pytest.raises(DatasetError, match="another source"):
        convert(source, target, chunk_size=8, keys={"energy": "reference_energy"})

    shutil.move(source, tmp_path / "moved.lmdb")
    assert convert(tmp_path / "moved.lmdb", target, chunk_size=8).resumed_at == 16


def test_a_folder_of_shards_is_not_continued_with_another_list(tmp_path):
    interrupted(structures(), tmp_path / "out", shard_size=20)
    with pytest.raises(DatasetError, match="another source"):
        convert(structures(metal="Ni"), tmp_path / "out", chunk_size=8, shard_size=20)
    assert convert(structures(), tmp_path / "out", chunk_size=8, shard_size=20).written == 40


@pytest.mark.parametrize("format", ["aselmdb", "flat-lmdb", "extxyz", "extxyz.xz", "hdf5"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_another_format_does_not_go_on_or_begin_over_the_rest(tmp_path, ending, format):
    source, target = structures(), tmp_path / f"a.{ending}"
    interrupted(source, target)
    own = {"lmdb": "flat-lmdb", "h5": "hdf5"}.get(ending, ending)
    if format != own:
        with pytest.raises(DatasetError, match="the rest of a conversion from another source"):
            convert(source, target, format=format, chunk_size=8)
    assert convert(source, target, chunk_size=8).resumed_at == 16
