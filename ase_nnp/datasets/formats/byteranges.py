"""Parts of a file by byte offset, plain or compressed, and its (inflated) size checked first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from ase_nnp.errors import DatasetError
from ase_nnp.files.inflate import COMPRESSED, DAMAGE, open_inflated
from ase_nnp.files.lmdb import pread

__all__ = ["ByteRanges", "compressed_size", "without_compression"]

_CHUNK = 8 << 20
_HELD = 64 << 20  # inflated files up to this size are held in memory,
_HOLDERS = 2  # as many at a time


def without_compression(name: str) -> str:
    """Return a file's name in lower case without the ending of a compression."""
    name = name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return name


def compressed_size(path: Path, limit: int) -> int | None:
    """Return the inflated size of a compressed file, None of any other, holding nothing.

    Raises
    ------
    DatasetError
        For damaged data, or more than ``limit`` bytes.
    """
    if path.suffix.lower() not in COMPRESSED:
        return None
    size = 0
    for piece in ByteRanges(path).chunks():
        size += len(piece)
        if size > limit:
            raise DatasetError(f"inflates to more than {limit} bytes", path=path)
    return size


class ByteRanges:
    """Bytes ``start`` to ``stop`` of a file; reopened after unpickling and after a fork.

    A compressed file is held if it is small; a large one is read forwards, and from its beginning
    again where a range lies before the last one.

    Parameters
    ----------
    path
        The file; ``.gz``, ``.bz2`` and ``.xz`` are inflated.
    """

    _holders: ClassVar[list[ByteRanges]] = []

    def __init__(self, path: Path) -> None:
        self.path = path
        self._small = False
        self._compressed = path.suffix.lower() in COMPRESSED
        self._stream: Any = None
        self._held: bytes | None = None
        self._pid = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None, "_held": None, "_pid": -1}

    def __del__(self) -> None:
        if getattr(self, "_stream", None) is not None:
            self.close()

    def _open(self) -> Any:
        try:
            return open_inflated(self.path)
        except OSError as error:
            raise DatasetError(f"cannot be read: {error.strerror}", path=self.path) from None

    def chunks(self, size: int = _CHUNK) -> Iterator[bytes]:
        """Yield the whole content in pieces, from the beginning."""
        with self._open() as stream:
            while True:
                try:
                    piece = stream.read(size)
                except DAMAGE as error:
                    raise DatasetError(
                        f"the compressed data are damaged or end early ({error})", path=self.path
                    ) from None
                if not piece:
                    return
                yield piece

    def read(self, start: int, stop: int) -> bytes:
        """Return a range; less than asked for means that the file shrank, which is an error."""
        if self._small:
            held = self._inflated()
            if len(held) < stop:
                raise DatasetError("the file shrank while it was open", path=self.path)
            return held[start:stop]

        # Seeking a compressed stream inflates everything before; reading forwards does not.
        if self._stream is None or self._pid != os.getpid():  # positions are shared after a fork
            self._stream, self._pid = self._open(), os.getpid()
        try:
            if not self._compressed:
                data = pread(self._stream.fileno(), stop - start, start)
            else:
                self._stream.seek(start)
                data = self._stream.read(stop - start)
        except DAMAGE as error:
            raise DatasetError(f"cannot be read: {error}", path=self.path) from None
        if len(data) != stop - start:
            raise DatasetError("the file shrank while it was open", path=self.path)
        return data

    def hold(self, size: int) -> None:
        """Say how large the inflated content is: a small one is held when it is read."""
        self._small = self._compressed and size <= _HELD

    def _inflated(self) -> bytes:
        held = self._held
        if held is None:
            held = self._held = b"".join(self.chunks())
            self._holders.append(self)
            while len(self._holders) > _HOLDERS:
                self._holders.pop(0)._held = None
        return held

    def close(self) -> None:
        """Close the file and drop what is held of it."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._held = None, None
        if self in self._holders:
            self._holders.remove(self)
