"""Our side of the socket: starts the worker, asks it, notices when it dies, starts it again."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.errors import WorkerError
from ase_nnp.files.atomic import unfinished
from ase_nnp.models.remote import worker as protocol
from ase_nnp.models.remote.environments import clean_environment

__all__ = ["Job", "Worker", "worker_for"]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """What a worker is to run: an interpreter, a factory, its arguments as JSON, extra folders."""

    python: str
    factory: str
    arguments: str = "{}"
    path: tuple[str, ...] = ()
    start_timeout: float = 300.0
    call_timeout: float = 3600.0


class Worker:
    """A process that answers for one job. Started when first asked, and again after it died."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.starts = 0
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"job": self.job}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["job"])  # type: ignore[misc]

    @property
    def pid(self) -> int | None:
        """Process id of the worker while it runs."""
        return None if self._running is None else self._running.process.pid

    @property
    def properties(self) -> tuple[str, ...]:
        """What the calculator says it gives; starts the worker."""
        with self._lock:
            return tuple(str(p) for p in self._connected().hello["properties"])

    def ask(self, header: Mapping[str, Any], arrays: Arrays) -> dict[str, np.ndarray]:
        """Send one message and return the arrays of the answer.

        Raises
        ------
        WorkerError
            The worker died (the next call starts another), took too long, or its model raised.
        """
        with self._lock:
            running = self._connected()
            try:
                protocol.send(running.socket, dict(header), dict(arrays))
                reply, arrays_received = protocol.receive(running.socket)
            except (OSError, EOFError) as error:
                raise self._lost(error) from error
            except BaseException:  # interrupted half-way: what comes next would answer this
                self._stop()
                raise

        # The model's own error, not the connection's: the worker lives on and answers the next
        # question.
        if not reply.get("ok"):
            message = str(reply.get("message", "no reason given"))
            raise WorkerError(
                f"The model '{self.job.factory}' in {self.job.python} raised "
                f"{message.strip().splitlines()[-1]}"
            ) from RuntimeError(message)
        return dict(arrays_received)

    def close(self) -> None:
        """End the worker; the next question starts another."""
        with self._lock:
            self._stop()

    def _connected(self) -> _Running:
        if self._running is not None and self._running.owner != os.getpid():
            self._running.forget()  # a forked child must not talk on its parent's connection
            self._running = None
        if self._running is not None and self._running.process.poll() is not None:
            # Died while nobody asked: that is worth an error as well, once.
            raise self._lost(EOFError("it ended between two calls"))
        if self._running is None:
            self._running = _Running(self.job)
            self.starts += 1
        return self._running

    def _lost(self, error: BaseException) -> WorkerError:
        running = self._running
        assert running is not None
        how = "timed out" if isinstance(error, TimeoutError) else running.how_it_ended()
        said = running.last_lines()
        self._stop()
        return WorkerError(
            f"The worker for '{self.job.factory}' in {self.job.python} {how}. The next call starts "
            f"it again.{' Its last words: ' + said if said else ''}"
        )

    def _stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None


