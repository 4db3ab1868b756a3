"""Text files of frames (``N``, a comment, N lines; again), plain or compressed, by frame number.

The file is scanned once for where frames begin, in bounded memory. Plain files are then read with
``pread``; a compressed one is inflated into memory if it is small and read forwards if not.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ase_nnp.errors import DatasetError
from ase_nnp.files.inflate import COMPRESSED, DAMAGE, open_inflated
from ase_nnp.files.lmdb import pread

__all__ = ["FrameFile", "first_bytes", "read_text"]

_CHUNK = 8 << 20
_LONGEST_LINE = 4 << 20
_LARGEST_FRAME = 512 << 20
_HELD = 128 << 20  # inflated files up to this size are held in memory,
_HOLDERS = 2  # as many at a time


def first_bytes(path: Path, count: int = 65536) -> bytes:
    """Return the beginning of a file, inflated; empty if it cannot be read."""
    try:
        with open_inflated(path) as stream:
            return stream.read(count)
    except (*DAMAGE, DatasetError):
        return b""


def read_text(path: Path, limit: int = 1 << 30) -> str:
    """Return the whole (inflated) text of a small file."""
    try:
        with open_inflated(path) as stream:
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
    except DAMAGE as error:
        return b"".join(pieces), f"the compressed data are damaged or end early ({error})"
    return b"".join(pieces), None


class FrameFile:
    """Frames of one file by number; scanned on first use, reopened after unpickling.

    Attributes
    ----------
    path
        The file.
    word
        What :attr:`has_word` looks for.
    """

    _holders: ClassVar[list[FrameFile]] = []

    def __init__(self, path: str | Path, *, word: bytes = b"") -> None:
        self.path, self.word = Path(path), word
        self._has_word = False
        self._offsets: np.ndarray[Any, Any] | None = None
        self._problem: str | None = None
        self._stream: Any = None
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
    def has_word(self) -> bool:
        """Whether the word occurs anywhere in the text."""
        self.offsets  # noqa: B018
        return self._has_word

    @property
    def problem(self) -> str | None:
        """What follows the last whole frame, if it is no end of file."""
        self.offsets  # noqa: B018
        return self._problem

    def frame(self, number: int) -> bytes:
        """Return the text of one frame."""
        start, stop = int(self.offsets[number]), int(self.offsets[number + 1])
        if self.path.suffix.lower() not in COMPRESSED:
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

    def _opened(self) -> Any:
        if self._stream is None or self._pid != os.getpid():  # positions are shared after fork
            self._stream, self._position, self._pid = open_inflated(self.path), 0, os.getpid()
        return self._stream

    def _inflated(self, start: int, stop: int) -> bytes:
        end = int(self.offsets[-1])
        if self._held is None and end <= _HELD:
            with open_inflated(self.path) as stream:
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
        data: bytes = stream.read(stop - start)
        self._position = start + len(data)
        return data

    def _scan(self) -> None:
        try:
            stream = open_inflated(self.path)
        except OSError as error:
            raise DatasetError(f"cannot be opened: {error.strerror}", path=self.path) from None

        scan, end = _Scan(), b""
        with stream:
            more, damage = _read_some(stream, _CHUNK)
            while more and scan.problem is None:
                scan.feed(more)
                # A word may lie across two pieces.
                near = end + more[: len(self.word)]
                self._has_word = self._has_word or self.word in more or self.word in near
                end = more[-len(self.word) :]
                more, damage = _read_some(stream, _CHUNK) if damage is None else (b"", damage)
        scan.finish(damage)
        self._problem = scan.problem
        self._offsets = np.array(scan.offsets, np.int64)


class _Scan:
    """Where frames begin in a text that comes in pieces, of which nothing but a line is kept.

    Attributes
    ----------
    offsets
        Where each frame begins, and where the last whole one ends.
    problem
        Why the text behind the last whole frame is none.
    """

    def __init__(self) -> None:
        self.offsets = array("q", [0])
        self.problem: str | None = None
        self._size = 0  # of the text so far
        self._lines = 0  # of the present frame, that are still to come
        self._line = b""  # the beginning of a line with a number of atoms, or blanks at the end
        self._blank = False

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
        line, start, total = 0, 0, len(newlines)
        while line < total and not self._blank:
            # The lines of a frame are skipped at once.
            if self._lines:
                step = min(self._lines, total - line)
                self._lines, line = self._lines - step, line + step
                start, self._line = int(newlines[line - 1]) + 1, b""
                if not self._lines:
                    self.offsets.append(self._size + start)
                continue
            self._begin(self._line + data[start : newlines[line]])
            if self.problem is not None:
                return
            line, start, self._line = line + 1, int(newlines[line]) + 1, b""

        self._keep(data[start:])
        self._size += len(data)
        if self._size - self.offsets[-1] > _LARGEST_FRAME:
            self.problem = f"frame {len(self.offsets) - 1} is larger than any frame can be"

    def finish(self, damage: str | None) -> None:
        """Take the end of the text, or what ended it."""
        if damage is None and self.problem is None:
            # The last line may lack its end.
            if self._lines == 1 and self._line:
                self.offsets.append(self._size)
                return
            if not self._lines and self._line.strip():
                self._begin(self._line)
            if self._lines and self.problem is None:
                self.problem = f"frame {len(self.offsets) - 1} is cut off"
        self.problem = self.problem or damage

    def _begin(self, line: bytes) -> None:
        """Take the line in front of a frame."""
        text = line.strip()
        if text.isdigit() and len(text) <= 12:
            self._lines = int(text) + 1
        elif text:
            self._not_a_number(text)
        else:
            self._blank = True

    def _keep(self, rest: bytes) -> None:
        """Take what is no whole line of a frame."""
        if self._blank:
            if rest.strip():
                self._not_a_number(b"")
        elif self._lines:
            self._line = rest[-1:]
        else:
            self._line += rest
            if len(self._line) > _LONGEST_LINE:
                self.problem = "no line ends; this is no text of frames"

    def _not_a_number(self, text: bytes) -> None:
        number = len(self.offsets) - 1
        found = repr(text[:40]) if text else "an empty line"
        self.problem = f"frame {number} begins with {found}, not with a number of atoms"
