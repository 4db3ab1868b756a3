"""The worker: makes a calculator and answers batches of structures over a local socket.

This one file runs in an environment that has numpy and ASE and need not have this package; it is
started by its path::

    python worker.py SOCKET

with one line of JSON on standard input: ``token`` (hex), ``factory`` (``"module:name"``),
``arguments`` and ``path``. The process ends when its standard input does, so it never outlives the
program that started it.

The protocol. A message is the length of its header (4 bytes, little endian), a header in JSON and
the arrays that the header lists, as raw little-endian bytes. Nothing is pickled. A client first
sends its token; then ``predict`` messages are answered one at a time.

``factory`` makes either an ASE calculator or an object with ``predict(structures, properties)``
that returns one dictionary per structure, for models that are quicker in batches.
"""

from __future__ import annotations

import contextlib
import hmac
import importlib
import json
import os
import socket
import struct
import sys
import threading
import traceback
from math import prod
from typing import Any

import numpy as np

VERSION = 1
MAX_HEADER = 16 << 20
MAX_BYTES = 1 << 32
DTYPES = ("<f8", "<i8", "|b1")
#: Properties that this worker hands on, and whether they have one row per atom.
PER_ATOM = {"forces": True, "energies": True, "magmoms": True, "charges": True}
PER_STRUCTURE = {"energy": False, "stress": False, "dipole": False}
KNOWN = {**PER_STRUCTURE, **PER_ATOM}


class ProtocolError(ConnectionError):
    """The other side sent something that is no message."""


def send(
    sock: socket.socket, header: dict[str, Any], arrays: dict[str, np.ndarray] | None = None
) -> None:
    """Send one message: a dictionary and named arrays of float64, int64 or bool."""
    raw, said = [], []
    for name, array in (arrays or {}).items():
        array = np.asarray(array, order="C")
        kind = {"f": "<f8", "i": "<i8", "u": "<i8", "b": "|b1"}.get(array.dtype.kind)
        if kind is None:
            raise ProtocolError(f"'{name}' of type {array.dtype} cannot be sent")
        raw.append(array.astype(kind, copy=False).tobytes())
        said.append([name, kind, list(array.shape)])

    # JSON and raw numbers, never pickle: neither side can make the other run code.
    head = json.dumps({**header, "arrays": said}).encode()
    sock.sendall(b"".join([struct.pack("<I", len(head)), head, *raw]))


def receive(sock: socket.socket) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays of one message.

    Raises ProtocolError for anything that is none, EOFError when the other side has gone.
    """
    (length,) = struct.unpack("<I", _exactly(sock, 4))
    if length > MAX_HEADER:
        raise ProtocolError(f"a header of {length} bytes was announced")
    try:
        header = json.loads(bytes(_exactly(sock, length)))
        listed = [(str(n), str(k), tuple(int(x) for x in s)) for n, k, s in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(f"not a header: {error}") from None
    arrays: dict[str, np.ndarray] = {}
    total = 0

    # Sizes are checked before memory is taken for them.
    for name, kind, shape in listed:
        if kind not in DTYPES or any(n < 0 for n in shape):
            raise ProtocolError(f"'{name}' is announced as {kind} {shape}")
        size = prod(shape) * np.dtype(kind).itemsize
        total += size
        if total > MAX_BYTES:
            raise ProtocolError("the message is too large")
        arrays[name] = np.frombuffer(_exactly(sock, size), dtype=kind).reshape(shape)
    return header, arrays


def _exactly(sock: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view, have = memoryview(buffer), 0
    while have < size:
        got = sock.recv_into(view[have:])
        if got == 0:
            raise EOFError("the other side closed the connection")
        have += got
    return buffer


def peer_uid(sock: socket.socket) -> int | None:
    """Return the user id of the process at the other end; None where the system cannot say."""
    # Linux has it; elsewhere the socket's permissions and the token have to do.
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    said = sock.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    return int(struct.unpack("3i", said)[1])


class Model:
    """A calculator or a batch adapter behind one method."""

    def __init__(self, factory: str, arguments: dict[str, Any]) -> None:
        module, _, name = factory.partition(":")
        made: Any = importlib.import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
        self.inner = made(**arguments)

        # An ASE calculator that also has a predict() of its own is still asked as a calculator.
        self.batched = hasattr(self.inner, "predict") and not hasattr(self.inner, "get_property")
        names = getattr(self.inner, "implemented_properties", ("energy", "forces"))
        self.properties = [p for p in KNOWN if p in names]

    def predict(self, structures: list[Any], properties: list[str]) -> list[dict[str, Any]]:
        """Return one dictionary of results per structure."""
        if self.batched:
            return list(self.inner.predict(structures, properties))
        return [self.one(atoms, properties) for atoms in structures]

    def one(self, atoms: Any, properties: list[str]) -> dict[str, Any]:
        """Return the results of one structure, from a single calculation where that is possible."""
        results: dict[str, Any] = {}
        wanted = [p for p in properties if p != "stress" or atoms.cell.rank == 3]
        # Stress and forces first: they bring the energy along in most calculators.
        for name in reversed(wanted):
            results[name] = np.asarray(self.inner.get_property(name, atoms), dtype=float)
        return results


def answer(
    model: Model, header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the reply to one message."""
    if header.get("do") != "predict":
        raise ProtocolError(f"'{header.get('do')}' is not understood")
    properties = [str(p) for p in header["properties"]]
    structures = unpack(arrays)
    rows = model.predict(structures, properties)
    sizes = [len(a) for a in structures]
    return {"ok": True}, join(rows, properties, sizes)


