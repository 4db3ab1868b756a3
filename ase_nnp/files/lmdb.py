"""Read LMDB files with ``pread`` alone: no memory map, no lock, no writing.

The C library maps the file and trusts every page number and offset in it, so a truncated or
damaged file ends the process with SIGBUS or SIGSEGV. Here each offset is checked before it is
used, and a page that is not there is an error. Nothing is mapped, so resident memory does not
grow with what was read, and a descriptor that was opened before ``fork`` stays valid.

Layout (LMDB 0.9, data version 1, little-endian): two meta pages, of which the one with the higher
transaction number counts, and a B+ tree of pages below ``root``. A value longer than about half a
page lies on overflow pages of its own. A writer never touches the pages of the last committed
transaction; if a newer one appears while we read, the lookup is repeated on it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from ase_nnp.errors import DatasetError

__all__ = ["LmdbFile", "looks_like_lmdb", "pread"]

_MAGIC = 0xBEEFC0DE
_META = struct.Struct("<IIQQ IHHQQQQQ IHHQQQQQ QQ")
_HEADER = struct.Struct("<QHHHH")  # page number, padding, flags, lower, upper
_NODE = struct.Struct("<HHHH")  # size or page (low, high), flags, key size
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_BIG = 1  # the value lies on overflow pages
_EMPTY = 2**64 - 1
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_MAX_OPEN = 200  # descriptors kept open by this process
_CACHED_PAGES = 64
_ONE_READ = 65536  # values shorter than this come with their header


def _seek_and_read(fd: int, count: int, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, count)


#: Read at an offset; where the system has no such call, threads must not share a file.
pread = getattr(os, "pread", _seek_and_read)


def looks_like_lmdb(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (24 bytes or more) is an LMDB data file."""
    return len(head) >= 24 and int.from_bytes(head[16:20], "little") == _MAGIC


