"""Text files of frames that begin with a marked line, by frame number, in bounded memory."""

from __future__ import annotations

import re
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.formats.byteranges import ByteRanges
from ase_nnp.datasets.shard import Shard
from ase_nnp.errors import DatasetError

__all__ = ["BlockShard", "numbers_table"]

_LARGEST_BLOCK = 512 << 20
_LONGEST_LINE = 64 << 20


class BlockShard(Shard):
    """A shard whose records are the blocks of a text file; scanned once for where they begin.

    A subclass gives :attr:`marker`, with which the first line of a block begins, and ``read``.
    """

    marker: bytes = b""
    what = "frames"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = ByteRanges(self.path)
        self._starts, size = self._scan()
        if not len(self._starts):
            raise DatasetError(f"no {self.what}: no line {self.marker.decode()!r}", path=self.path)
        self._stops = np.append(self._starts[1:], size)
        self._file.hold(size)

    def __len__(self) -> int:
        return len(self._starts)

    def text(self, index: int) -> str:
        """Return the text of a block."""
        start, stop = int(self._starts[index]), int(self._stops[index])
        if stop - start > _LARGEST_BLOCK:
            raise DatasetError(f"one frame of {stop - start} bytes")
        return self._file.read(start, stop).decode("utf-8", "replace")

    def head(self) -> str:
        """Return what stands before the first block, at most a kilobyte of it."""
        return self._file.read(0, min(int(self._starts[0]), 1024)).decode("utf-8", "replace")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _scan(self) -> tuple[Any, int]:
        pattern = re.compile(rb"^[ \t]*" + re.escape(self.marker), re.MULTILINE)
        starts = array("q")
        base, text = 0, b""
        for chunk in self._file.chunks():
            text += chunk
            # Whole lines only: a marker may lie across two chunks.
            end = text.rfind(b"\n") + 1
            if not end and len(text) > _LONGEST_LINE:
                raise DatasetError("no line ends; this is no text of frames", path=self.path)
            starts.extend(base + match.start() for match in pattern.finditer(text[:end]))
            base, text = base + end, text[end:]
        starts.extend(base + match.start() for match in pattern.finditer(text))
        return np.array(starts, np.int64), base + len(text)


def numbers_table(rows: list[list[str]], width: int, what: str) -> Any:
    """Return rows of words as (n, width) numbers.

    Raises
    ------
    DatasetError
        A row has other words, or another number of them.
    """
    if any(len(row) != width for row in rows):
        raise DatasetError(f"{what}: rows of other than {width} values")
    try:
        return np.array(rows, float).reshape(-1, width)
    except ValueError as error:
        raise DatasetError(f"{what}: {error}") from None
