"""Read numpy's ``.npz`` archives without trust: no pickles, bounded size, one kind of error."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from typing import IO, Any

import numpy as np

from ase_nnp.errors import AseNnpError, CheckpointError, DatasetError
from ase_nnp.files.regular import open_regular

__all__ = ["check_members", "is_npz", "read_npz"]

_DAMAGE = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, EOFError, MemoryError),
    *(NotImplementedError, OverflowError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
#: How many times its size an archive may inflate to; numbers that are measured give 1 to 3.
MAX_RATIO, SMALL = 64, 1 << 20


def check_members(archive: zipfile.ZipFile) -> None:
    """Refuse members that are packed in a way whose unpacking cannot be bounded.

    NumPy and torch store or deflate; ``zipfile`` inflates bzip2 and xz by whole pieces, of which
    four kilobytes can be gigabytes.

    Raises
    ------
    ValueError
        Naming the member.
    """
    for member in archive.infolist():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} is packed by method {member.compress_type}")


def is_npz(file: IO[bytes]) -> bool:
    """Whether an open file is an archive of arrays only."""
    try:
        names = zipfile.ZipFile(file).namelist()
    except _DAMAGE:
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(
    path: str | os.PathLike[str], error: type[CheckpointError] | type[DatasetError]
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of an archive by name.

    Parameters
    ----------
    path
        A regular file.
    error
        The class to raise, for anything that goes wrong.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            archive = zipfile.ZipFile(file)
            check_members(archive)

            inflated = sum(entry.file_size for entry in archive.infolist())
            # numpy inflates a member as a whole before it looks at its shape.
            if inflated > MAX_RATIO * size + SMALL:
                raise error(f"{path} inflates to many times its size ({inflated} bytes).")

            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: np.array(stored[name]) for name in stored.files}
    except AseNnpError:
        raise
    except _DAMAGE as problem:
        raise error(f"{path} is no readable .npz file: {problem}.") from problem