class LmdbFile:
    """One LMDB data file, opened on first use and reopened after unpickling.

    Parameters
    ----------
    path
        The data file, or a folder in LMDB's directory layout (``data.mdb`` inside).

    Raises
    ------
    DatasetError
        From every method: the file is no LMDB file, is cut short, or a page is damaged.
    """

    _open_count = 0

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path / "data.mdb" if self.path.is_dir() else self.path
        self._fd: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._head = b""
        self._page_size = self._root = self._depth = self._last = self.entries = 0
        self._pages: dict[int, bytes] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; the next read opens it again."""
        fd, self._fd = getattr(self, "_fd", None), None
        if fd is not None:
            LmdbFile._open_count -= 1
            os.close(fd)

    # ---- reading

    def __len__(self) -> int:
        """Entries of the main database, whatever their keys."""
        fd = self._open()
        self._refresh(fd)
        self._release(fd)
        return self.entries

    def get(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, or None if there is no such key."""
        fd = self._open()
        try:
            if not self._head:
                self._refresh(fd)
            for _ in range(100):
                value, failure, head = None, None, self._head
                try:
                    value = self._lookup(fd, key)
                except DatasetError as error:
                    failure = error
                except IndexError:
                    failure = self._error("damaged: a node lies outside its page")

                # A writer may use pages of an old state again while they are read.
                if not self._refresh(fd) and self._head is head:  # nobody committed meanwhile
                    if failure is not None:
                        raise failure
                    return value
            raise self._error("another process rewrites this file faster than it can be read")
        finally:
            self._release(fd)

    def __iter__(self) -> Iterator[bytes]:
        return self.keys()

    def keys(self) -> Iterator[bytes]:
        """All keys in LMDB's order (bytewise: 0, 1, 10, 11, 2)."""
        fd = self._open()
        try:
            self._refresh(fd)
            if self._root != _EMPTY:
                yield from self._walk(fd, self._root, 0)
        finally:
            self._release(fd)

    # ---- the file

    def _error(self, message: str, key: bytes | None = None) -> DatasetError:
        return DatasetError(message, path=self.path, key=key)

    def _open(self) -> int:
        if self._fd is not None:
            return self._fd
        try:
            fd = os.open(self._file, _FLAGS)
        except OSError as error:
            raise self._error(f"cannot be opened: {error.strerror}") from None
        if LmdbFile._open_count < _MAX_OPEN:
            LmdbFile._open_count += 1
            self._fd = fd
        return fd

    def _release(self, fd: int) -> None:
        if fd != self._fd:
            os.close(fd)

    def _refresh(self, fd: int) -> bool:
        """Read the meta pages; True if they changed since the last time."""
        head = pread(fd, (self._page_size or 4096) + 16 + _META.size, 0)
        if head and head == self._head:
            return False
        page_size, metas = 4096, []
        for number in (0, 1):
            if number and page_size != 4096:
                head = pread(fd, page_size + 16 + _META.size, 0)
            start = number * page_size + 16
            if len(head) < start + _META.size:
                raise self._error(f"too short for an LMDB file ({os.fstat(fd).st_size} bytes)")
            meta = _META.unpack_from(head, start)
            if meta[0] != _MAGIC or meta[1] != 1:
                raise self._error("not an LMDB data file of version 1 (bad meta page)")
            page_size = meta[4]
            if page_size & (page_size - 1) or not 512 <= page_size <= 65536:
                raise self._error(f"page size {page_size} cannot be")
            metas.append(meta)

        # LMDB writes its two meta pages by turns: the later transaction counts.
        meta = max(metas, key=lambda m: m[-1])
        flags, depth, entries, root, last = meta[13], meta[14], meta[18], meta[19], meta[20]

        size = os.fstat(fd).st_size
        if last < 1 or (last + 1) * page_size > size:
            raise self._error(
                f"truncated or damaged: {size} bytes where the header announces "
                f"{(last + 1) * page_size}; copy or download it again"
            )
        if flags & 0x7FFF:
            raise self._error("an LMDB file with special key order or duplicate keys")
        if depth > 64 or (root != _EMPTY and not 2 <= root <= last):
            raise self._error("damaged: the root page cannot be")

        self._head, self._page_size, self._depth = head, page_size, depth
        self._root, self._last, self.entries = root, last, entries if root != _EMPTY else 0
        self._pages = {}
        return True

    def _page(self, fd: int, number: int) -> bytes:
        pages = self._pages  # another thread may begin a new snapshot
        page = pages.get(number)
        if page is None:
            if not 2 <= number <= self._last:
                raise self._error(f"damaged: page {number} of {self._last + 1} is asked for")

            page = pread(fd, self._page_size, number * self._page_size)
            if len(page) != self._page_size:
                raise self._error("the file shrank while it was open")
            page_number, _, flags, lower, _ = _HEADER.unpack_from(page)
            if page_number != number or flags & 7 not in (_BRANCH, _LEAF) or flags & 0x20:
                raise self._error(f"damaged: page {number} is not a tree page")
            if not 16 <= lower <= self._page_size:
                raise self._error(f"damaged: page {number} has a broken header")

            if len(pages) >= _CACHED_PAGES:
                pages.clear()
            pages[number] = page
        return page

    def _node(self, page: bytes, index: int) -> tuple[int, int, int, int, int]:
        """Return low, high, flags and the bounds of the key of one node."""
        offset = page[16 + 2 * index] | page[17 + 2 * index] << 8
        if offset + 8 > len(page):
            raise self._error("damaged: a node lies outside its page")
        low, high, flags, key_size = _NODE.unpack_from(page, offset)
        end = offset + 8 + key_size
        if end > len(page):
            raise self._error("damaged: a key lies outside its page")
        return low, high, flags, offset + 8, end

    def _lookup(self, fd: int, key: bytes) -> bytes | None:
        if self._root == _EMPTY:
            return None
        number = self._root
        for _ in range(self._depth + 1):
            page = self._page(fd, number)
            branch = page[10] & _BRANCH
            low, high = branch, (page[12] | page[13] << 8) - 16 >> 1
            if high < 1:
                raise self._error(f"damaged: page {number} is empty")

            while low < high:  # first node whose key is greater
                middle = (low + high) >> 1
                offset = page[16 + 2 * middle] | page[17 + 2 * middle] << 8
                end = offset + 8 + (page[offset + 6] | page[offset + 7] << 8)
                if key < page[offset + 8 : end]:
                    high = middle
                else:
                    low = middle + 1
            if low == 0:
                return None
            lower, upper, flags, start, end = self._node(page, low - 1)
            if not branch:
                return self._value(fd, page, lower | upper << 16, flags, end) if (
                    page[start:end] == key
                ) else None  # fmt: skip
            number = lower | upper << 16 | flags << 32
        raise self._error("damaged: the tree is deeper than its header says")

    def _value(self, fd: int, page: bytes, size: int, flags: int, start: int) -> bytes:
        if flags == 0:
            if start + size > len(page):
                raise self._error("damaged: a value reaches past its page")
            return page[start : start + size]
        if flags != _BIG or start + 8 > len(page):
            raise self._error("damaged, or an LMDB file with several databases in it")
        number = int.from_bytes(page[start : start + 8], "little")
        position = number * self._page_size
        if not 2 <= number <= self._last:
            raise self._error(f"damaged: overflow page {number} of {self._last + 1}")

        # A small value comes with its header in one read; a large one is read into its own bytes.
        data = pread(fd, 16 + (size if size < _ONE_READ else 0), position)
        if len(data) < 16:
            raise self._error("the file shrank while it was open")
        page_number, _, kind, low, high = _HEADER.unpack_from(data)
        if page_number != number or not kind & _OVERFLOW:
            raise self._error(f"damaged: page {number} is not an overflow page")
        if size > (low | high << 16) * self._page_size - 16:
            raise self._error(f"damaged: a value of {size} bytes on too few pages")

        value = data[16:] if size < _ONE_READ else pread(fd, size, position + 16)
        if len(value) != size:
            raise self._error("the file shrank while it was open")
        return value

    def _walk(self, fd: int, number: int, depth: int) -> Iterator[bytes]:
        if depth > self._depth:
            raise self._error("damaged: the tree is deeper than its header says")
        page = self._page(fd, number)
        for index in range((page[12] | page[13] << 8) - 16 >> 1):
            lower, upper, flags, start, end = self._node(page, index)
            if page[10] & _LEAF:
                yield page[start:end]
            else:
                yield from self._walk(fd, lower | upper << 16 | flags << 32, depth + 1)