def unpack(arrays: dict[str, np.ndarray]) -> list[Any]:
    """Return the structures of a message as ase.Atoms."""
    from ase import Atoms

    ends = np.cumsum(arrays["sizes"])
    structures = []
    for k, end in enumerate(ends):
        part = slice(int(end - arrays["sizes"][k]), int(end))
        atoms = Atoms(
            numbers=arrays["numbers"][part],
            positions=arrays["positions"][part],
            cell=arrays["cell"][k],
            pbc=arrays["pbc"][k],
        )
        for name in ("charge", "spin"):
            if name in arrays:
                atoms.info[name] = float(arrays[name][k])
        if "tags" in arrays:
            atoms.set_tags(arrays["tags"][part])
        structures.append(atoms)
    return structures


def join(
    rows: list[dict[str, Any]], properties: list[str], sizes: list[int]
) -> dict[str, np.ndarray]:
    """Return the results of a batch as one array per property, in the order of the structures."""
    joined: dict[str, np.ndarray] = {}
    for name in properties:
        parts = []
        for row, size in zip(rows, sizes):  # noqa: B905 (also for old Pythons)
            value = row.get(name)
            if name == "stress":
                # Without a volume there is no stress, but arrays of a batch need a row for each
                # structure.
                value = np.zeros((3, 3)) if value is None else full_stress(value)
            if value is None:
                raise ValueError(f"the model did not return '{name}'")
            value = np.asarray(value, dtype=float)
            want = {"forces": (size, 3), "stress": (3, 3), "dipole": (3,)}.get(
                name, (size,) if KNOWN[name] else ()
            )
            if value.shape != want:
                raise ValueError(f"'{name}' has the shape {value.shape} instead of {want}")
            parts.append(value)
        joined[name] = np.concatenate(parts) if KNOWN[name] else np.stack(parts)

    return joined


def full_stress(value: Any) -> np.ndarray:
    """Return a stress as a 3x3 matrix; ASE's order is xx yy zz yz xz xy."""
    value = np.asarray(value, dtype=float)
    if value.shape != (6,):
        whole: np.ndarray = value
        return whole
    xx, yy, zz, yz, xz, xy = value
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


class Server:
    """Listens, lets in who may come, and answers one request at a time."""

    def __init__(self, path: str, token: str, model: Model) -> None:
        self.model, self.token, self.lock = model, token, threading.Lock()

        # The socket must never be open to others, not even between bind and a later chmod.
        before = os.umask(0o177)
        try:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.bind(path)
        finally:
            os.umask(before)
        self.socket.listen(8)

    def run(self) -> None:
        """Serve until the process ends."""
        while True:
            client, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def admits(self, client: socket.socket) -> bool:
        """Whether a client is the same user and knows the token."""
        uid = peer_uid(client)
        if uid is not None and uid != os.getuid():
            return False

        # Whoever connects and says nothing must not hold a thread for ever.
        client.settimeout(10)
        try:
            header, _ = receive(client)
        except (OSError, EOFError):
            return False
        client.settimeout(None)
        return hmac.compare_digest(str(header.get("token", "")), self.token)

    def serve(self, client: socket.socket) -> None:
        """Answer one client until it goes."""
        with client:
            if not self.admits(client):
                with contextlib.suppress(OSError):
                    send(client, {"ok": False, "type": "PermissionError", "message": "refused"})
                return

            hello = {"ok": True, "version": VERSION, "properties": self.model.properties}
            send(client, {**hello, "python": sys.version.split()[0], "pid": os.getpid()})
            while True:
                try:
                    header, arrays = receive(client)
                except (OSError, EOFError):
                    return
                try:
                    # Calculators are not made for threads: several clients wait for each other
                    # here.
                    with self.lock:
                        reply, answers = answer(self.model, header, arrays)
                except Exception as error:  # the model may raise anything
                    text = "".join(traceback.format_exception(type(error), error, None)).strip()
                    reply = {"ok": False, "type": type(error).__name__, "message": text[-4000:]}
                    answers = {}
                    traceback.print_exc()
                try:
                    send(client, reply, answers)
                except OSError:
                    return


def end_with_parent() -> None:
    """End this process when standard input closes."""
    # A parent that is killed cannot say goodbye, but the system closes its end of the pipe.
    while sys.stdin.buffer.read(1 << 16):
        pass
    os._exit(0)


def main() -> int:
    """Make the model, listen, and say so on standard output."""
    # Before the model is imported: packages print on import, and a banner is no JSON.
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the model prints goes to the log

    request = json.loads(sys.stdin.buffer.readline())
    for folder in reversed(request.get("path", [])):
        sys.path.insert(0, folder)

    try:
        model = Model(request["factory"], request.get("arguments", {}))
        server = Server(sys.argv[1], request["token"], model)
    except Exception as error:  # whatever importing and making a foreign model raises
        traceback.print_exc()
        said.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        said.flush()
        return 1

    said.write(json.dumps({"ready": True}) + "\n")
    said.flush()
    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run()

    return 0


if __name__ == "__main__":
    sys.exit(main())
