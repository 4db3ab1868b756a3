"""NumPy's ``.npy`` and ``.npz`` without pickles, mapped into memory where they are not compressed.

Sizes are compared with the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from ase_nnp.errors import DatasetError, UnsafeFileError
from ase_nnp.files.npz import check_members

__all__ = ["NpzArrays", "npy_array", "npz_names"]

Array = np.ndarray[Any, Any]

_LOCAL = struct.Struct("<4s5H3I2H")  # a zip member's own header
_HELD = 1 << 30  # bytes of one compressed array
_RATIO = 50  # a compressed array claims at most so many times its bytes, beyond a megabyte


def npy_array(path: Path) -> Array:
    """Map a ``.npy`` file, read-only.

    Raises
    ------
    DatasetError
        It is no array of numbers or texts, or is cut off.
    """
    try:
        with open(path, "rb") as stream:
            shape, order, dtype = _header(stream, path.name)
            start = stream.tell()
        return _mapped(path, start, shape, order, dtype, path.stat().st_size - start)
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror}", path=path) from None
    except ValueError as error:
        raise DatasetError(f"no array of NumPy ({error})", path=path) from None


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays in a ``.npz`` file; [] if it is none."""
    try:
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, RuntimeError):
        return []


class NpzArrays:
    """The arrays of one ``.npz`` file by name, opened on first use in each process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = npz_names(path)
        self._arrays: dict[str, Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            try:
                self._arrays[name] = self._load(name)
            except DatasetError as error:
                raise type(error)(f"array {name!r}: {error}", path=self.path) from None
            except Exception as error:  # zipfile and zlib raise six kinds on damaged files
                reason = f"{type(error).__name__}: {error}"
                raise DatasetError(
                    f"array {name!r} is damaged ({reason})", path=self.path
                ) from None
        return self._arrays[name]

    def close(self) -> None:
        """Drop what is held of the file."""
        self._arrays = {}

    def _load(self, name: str) -> Array:
        with zipfile.ZipFile(self.path) as archive:
            check_members(archive)
            member = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
            with archive.open(member) as stream:
                shape, order, dtype = _header(stream, name)
                skipped = stream.tell()
                # np.savez does not compress: such arrays are mapped, frame by frame from the disk.
                if member.compress_type == zipfile.ZIP_STORED:
                    start = self._start(member) + skipped
                    return _mapped(
                        self.path, start, shape, order, dtype, member.file_size - skipped
                    )

                size = math.prod(shape) * dtype.itemsize
                if size > _HELD or size > (1 << 20) + _RATIO * member.compress_size:
                    raise DatasetError(
                        f"claims {size} bytes from {member.compress_size} compressed ones"
                    )
                data = stream.read(size)
        if len(data) != size:
            raise DatasetError("it is cut off")
        return np.frombuffer(data, dtype).reshape(shape, order=order)

    def _start(self, member: zipfile.ZipInfo) -> int:
        with open(self.path, "rb") as stream:
            stream.seek(member.header_offset)
            fields = _LOCAL.unpack(stream.read(_LOCAL.size))
        return member.header_offset + _LOCAL.size + int(fields[-2]) + int(fields[-1])


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], Any, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=10000)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream, max_header_size=10000)
    else:
        raise DatasetError(f"a header of version {version}")

    # NumPy would unpickle these.
    if dtype.hasobject:
        raise UnsafeFileError(f"{name} holds Python objects, which are stored as pickles")
    if dtype.kind not in "biufUS":
        raise DatasetError(f"{name} holds {dtype}, not numbers")
    if any(size < 0 for size in shape) or len(shape) > 8:
        raise DatasetError(f"{name} has the shape {shape}")
    return shape, "F" if fortran else "C", dtype


def _mapped(
    path: Path, start: int, shape: tuple[int, ...], order: Any, dtype: np.dtype[Any], size: int
) -> Array:
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > size:
        raise DatasetError(f"claims {claimed} bytes and has {size}")
    # An empty map is an error of the system.
    if claimed == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, order)
