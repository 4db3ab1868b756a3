"""Bytes of good files changed at random: only DatasetErrors come out.

The long run is ``python benchmarks/datasets_fuzz.py``; this is a short one with hypothesis, which
shrinks what it finds.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "datasets_fuzz.py"
_SPEC = importlib.util.spec_from_file_location("datasets_fuzz", _FILE)
fuzz = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz)

KINDS = ["lmdb", "aselmdb", "flat", "extxyz", "extxyz.xz", "raw", "ase-json", "ase-db", "traj"]
KINDS += ["pymatgen", "json-shapes", "vasp", "vasp-xdatcar", "vasp-out", "lammps-dump", "n2p2"]
KINDS += ["mtp-cfg", "qm9", "md17"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return fuzz.seeds(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def read(kind, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fuzz.examine(kind, path)


def beside(kind, source, target):
    if kind == "raw":
        shutil.copy(source.with_suffix(".txt"), target.with_suffix(".txt"))


def test_good_files_of_every_kind_read(good, place):
    assert {*KINDS, "h5"} <= good.keys()
    for kind, paths in good.items():
        for path in paths:
            assert read(kind, path) == "read", path


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_changed_bytes_end_in_dataset_errors(good, place, kind, data):
    source = good[kind][data.draw(st.integers(0, len(good[kind]) - 1), label="file")]
    content = bytearray(source.read_bytes())
    changes = data.draw(
        st.lists(
            st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=6)),
            min_size=1,
            max_size=5,
        ),
        label="changes",
    )
    for where, new in changes:
        start = int(where * len(content))
        content[start : start + len(new)] = new
    target = place / f"x{''.join(source.suffixes)}"
    target.write_bytes(content)
    beside(kind, source, target)
    read(kind, target)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
def test_damage_of_other_kinds_ends_in_dataset_errors(good, place, kind, seed):
    """Cuts, repeats, insertions, and damage inside records before they are compressed."""
    rng = random.Random(seed)
    source = rng.choice(good[kind])
    target = place / f"y{''.join(source.suffixes)}"
    target.unlink(missing_ok=True)
    fuzz.damaged_copy(kind, source, target, rng)
    beside(kind, source, target)
    read(kind, target)


@pytest.mark.slow
def test_thousands_of_mutations_in_processes_of_their_own(tmp_path):
    import subprocess
    import sys

    command = [sys.executable, str(_FILE), "--mutations", "3000", "--seed", "10000000"]
    done = subprocess.run(
        [*command, "--keep", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
