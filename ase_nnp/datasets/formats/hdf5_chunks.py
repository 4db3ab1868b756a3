"""Chunks of HDF5 data unpack to the size that they state, or not at all.

The library lets a chunk of deflated data grow until it ends: a megabyte of a file can become a
gigabyte, whatever size its data set has.
"""

from __future__ import annotations

import itertools
import math
import os
import zlib
from typing import TYPE_CHECKING

from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    import h5py

__all__ = ["check_chunks"]

MAX_CHUNK = 1 << 28
"""Bytes of one chunk, unpacked."""

_DEFLATE, _SHUFFLE, _FLETCHER32, _NBIT, _SCALE = 1, 2, 3, 5, 6  # numbers of HDF5's filters
_RATIO = 1032  # deflate makes at most so many bytes of one
_HARMLESS = 1 << 26  # bytes that any chunk may inflate to
_FEW = 64  # chunks that are looked up one by one
_PIECE = 1 << 20


def _deflated(data: h5py.Dataset) -> int | None:
    """Check the chunks and filters that a data set states; return the place of deflate, or None.

    Raises
    ------
    DatasetError
        Chunks beyond any use, or filters that could unpack one chunk without bound.
    """
    # Reading one number of a packed chunk unpacks all of it.
    size = math.prod(data.chunks) * data.dtype.itemsize
    if size > MAX_CHUNK:
        raise _error(data, f"is packed in chunks of more than {MAX_CHUNK >> 20} MB")

    stated = data.id.get_create_plist()
    filters = [stated.get_filter(number) for number in range(stated.get_nfilters())]
    codes = [code for code, *_ in filters]
    packing = [code for code in codes if code not in (_SHUFFLE, _FLETCHER32, _NBIT, _SCALE)]
    if len(packing) > 1:
        raise _error(data, "is packed several times over")

    # These two take the size of what they make from their own parameters.
    for code, _, values, _ in filters:
        if code in (_NBIT, _SCALE) and (len(values) < 5 or values[2] * values[4] > size):
            raise _error(data, "has a filter that makes more of a chunk than it can hold")
    if _DEFLATE not in packing:
        return None
    deflate = codes.index(_DEFLATE)
    if set(codes[deflate + 1 :]) - {_FLETCHER32}:
        raise _error(data, "has filters behind its compression, which no program writes")
    return deflate


def check_chunks(data: h5py.Dataset, entry: int | None = None) -> None:
    """Check deflated chunks before the library inflates them.

    Parameters
    ----------
    data
        Any data set.
    entry
        The entry along the first axis that will be read; all of them by default.

    Raises
    ------
    DatasetError
        A chunk holds more than it states.
    """
    shape, chunks = data.shape, data.chunks
    deflate = None if chunks is None else _deflated(data)
    if deflate is None:
        return

    steps = [range(0, size, step) for size, step in zip(shape, chunks, strict=True)]
    if entry is not None:
        steps[0] = range(entry // chunks[0] * chunks[0], entry + 1, chunks[0])
    # Looking up one chunk is logarithmic, going through all of them is linear.
    if math.prod(map(len, steps)) <= _FEW:
        stored = [data.id.get_chunk_info_by_coord(place) for place in itertools.product(*steps)]
    else:
        stored = []
        data.id.chunk_iter(stored.append)

    size = math.prod(chunks) * data.dtype.itemsize
    limit = os.path.getsize(data.file.filename)
    for chunk in stored:
        if chunk.byte_offset is None or chunk.size * _RATIO <= max(size, _HARMLESS):
            continue
        if chunk.size > limit:
            raise _error(data, f"has a chunk of {chunk.size} bytes in a file of {limit}")
        _inflate(data, chunk.chunk_offset, size, deflate)


def _inflate(data: h5py.Dataset, place: tuple[int, ...], size: int, deflate: int) -> None:
    """Inflate a chunk piece by piece, as far as it may go, and keep nothing."""
    left_out, packed = data.id.read_direct_chunk(place)
    if left_out >> deflate & 1:
        return
    stream, total = zlib.decompressobj(), 0
    try:
        while packed and not stream.eof:
            total += len(stream.decompress(packed, _PIECE))
            if total > size:
                raise _error(data, f"has a chunk that inflates to more than its {size} bytes")
            packed = stream.unconsumed_tail
    except zlib.error as error:
        raise _error(data, f"has a damaged chunk ({error})") from None


def _error(data: h5py.Dataset, message: str) -> DatasetError:
    name = data.name or "?"
    return DatasetError(f"{name.rpartition('/')[2]} {message}", path=data.file.filename, key=name)
