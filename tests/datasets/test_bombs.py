"""Small inputs that would read, unpack or wait without end; disks that are full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from ase_nnp.datasets import convert, load_mapping, open_dataset, write_dataset
from ase_nnp.datasets.formats.oc20_mapping import load_references
from ase_nnp.errors import AseNnpError, ConfigError, DatasetError


def labeled(count=3):
    frames = []
    for k in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.get_potential_energy()
        frames.append(atoms)
    return frames


def irregular(tmp_path):
    os.mkfifo(tmp_path / "fifo.extxyz")
    (tmp_path / "link.aselmdb").symlink_to("/dev/zero")
    return tmp_path / "fifo.extxyz", tmp_path / "link.aselmdb", Path("/dev/zero")


def test_pipes_and_devices_are_no_datasets(tmp_path):
    for path in irregular(tmp_path):
        for call in (open_dataset, load_mapping, load_references):
            with pytest.raises(DatasetError):
                call(path)
        with pytest.raises(DatasetError):
            open_dataset([path])


def test_a_pipe_among_good_files_is_left_out(tmp_path):
    write_dataset(tmp_path / "a.extxyz", labeled())
    os.mkfifo(tmp_path / "b.extxyz")
    os.mkfifo(tmp_path / "a.txt")
    assert len(open_dataset(tmp_path)) == 3
    assert open_dataset(tmp_path / "a.extxyz")[0].get_potential_energy()


def test_a_folder_that_links_to_itself_is_read_once(tmp_path):
    write_dataset(tmp_path / "a.extxyz", labeled())
    (tmp_path / "sub").mkdir()
    write_dataset(tmp_path / "sub" / "b.extxyz", labeled(2))
    for name in ("loop", "sub/up"):
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)
    assert len(open_dataset(tmp_path / "**" / "*.extxyz")) == 5
    assert len(open_dataset(tmp_path)) == 3


def test_a_chunk_that_unpacks_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "bomb.h5"
    write_dataset(path, labeled())
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(
            lambda name, item: (
                names.append(name)
                if isinstance(item, h5py.Dataset) and name.endswith("positions")
                else None
            )
        )
        for name in names:
            values = file[name][()]
            del file[name]
            chunk = (1, 1 << 29, 3)[-values.ndim :] if values.ndim > 1 else (1 << 29,)
            file.create_dataset(
                name, values.shape, "f8", chunks=chunk, maxshape=(None,) * values.ndim,
                compression="gzip",
            )  # fmt: skip
        assert names
    with pytest.raises(DatasetError, match="chunks of more than"):
        open_dataset(path)[0]


RUN = "data: {train: a.xyz}\nmodel: {family: lj}\n"
BOMBS = {
    "aliases.yaml": RUN
    + "\n".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9) if n else 1}]" for n in range(12)),
    "merged.yaml": RUN
    + "\n".join(
        f"k{n}: &k{n} {{{f'<<: [*k{n - 1}, *k{n - 1}]' if n else 'a: 1'}}}" for n in range(40)
    ),
    "deep.yaml": "a: " + "[" * 20_000,
    "maps.yaml": "{a: " * 5000,
    "dots.toml": "a" + ".a" * 20_000 + " = 1",
    "header.toml": "[a" + ".a" * 20_000 + "]",
    "deep.toml": "a = " + "[" * 20_000,
    "long.yaml": "#" * (1 << 20),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_run_file_that_unfolds_without_end_is_refused(tmp_path, name):
    from ase_nnp.training.runfile import read_run_file

    (tmp_path / name).write_text(BOMBS[name])
    with pytest.raises(ConfigError):
        read_run_file(tmp_path / name)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[NaN, " + "[" * 100_000])
@pytest.mark.parametrize("name", ["x.json", "x.extxyz"])
def test_json_nested_without_end_is_our_error(tmp_path, name, text):
    if name.endswith("xyz"):
        text = f'1\nLattice="1 0 0 0 1 0 0 0 1" a="_JSON {text}"\nH 0 0 0\n'
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError):
        open_dataset(tmp_path / name)[0]


def test_a_configuration_nested_without_end_is_our_error(tmp_path):
    import ase_nnp

    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError):
        ase_nnp.build_model("lj", tmp_path / "config.json")


FULL = """
import signal, resource, sys
sys.dont_write_bytecode = True  # Python leaves half a file where the disk is full
from ase_nnp.datasets import convert, open_dataset
from ase_nnp.errors import DatasetError
source, *targets = sys.argv[1:]
dataset = open_dataset(source)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit, target in zip((0, 6000), targets, strict=True):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        convert(dataset, target, chunk_size=5)
        print("fits")
    except DatasetError as error:
        print("ours", str(error).replace(chr(10), " "))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["aselmdb", "extxyz", "h5"])
def test_a_full_disk_is_our_error_and_the_next_call_goes_on(tmp_path, ending):
    frames = labeled(40)
    write_dataset(tmp_path / "source.extxyz", frames)
    source = tmp_path / "source.extxyz"
    targets = [tmp_path / f"{name}.{ending}" for name in ("none", "some")]
    command = [sys.executable, "-c", FULL, source, *targets]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for target, said in zip(targets, done.stdout.strip().split("\n"), strict=True):
        if not target.exists():  # packed data may fit
            assert said.startswith("ours")
            convert(open_dataset(source), target, chunk_size=5)
        energies = [atoms.get_potential_energy() for atoms in open_dataset(target)]
        np.testing.assert_allclose(energies, [a.get_potential_energy() for a in frames])
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_damaged_archives_of_predictions_are_our_error(tmp_path):
    from ase_nnp.datasets.submission import check_submission

    path = tmp_path / "p.npz"
    np.savez_compressed(path, id_ids=np.array(["a"]), id_energy=np.zeros(100))
    good = path.read_bytes()
    for place in range(0, len(good), 3):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        with pytest.raises(AseNnpError):
            check_submission(path, task="s2ef")


@pytest.mark.parametrize(
    "record",
    [
        "1\nProperties=species:S:1:pos:R:3\n{} 0 0 0\n",
        "1\nProperties=species:S:1:pos:R:3\nH 0 0 {}\n",
        "1\nProperties=species:S:1:pos:R:3:{}\nH 0 0 0\n",
        '1\nProperties=species:S:1:pos:R:3 pbc="{}"\nH 0 0 0\n',
    ],
    ids=["symbol", "number", "columns", "pbc"],
)
def test_an_error_quotes_a_damaged_record_in_part(tmp_path, record):
    from ase_nnp.datasets.verify import verify_dataset

    (tmp_path / "long.extxyz").write_text(record.format("q" * 100_000))
    (problem,) = verify_dataset(tmp_path / "long.extxyz").problems
    assert "qqq" in problem.reason
    assert "characters ...]" in problem.reason
    assert len(problem.reason) < 3000
