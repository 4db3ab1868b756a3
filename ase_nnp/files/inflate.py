"""Open ``.gz``, ``.bz2`` and ``.xz`` files with a bound on what they inflate to.

A megabyte of xz can hold seven gigabytes of blanks. Text of numbers shrinks to a third or a tenth;
trajectories whose atoms hardly move, to a fiftieth.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ase_nnp.errors import DatasetError

__all__ = ["COMPRESSED", "DAMAGE", "Inflating", "open_inflated"]

_OPENERS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
#: Endings of the files that are inflated.
COMPRESSED = tuple(_OPENERS)
#: What the modules of the standard library raise on damaged data.
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError, MemoryError)

#: Bytes that any file may inflate to, and the multiple of its size that a larger one may.
SMALL, MAX_RATIO = 32 << 20, 256


def open_inflated(path: str | os.PathLike[str]) -> IO[bytes] | Inflating:
    """Open a file for reading, through :class:`Inflating` if its ending says so."""
    path = Path(path)
    return Inflating(path) if path.suffix.lower() in COMPRESSED else open(path, "rb")


class Inflating:
    """The content of a compressed file, read forwards.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    DatasetError
        On reading, where the content is longer than :data:`SMALL` bytes and longer than
        :data:`MAX_RATIO` times the file; nothing beyond that is held.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limit = max(SMALL, MAX_RATIO * os.path.getsize(path))
        self._stream = _OPENERS[path.suffix.lower()](path, "rb")

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, less at the end."""
        return self._within(self._stream.read(size))

    def read1(self, size: int) -> bytes:
        """Return at most ``size`` bytes, and none only at the end."""
        return self._within(self._stream.read1(size))

    def seek(self, position: int) -> None:
        """Go to a place in the content; everything before it is inflated."""
        self._stream.seek(min(position, self.limit + 1))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Inflating:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _within(self, data: bytes) -> bytes:
        if self._stream.tell() > self.limit:
            raise DatasetError(
                f"inflates to more than {self.limit} bytes, which no file of structures of this "
                "size does; if it is meant, inflate it first",
                path=self.path,
            )
        return data
