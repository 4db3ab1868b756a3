"""Compressed files and chunks that inflate without end; real ones of every ratio are read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from ase_nnp.datasets import open_dataset, write_dataset
from ase_nnp.errors import AseNnpError, CheckpointError, DatasetError, UnsafeFileError

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
FRAME = b"1\n\nH 0 0 0\n"
JSON = b'[{"a": 1},'
#: What a small file may unpack to at most, in megabytes of the process, beyond what it has.
BOUND = 200


def frames(count=3, atoms=4):
    made = []
    for k in range(count):
        crystal = (
            bulk("Cu", cubic=True) if atoms == 4 else bulk("Cu", cubic=True) * (atoms // 4, 1, 1)
        )
        crystal.rattle(0.05, seed=k)
        crystal.calc = SinglePointCalculator(
            crystal, energy=-1.0 - k, forces=crystal.positions * 0.1
        )
        made.append(crystal)
    return made


def packed_bomb(path: Path, unit: bytes, megabytes: int, head: bytes = b"") -> Path:
    """Write a file of repeated text without holding it inflated."""
    piece = unit * ((1 << 20) // len(unit))
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[path.suffix]
    with opener(path, "wb") as stream:
        stream.write(head)
        for _ in range(megabytes):
            stream.write(piece)
    return path


OPEN = """
import sys
import ase_nnp.datasets.formats.hdf5, h5py, ase.io.vasp
import ase_nnp.files.inflate
ase_nnp.files.inflate.SMALL = 1 << 23  # the same with less to compute
from ase_nnp.datasets import open_dataset
from ase_nnp.errors import AseNnpError

def peak():  # in KiB; getrusage's begins with that of the process that started this one
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

