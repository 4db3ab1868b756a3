"""Write files whole (beside, then rename), lock them against other processes, hash them.

No torch: every room can write through here. What a killed process left beside a target is removed
by the next write of that target.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ase_nnp.files.regular import open_regular

__all__ = [
    "file_hash",
    "locked",
    "read_checked",
    "take_lock",
    "unfinished",
    "whole_file",
    "with_checksum",
    "without_checksum",
    "write_checked",
    "write_whole",
]

PART = ".part"  # in every unfinished file's name: folders of data are opened without them


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; rename it into place when the block succeeds.

    The path given ends as ``path`` does, because some writers judge by the ending or append one.
    The content is on the disk before the name is; after a failure nothing is left behind.

    Parameters
    ----------
    path
        The file to be; it is replaced if it exists.

    Yields
    ------
    Path
        A hidden file in the same folder, to be written by the block.

    Raises
    ------
    OSError
        The folder cannot be written, or the disk is full; ``path`` is as it was.
    """
    path = Path(path)
    beside = unfinished(path)

    try:
        yield beside
        # A rename may reach the disk before the content does, and then a power failure leaves
        # an empty file under the right name.
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        # Some writers (safetensors) make files that nobody else may read.
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except OSError as error:
        # A full disk is found while writing, where the system names no file.
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_checked(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file with its SHA-256 in the first line, for :func:`read_checked`."""
    write_whole(path, with_checksum(content))


def read_checked(path: str | os.PathLike[str]) -> bytes:
    """Return what :func:`write_checked` wrote.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not as it was written.
    """
    with open_regular(path) as file:
        return without_checksum(file.read())


def with_checksum(content: bytes) -> bytes:
    """Return the content behind a line with its SHA-256."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def without_checksum(text: bytes) -> bytes:
    """Return what :func:`with_checksum` was given; ValueError if it has changed since."""
    digest, _, content = text.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("its checksum does not fit")
    return content


def unfinished(path: Path) -> Path:
    """Return a name beside ``path`` for what is being written, after removing dead ones."""
    remove_leftovers(path)
    owner = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{owner}{PART}{path.suffix}")


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a small file that is there whole or not at all, even after a power failure."""
    with whole_file(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_leftovers(path: Path) -> None:
    """Remove unfinished files and folders of ``path`` whose writers died on this machine."""
    left = re.compile(rf"\.{re.escape(path.name)}\.(\w+)-(\d+)-[0-9a-f]{{8}}{PART}.*")
    with suppress(OSError), os.scandir(path.parent) as entries:  # a folder that cannot be listed
        for entry in entries:
            match = left.fullmatch(entry.name)
            if match is None or match[1] != _host() or _is_alive(int(match[2])):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def _host() -> str:
    """Return this machine's name as it stands in the names of unfinished files."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there and belongs to somebody else
        return True
    return True


def take_lock(path: str | os.PathLike[str], *, wait: bool = True) -> IO[str] | None:
    """Lock a file against other processes, until the returned file is closed.

    The system gives the lock back when the process ends, however it ends.

    Parameters
    ----------
    path
        The lock file; made if missing, its content does not matter.
    wait
        Wait for another holder; False returns None at once instead.
    """
    try:
        import fcntl
    except ImportError:  # a system without such locks: renames still keep files whole
        return open(path, "a")

    while True:
        file = open(path, "a")  # noqa: SIM115 - handed to the caller
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The holder before us may have removed the file: a lock on that one locks nothing.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        file.close()


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock that other processes wait for; it goes when the process goes."""
    file = take_lock(path)
    try:
        yield
    finally:
        if file is not None:
            file.close()


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
