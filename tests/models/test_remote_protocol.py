"""The socket of a worker: open to its owner alone, and closed to what is no message."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

import ase_nnp
from ase_nnp.models.remote import worker as protocol


def address(potential):
    return str(potential.worker._running.folder / "socket")


def test_folder_and_socket_are_for_their_owner_alone(emt):
    ase_nnp.predict(emt, [bulk("Cu")])
    folder = Path(address(emt)).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(address(emt)).stat().st_mode) == 0o600
    said = Path(f"/proc/{emt.worker.pid}/cmdline").read_bytes()
    assert emt.worker._running.token.encode() not in said


def test_a_stranger_without_the_token_is_refused(emt):
    ase_nnp.predict(emt, [bulk("Cu")])
    for message in ({"token": "0" * 64}, {}, {"do": "predict"}):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.connect(address(emt))
            protocol.send(stranger, message)
            reply, _ = protocol.receive(stranger)
            assert not reply["ok"]
            with pytest.raises((EOFError, OSError)):
                protocol.receive(stranger)
    assert ase_nnp.predict(emt, [bulk("Cu")])


KNOCK = """
import os, socket, sys
sys.path.insert(0, sys.argv[2])
import worker as protocol
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
try:
    s.connect(sys.argv[1])
except OSError as error:
    print(type(error).__name__)
    sys.exit()
try:  # the door may be shut before the token is out
    protocol.send(s, {"token": sys.argv[3]})
    print(protocol.receive(s)[0]["ok"])
except (OSError, EOFError):
    print("closed")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_even_with_the_token(emt, tmp_path):
    ase_nnp.predict(emt, [bulk("Cu")])
    place = Path(address(emt))
    copied = tmp_path / "worker.py"  # a place that the other user can read
    script = Path("/tmp") / f"knock-{os.getpid()}"
    script.mkdir(mode=0o755)
    try:
        copied = script / "worker.py"
        copied.write_text(Path(protocol.__file__).read_text())
        arguments = [sys.executable, "-c", KNOCK, str(place), str(script)]
        shut = subprocess.run([*arguments, "x"], capture_output=True, text=True)
        assert shut.stdout.strip() == "PermissionError", shut.stderr
        # Open both doors by hand: what is left is the check of the other side's user.
        place.parent.chmod(0o755)
        place.chmod(0o666)
        token = emt.worker._running.token
        knocked = subprocess.run([*arguments, token], capture_output=True, text=True)
        assert knocked.stdout.strip() in ("False", "closed"), knocked.stderr
    finally:
        place.parent.chmod(0o700)
        place.chmod(0o600)
        shutil.rmtree(script)  # with the byte code that the other user left
    assert ase_nnp.predict(emt, [bulk("Cu")])


def test_another_users_id_is_refused_by_the_check_itself(monkeypatch):
    ours, theirs = socket.socketpair()
    server = object.__new__(protocol.Server)
    server.token = "secret"
    protocol.send(theirs, {"token": "secret"})
    assert server.admits(ours)
    monkeypatch.setattr(protocol, "peer_uid", lambda sock: os.getuid() + 1)
    protocol.send(theirs, {"token": "secret"})
    assert not server.admits(ours)
    ours.close()
    theirs.close()


BAD_MESSAGES = {
    "a giant header": struct.pack("<I", 1 << 31),
    "no JSON": struct.pack("<I", 4) + b"\xff\xff\xff\xff",
    "a list": struct.pack("<I", 2) + b"[]",
    "objects": struct.pack("<I", 35) + b'{"arrays": [["a", "|O", [1]]]}     ',
    "a negative shape": struct.pack("<I", 35) + b'{"arrays": [["a", "<f8", [-1]]]}   ',
    "too much": struct.pack("<I", 45) + b'{"arrays": [["a", "<f8", [9999999999999]]]}  ',
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_what_is_no_message_is_refused(case):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(BAD_MESSAGES[case])
        with pytest.raises(protocol.ProtocolError):
            protocol.receive(ours)


def test_messages_carry_arrays_exactly():
    ours, theirs = socket.socketpair()
    arrays = {
        "a": np.random.default_rng(0).normal(size=(5, 3)),
        "b": np.arange(4),
        "c": np.array([True, False]),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(2.5),
    }
    with ours, theirs:
        protocol.send(ours, {"do": "this"}, arrays)
        header, received = protocol.receive(theirs)
        assert header == {"do": "this"}
        for name, array in arrays.items():
            assert np.array_equal(received[name], array)
        with pytest.raises(protocol.ProtocolError, match="cannot be sent"):
            protocol.send(ours, {}, {"text": np.array(["x"])})
