"""Files appear whole or not at all, locks hold across processes, hashes are SHA-256."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from ase_nnp.files.atomic import file_hash, take_lock, whole_file, write_whole


@contextmanager
def run(code, *arguments):
    """Run a program whose first line of output says that it is ready; kill it at the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_disk_that_is_full_is_said_with_the_name_of_the_file(tmp_path):
    def write():
        with whole_file(tmp_path / "last.ckpt"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"last\.ckpt"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_with_its_content_and_nothing_beside_it(tmp_path):
    write_whole(tmp_path / "a.json", "é")
    assert (tmp_path / "a.json").read_bytes() == b"\xc3\xa9"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "a.npz"
    target.write_text("old")
    with pytest.raises(KeyError), whole_file(target) as beside:  # noqa: PT012 - the block fails
        beside.write_text("half")
        assert beside.suffix == ".npz"
        raise KeyError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.npz"]


def test_permissions_are_those_of_an_ordinary_new_file(tmp_path):
    (tmp_path / "ordinary").touch()
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    code = (
        "import sys, time\nfrom ase_nnp.files.atomic import whole_file\n"
        "with whole_file(sys.argv[1]) as beside:\n"
        "    beside.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    target = tmp_path / "model.nnp"
    with run(code, target) as alive:
        with run(code, target) as dead:
            dead.kill()
            dead.wait()
        write_whole(target, b"new")
        left = [name for name in os.listdir(tmp_path) if name != target.name]
        assert len(left) == 1
        assert f"-{alive.pid}-" in left[0]
    write_whole(target, b"newer")
    assert os.listdir(tmp_path) == [target.name]


def test_a_lock_is_refused_to_another_process_until_its_holder_is_killed(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import sys, time\nfrom ase_nnp.files.atomic import locked\n"
        "with locked(sys.argv[1]):\n    print('ready', flush=True); time.sleep(60)"
    )
    with run(code, lock):
        assert take_lock(lock, wait=False) is None
    file = take_lock(lock, wait=False)
    assert file is not None
    file.close()


def test_a_lock_on_a_removed_file_is_no_lock(tmp_path):
    lock = tmp_path / "lock"
    first = take_lock(lock)
    code = (
        "import sys\nfrom ase_nnp.files.atomic import locked\nprint('ready', flush=True)\n"
        "with locked(sys.argv[1]):\n    print(open(sys.argv[1]).name)"
    )
    with run(code, lock) as waiting:
        time.sleep(0.3)  # let it wait for the lock; the outcome is the same if it does not yet
        lock.unlink()
        first.close()
        assert waiting.wait(30) == 0  # it could open the file by its name: it was there


def test_the_hash_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_hash(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