for path in sys.argv[1:]:
    before = peak()
    try:
        dataset = open_dataset(path)
        [dataset[k] for k in range(min(10, len(dataset)))]
        print("read", path)
    except AseNnpError as error:
        print("ours", str(error).replace(chr(10), " "))
    print((peak() - before) // 1024)
"""


def opened_apart(*paths: Path) -> list[tuple[str, int]]:
    """Open files in a process of their own; return what it said and the megabytes that it took."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *map(str, paths)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().split("\n")
    return [(said, int(grown)) for said, grown in zip(lines[::2], lines[1::2], strict=True)]


TEXTS = {
    "frames.extxyz": (b"", FRAME),
    "blank.extxyz": (b"", b"\n"),
    "zeros.extxyz": (b"", b"\0"),
    "large.extxyz": (b'900000000\nLattice="1 0 0 0 1 0 0 0 1"\n', b"H 0 0 0\n"),
    "numbers.extxyz": (b"", b"1"),
    "list.json": (b'[{"structure": {"sites": []}}', b', {"a": 1}'),
    "spaces.json": (b"[", b" " * 64),
    "OUTCAR": (b" vasp.5.4.4.18Apr17 complex\n ions per type = 1\n", b" POSITION\n"),
    "POSCAR": (b"salt\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa\n1\nDirect\n0 0 0\n", b"0 0 0\n"),
    "md.dump": (b"", b"ITEM: TIMESTEP\n1\n"),
    "train.cfg": (b"", b"BEGIN_CFG\n"),
    "input.data": (b"", b"begin\n"),
}


@pytest.mark.slow
def test_small_compressed_files_that_inflate_without_end_are_refused(tmp_path):
    names = [f"{name}.xz" for name in TEXTS] + ["frames.extxyz.gz", "frames.extxyz.bz2"]
    paths = []
    for name in names:
        head, unit = TEXTS[name.rpartition(".")[0]]
        paths.append(packed_bomb(tmp_path / name, unit, 20, head))
        assert paths[-1].stat().st_size < 70_000
    for name, (said, grown) in zip(names, opened_apart(*paths), strict=True):
        assert said.startswith("ours"), (name, said)
        assert grown < BOUND, name


@pytest.mark.parametrize("ending", PACK)
def test_a_real_file_is_read_whatever_it_shrinks_to(tmp_path, ending):
    # Frames that hardly differ shrink to a fiftieth and less.
    path = tmp_path / "a.extxyz"
    still = frames(1, 40) * 500
    write_dataset(path, still)
    text = path.read_bytes()
    packed = PACK[ending](text)
    assert len(text) > 30 * len(packed)
    target = tmp_path / f"a.extxyz{ending}"
    target.write_bytes(packed)
    dataset = open_dataset(target)
    assert len(dataset) == 500
    np.testing.assert_allclose(dataset[499].positions, still[0].positions)


def test_a_compressed_file_beyond_the_floor_is_read(tmp_path, monkeypatch):
    # gzip does not see that such frames repeat, so that they shrink as numbers do.
    monkeypatch.setattr("ase_nnp.files.inflate.SMALL", 1 << 20)
    rng = np.random.default_rng(0)
    lines = b"".join(b"H %.8f %.8f %.8f\n" % tuple(row) for row in rng.normal(size=(20_000, 3)))
    frame = b'20000\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3\n' + lines
    path = tmp_path / "noise.extxyz.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(10):
            stream.write(frame)
    dataset = open_dataset(path)
    assert len(dataset) == 10
    assert len(dataset[9]) == 20_000


# ---------------------------------------------------------------- HDF5


def with_bomb(path: Path, chunk: bytes, filters=((1, (6,)),), mask: int = 0) -> None:
    """Write a dataset whose positions are one chunk of the bytes given, below the library."""
    write_dataset(path, frames())
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(lambda name: names.append(name) if name.endswith("positions") else None)
        for name in names:
            values = file[name][()]
            del file[name]
            stated = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            stated.set_chunk(values.shape)
            for code, parameters in filters:
                stated.set_filter(code, h5py.h5z.FLAG_OPTIONAL, parameters)
            space = h5py.h5s.create_simple(values.shape)
            made = h5py.h5d.create(
                file.id, name.encode(), h5py.h5t.NATIVE_DOUBLE, space, dcpl=stated
            )
            made.write_direct_chunk((0,) * values.ndim, chunk, mask)


def deflated(size: int) -> bytes:
    """Zeros as zlib packs them, by one block that is repeated."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = stream.compress(bytes(1 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)
    # Adler's sum of n zeros is n in its upper half and one in the lower, modulo 65521.
    total = ((size % 65521) << 16 | 1).to_bytes(4, "big")
    return b"\x78\xda" + block * (size >> 20) + stream.flush() + total


def test_zeros_are_packed_as_zlib_packs_them():
    assert zlib.decompress(deflated(1 << 22)) == bytes(1 << 22)


def test_chunks_that_inflate_beyond_what_they_state_are_refused(tmp_path):
    bomb = deflated(1 << 29)
    with_bomb(tmp_path / "plain.h5", bomb)
    with_bomb(tmp_path / "shuffle left out.h5", bomb, ((2, (8,)), (1, (6,))), mask=1)
    with_bomb(tmp_path / "packed twice.h5", zlib.compress(bomb), ((1, (6,)), (1, (6,))))
    messages = {
        "plain.h5": "inflates to more than",
        "shuffle left out.h5": "inflates to more than",
        "packed twice.h5": "packed several times",
    }
    opened = opened_apart(*(tmp_path / name for name in messages))
    for (name, message), (said, grown) in zip(messages.items(), opened, strict=True):
        assert message in said, name
        assert grown < BOUND, name


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf", "shuffle": True},
        {"scaleoffset": 6},
        {"compression": "gzip", "scaleoffset": 9},
    ],
)
def test_every_filter_of_h5py_is_read(tmp_path, options):
    path = tmp_path / "a.h5"
    rng = np.random.default_rng(1)
    positions = rng.normal(size=(40, 5000, 3))
    positions[:20] = 0.0  # a thousandth when deflated
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        steps = file.create_group("steps")
        group.create_dataset("positions", data=positions, chunks=(20, 5000, 3), **options)
        group.create_dataset("atomic_numbers", data=np.full((1, 5000), 29))
        group.create_dataset("potential_energy", data=np.arange(40.0).reshape(40, 1))
        for name, count in (("positions", 40), ("atomic_numbers", 1), ("potential_energy", 40)):
            steps[name] = np.arange(count)
    dataset = open_dataset(path)
    assert len(dataset) == 40
    for k in (0, 19, 20, 39):
        np.testing.assert_allclose(dataset[k].positions, positions[k], rtol=0, atol=1e-6)


def test_a_data_set_with_chunks_that_were_never_written_is_read(tmp_path):
    path = tmp_path / "a.h5"
    write_dataset(path, frames())
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(lambda name: names.append(name) if name.endswith("forces") else None)
        for name in names:
            shape = file[name].shape
            del file[name]
            file.create_dataset(name, shape, "f8", chunks=shape, compression="gzip")
    np.testing.assert_allclose(open_dataset(path)[0].get_forces(), 0.0)


# ---------------------------------------------------------------- archives of arrays


def archive(path: Path, method: int, size: int = 1 << 20, name: str = "R.npy") -> Path:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(size // 8))
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr(name, buffer.getvalue())
        for other, value in {"z": [1], "E": [0.0], "natoms": [4, 4, 4]}.items():
            buffer = io.BytesIO()
            np.save(buffer, np.array(value))
            file.writestr(f"{other}.npy", buffer.getvalue())
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_packed_by_other_methods_than_numpy_s_are_refused(tmp_path, method):
    from ase_nnp.files.npz import read_npz
    from ase_nnp.files.unpickle import load_torch

    with pytest.raises(DatasetError):
        open_dataset(archive(tmp_path / "a.npz", method), format="md17")[0]
    with pytest.raises(CheckpointError):
        read_npz(archive(tmp_path / "b.npz", method), CheckpointError)
    with pytest.raises(AseNnpError):
        load_torch(archive(tmp_path / "c.pt", method, name="archive/data.pkl"))
    write_dataset(tmp_path / "d.aselmdb", frames())
    archive(tmp_path / "metadata.npz", method)
    with pytest.raises((DatasetError, UnsafeFileError)):
        open_dataset(tmp_path / "d.aselmdb")
