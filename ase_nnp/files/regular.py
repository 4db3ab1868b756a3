"""Open regular files only: a pipe never ends its wait, and a device never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

__all__ = ["check_regular", "open_regular", "read_regular"]

#: A text of settings that is longer is something else.
MAX_TEXT = 1 << 26


def check_regular(path: str | os.PathLike[str]) -> Path:
    """Return the path if it leads to a regular file.

    Raises
    ------
    OSError
        It does not exist, is a folder, or a pipe, socket or device, in words in ``strerror``.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device, no file", os.fspath(path))
    return Path(path)


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading; raises OSError as :func:`check_regular` does."""
    return open(check_regular(path), "rb")


def read_regular(path: str | os.PathLike[str], limit: int = MAX_TEXT) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    OSError
        It is no regular file, cannot be read, or is longer than ``limit`` bytes.
    """
    with open_regular(path) as file:
        # As much memory is taken as is asked for, whatever the file holds.
        content = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is longer than {limit} bytes", os.fspath(path))
    return content