class _Running:
    """One life of a worker: its process, its folder (only for this user) and our connection."""

    def __init__(self, job: Job) -> None:
        self.owner = os.getpid()
        self.folder = unfinished(Path(tempfile.gettempdir()) / "ase_nnp")
        self.folder.mkdir(mode=0o700)  # the socket in it is for this user alone
        self.log = self.folder / "log"
        address = str(self.folder / "socket")
        if len(address) > 100:  # the system's limit is 107 bytes
            shutil.rmtree(self.folder)
            raise WorkerError(
                f"The path of the socket, {address}, is too long. Set TMPDIR to a shorter folder."
            )

        # Sent on standard input: arguments and environment of a process are readable to others.
        self.token = token = secrets.token_hex(32)
        with open(self.log, "wb") as log:
            try:
                self.process = subprocess.Popen(
                    [
                        job.python,
                        "-I",
                        "-W",
                        "ignore",
                        str(Path(protocol.__file__).resolve()),
                        address,
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=clean_environment(),
                    start_new_session=True,  # an interrupt from the keyboard is ours to handle
                )
            except OSError as error:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise WorkerError(f"{job.python} cannot be started: {error.strerror}.") from error
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

        # Also at the interpreter's end and when a model is forgotten: no worker may be left behind.
        self._cleanup = weakref.finalize(
            self, _end, self.owner, self.process, self.folder, self.socket
        )
        try:
            self._begin(job, token)
            self.socket.settimeout(job.call_timeout)
            self.socket.connect(address)
            if protocol.peer_uid(self.socket) not in (None, os.getuid()):
                raise WorkerError("Another user's process answers at the worker's socket.")
            protocol.send(self.socket, {"token": token})
            self.hello, _ = protocol.receive(self.socket)
            if not self.hello.get("ok"):
                raise WorkerError("The worker refused the connection.")
        except WorkerError:
            self.stop()
            raise
        except (OSError, EOFError) as error:
            said = self.last_lines()
            self.stop()
            raise WorkerError(
                f"The worker in {job.python} did not start: {said or error}"
            ) from error

    def _begin(self, job: Job, token: str) -> None:
        """Hand over the job on standard input, and wait until the model is made."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {
            "token": token,
            "factory": job.factory,
            "arguments": json.loads(job.arguments),
            "path": list(job.path),
        }
        self.process.stdin.write((json.dumps(request) + "\n").encode())
        self.process.stdin.flush()

        # readline cannot be given a time; ending the process ends it.
        timer = threading.Timer(job.start_timeout, self.process.kill)
        timer.start()
        began = time.monotonic()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        try:
            said = json.loads(line)
        except ValueError:
            late = time.monotonic() - began >= job.start_timeout
            why = f"took more than {job.start_timeout:.0f} s" if late else self.how_it_ended()
            raise WorkerError(
                f"The worker for '{job.factory}' in {job.python} {why} before it was ready. "
                f"{self.last_lines()}"
            ) from None
        if "error" in said:
            raise WorkerError(f"'{job.factory}' cannot be made in {job.python}: {said['error']}")

    def how_it_ended(self) -> str:
        """Say how the process ended."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed the connection"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def last_lines(self, count: int = 3) -> str:
        """Return the end of what the worker wrote."""
        try:
            text = self.log.read_bytes()[-4000:].decode(errors="replace")
        except OSError:
            return ""
        return " | ".join(part.strip() for part in text.strip().splitlines()[-count:])

    def stop(self) -> None:
        """End the process and remove its folder."""
        self._cleanup()

    def forget(self) -> None:
        """Leave process and folder to the process that started them."""
        self._cleanup.detach()
        self.socket.close()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def _end(
    owner: int, process: subprocess.Popen[bytes], folder: Path, connection: socket.socket
) -> None:
    connection.close()

    # A forked child inherits the finalizer, but the worker is its parent's.
    if os.getpid() != owner:
        return
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    if process.poll() is None:
        process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


_WORKERS: weakref.WeakValueDictionary[Job, Worker] = weakref.WeakValueDictionary()
_TABLE = threading.Lock()


def worker_for(job: Job) -> Worker:
    """Return this process's worker for a job; copies of a model share it."""
    with _TABLE:
        # Weak: the worker ends with the last model that uses it.
        worker = _WORKERS.get(job)
        if worker is None:
            worker = _WORKERS[job] = Worker(job)
        return worker


def job_for(
    python: str | Path, factory: str, arguments: Mapping[str, Any], path: Sequence[str | Path] = ()
) -> Job:
    """Return a job with its parts checked and made absolute.

    Raises
    ------
    WorkerError
        The interpreter is not there, or the arguments are not JSON.
    """
    where = Path(python).expanduser().absolute()  # not resolved: a link says which environment
    if where.is_dir():
        where = where / "bin" / "python"
    if not where.is_file():
        raise WorkerError(f"There is no interpreter {where}.")
    try:
        # Sorted text, so that equal arguments in another order share one worker.
        text = json.dumps(dict(arguments), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WorkerError(f"The arguments for '{factory}' are not plain JSON: {error}.") from error
    return Job(str(where), factory, text, tuple(str(Path(p).absolute()) for p in path))
