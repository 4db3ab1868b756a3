"""Text files of frames (``N``, a comment, N lines; again), plain or compressed, by frame number.

The file is scanned once for where frames begin, in bounded memory. Plain files are then read with
``pread``; a compressed one is inflated into memory if it is small and read forwards if not.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from ase_nnp.errors import DatasetError
from ase_nnp.files.lmdb import pread

__all__ = ["FrameFile", "first_bytes", "read_text"]

_OPENERS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError)
_CHUNK = 8 << 20
_LONGEST_LINE = 4 << 20
_LARGEST_FRAME = 512 << 20
_HELD = 128 << 20  # inflated files up to this size are held in memory,
_HOLDERS = 2  # as many at a time


def _open(path: Path) -> IO[bytes]:
    opener = _OPENERS.get(path.suffix.lower())
    return opener(path, "rb") if opener is not None else open(path, "rb")


def first_bytes(path: Path, count: int = 65536) -> bytes:
    """Return the beginning of a file, inflated; empty if it cannot be read."""
    try:
        with _open(path) as stream:
            return stream.read(count)
    except _DAMAGE:
        return b""


def read_text(path: Path, limit: int = 1 << 30) -> str:
    """Return the whole (inflated) text of a small file."""
    try:
        with _open(path) as stream:
            data, problem = _read_some(stream, limit + 1)
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror}", path=path) from None
    if problem is None and len(data) > limit:
        problem = f"longer than {limit} bytes"
    if problem is not None:
        raise DatasetError(problem, path=path)
    return data.decode("utf-8", "replace")


def _read_some(stream: Any, count: int) -> tuple[bytes, str | None]:
    """Read ``count`` bytes; of a damaged stream, what comes before the damage, and its name."""
    pieces, have = [], 0
    try:
        while have < count:
            piece = stream.read1(min(count - have, 1 << 20))
            if not piece:
                break
            pieces.append(piece)
            have += len(piece)
    except _DAMAGE as error:
        return b"".join(pieces), f"the compressed data are damaged or end early ({error})"
    return b"".join(pieces), None


class FrameFile:
    """Frames of one file by number; scanned on first use, reopened after unpickling.

    Attributes
    ----------
    path
        The file.
    """

    _holders: ClassVar[list[FrameFile]] = []

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._offsets: np.ndarray[Any, Any] | None = None
        self._problem: str | None = None
        self._stream: IO[bytes] | None = None
        self._position = 0
        self._held: bytes | None = None
        self._pid = -1

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__, _stream=None, _held=None, _position=0, _pid=-1)
        return state

    def __len__(self) -> int:
        """Return the number of whole frames."""
        return len(self.offsets) - 1

    @property
    def offsets(self) -> np.ndarray[Any, Any]:
        """Where each frame begins in the inflated text, and where the last one ends."""
        if self._offsets is None:
            self._scan()
        return self._offsets  # type: ignore[return-value]

    @property
    def problem(self) -> str | None:
        """What follows the last whole frame, if it is no end of file."""
        self.offsets  # noqa: B018
        return self._problem

    def frame(self, number: int) -> bytes:
        """Return the text of one frame."""
        start, stop = int(self.offsets[number]), int(self.offsets[number + 1])
        if self.path.suffix.lower() not in _OPENERS:
            stream = self._opened()
            data = pread(stream.fileno(), stop - start, start)
        else:
            data = self._inflated(start, stop)
        if len(data) != stop - start:
            raise DatasetError("the file shrank while it was open")
        return data

    def close(self) -> None:
        """Close the file and drop what is held of it."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._held, self._position = None, None, 0
        if self in self._holders:
            self._holders.remove(self)

    def __del__(self) -> None:
        if getattr(self, "_stream", None) is not None:
            self.close()

    def _opened(self) -> IO[bytes]:
        if self._stream is None or self._pid != os.getpid():  # positions are shared after fork
            self._stream, self._position, self._pid = _open(self.path), 0, os.getpid()
        return self._stream

    def _inflated(self, start: int, stop: int) -> bytes:
        end = int(self.offsets[-1])
        if self._held is None and end <= _HELD:
            with _open(self.path) as stream:
                self._held, problem = _read_some(stream, end)
            if problem is not None and len(self._held) < end:
                raise DatasetError(problem)
            self._holders.append(self)
            while len(self._holders) > _HOLDERS:
                self._holders.pop(0)._held = None

        held = self._held  # another thread may drop it
        if held is not None:
            return held[start:stop]
        stream = self._opened()
        if self._position != start:
            stream.seek(start)
        data = stream.read(stop - start)
        self._position = start + len(data)
        return data

    # ---- the scan

    def _scan(self) -> None:
        offsets, data, base, at_end = [0], b"", 0, False
        try:
            stream = _open(self.path)
        except OSError as error:
            raise DatasetError(f"cannot be opened: {error.strerror}", path=self.path) from None

        with stream:
            while not at_end and self._problem is None:
                more, self._problem = _read_some(stream, _CHUNK)
                at_end = len(more) < _CHUNK
                data += more
                used = self._frames(data, base, offsets, at_end)
                data, base = data[used:], base + used
                if len(data) > _LARGEST_FRAME:
                    self._problem = f"frame {len(offsets) - 1} is larger than any frame can be"
        self._offsets = np.array(offsets, np.int64)

    def _frames(self, data: bytes, base: int, offsets: list[int], at_end: bool) -> int:
        """Append the ends of the whole frames in ``data``; return how much they take."""
        size = len(data)
        if at_end and data and not data.endswith(b"\n"):
            data += b"\n"  # counts for the scan alone: the file does not have it

        newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
        line, start, total = 0, 0, len(newlines)
        while line < total:
            text = data[start : newlines[line]].strip()
            if not text.isdigit() or len(text) > 12:
                if text or data[start:].strip():
                    number = len(offsets) - 1
                    self._problem = self._problem or (
                        f"frame {number} begins with {text[:40]!r}, not with a number of atoms"
                    )
                return start

            last = line + int(text) + 1
            if last >= total:
                if at_end and self._problem is None:
                    self._problem = f"frame {len(offsets) - 1} is cut off"
                return start
            start, line = min(int(newlines[last]) + 1, size), last + 1
            offsets.append(base + start)
        if len(data) - start > _LONGEST_LINE and total == 0:
            self._problem = "no line ends; this is no text of frames"
        return start
