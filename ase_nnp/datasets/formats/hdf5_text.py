"""Strings of variable length in HDF5 files, read without the library's own reader.

On a damaged file that reader may loop for ever or ask for gigabytes. The layout is simple: each
element is a length, and the address and index of an object in a *global heap collection*.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    import mmap

    import h5py

_REFERENCE = struct.Struct("<IQI")  # length, address of the collection, index in it
_COLLECTION = struct.Struct("<4sB3xQ")  # signature, version, size
_OBJECT = struct.Struct("<HHIQ")  # index, references, reserved, size


def strings(data: h5py.Dataset, limit: int) -> list[str] | None:
    """Return the strings of a dataset in one piece, or None where it is stored otherwise.

    Raises
    ------
    DatasetError
        For a damaged reference or heap, or more than ``limit`` bytes.
    """
    start = data.id.get_offset()
    plain = data.file.id.get_create_plist()
    if start is None or plain.get_sizes() != (8, 8) or plain.get_userblock() != 0:
        return None

    count = int(data.size)
    if count * _REFERENCE.size > limit:
        raise DatasetError(f"{data.name} claims {count} strings")
    with open(data.file.filename, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        raw = os.pread(file.fileno(), count * _REFERENCE.size, start)
        if len(raw) != count * _REFERENCE.size:
            raise DatasetError(f"{data.name} lies outside the file")

        texts = []
        for length, address, index in _REFERENCE.iter_unpack(raw):
            if length > min(limit, size):
                raise DatasetError(f"{data.name} claims a string of {length} bytes")
            text = _heap_object(file.fileno(), size, address, index, limit)[:length]
            if length and len(text) != length:
                raise DatasetError(f"{data.name} has a string that is cut short")
            texts.append(text.rstrip(b"\0").decode("utf-8", "replace"))
    return texts


def _heap_object(fd: int, file_size: int, address: int, index: int, limit: int) -> bytes:
    if address == 0 or index == 0:
        return b""  # an empty string
    if address + _COLLECTION.size > file_size:
        raise DatasetError("a string refers to a place outside the file")
    signature, version, size = _COLLECTION.unpack(os.pread(fd, _COLLECTION.size, address))
    if signature != b"GCOL" or version != 1 or address + size > file_size:
        raise DatasetError("a damaged heap of strings")

    heap = os.pread(fd, min(size, 2 * limit + 65536), address)
    position = _COLLECTION.size
    while position + _OBJECT.size <= len(heap):
        number, _, _, length = _OBJECT.unpack_from(heap, position)
        position += _OBJECT.size
        if number == index:
            return heap[position : position + length]
        if number == 0:  # free space reaches to the end
            break
        position += -(-length // 8) * 8
    raise DatasetError("a string is missing from its heap")


def check_heaps(path: str | os.PathLike[str]) -> None:
    """Refuse a file with a damaged heap, before the library reads text attributes from it.

    Attributes cannot be read past the library, and a heap whose sizes do not add up makes it loop.

    Raises
    ------
    DatasetError
        Naming the place.
    """
    import mmap

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(b"GCOL")
        while start >= 0:
            if len(content) - start >= _COLLECTION.size:
                _, version, size = _COLLECTION.unpack_from(content, start)
                reserved = content[start + 5 : start + 8]
                if version == 1 and reserved == b"\0\0\0" and not _adds_up(content, start, size):
                    raise DatasetError(f"a damaged heap of strings at byte {start}", path=path)
            start = content.find(b"GCOL", start + 4)


def _adds_up(content: mmap.mmap, start: int, size: int) -> bool:
    end = start + size
    if end > len(content):
        return False
    position = start + _COLLECTION.size
    while position + _OBJECT.size <= end:
        number, _, _, length = _OBJECT.unpack_from(content, position)
        if number == 0:  # what is left is free, counted with this header
            return bool(length == end - position)
        position += _OBJECT.size + -(-length // 8) * 8
    return position <= end
