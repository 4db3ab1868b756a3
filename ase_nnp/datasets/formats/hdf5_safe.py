"""Reading HDF5 without trusting it: links stay inside the file, sizes are checked first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.formats.hdf5_chunks import check_chunks
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    import h5py

MAX_ATOMS = 1_000_000
"""Atoms of one structure; a larger claim is a damaged or hostile file."""
MAX_TEXT = 1_000_000
"""Bytes of one string field."""

#: What h5py raises on damaged files.
H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeDecodeError)

_DIGITS = re.compile(r"(\d+)")


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``config_2`` before ``config_10``."""
    return [
        (0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part)
        for part in _DIGITS.split(name)
        if part
    ]


def children(group: h5py.Group) -> list[str]:
    """Return the names in a group, numbers in numeric order; a link out of the file is refused."""
    import h5py

    # A soft or external link may name any file of the machine that reads.
    names = sorted(group.keys(), key=natural)
    for name in names:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            target = getattr(link, "filename", None) or getattr(link, "path", "?")
            raise DatasetError(
                f"{type(link).__name__} to {str(target)!r}; only data inside the file is read",
                path=group.file.filename,
                key=f"{group.name.rstrip('/')}/{name}",
            )
    return names


def groups(group: h5py.Group) -> Iterator[h5py.Group]:
    """Yield the sub-groups in natural order."""
    import h5py

    for name in children(group):
        item = group[name]
        if isinstance(item, h5py.Group):
            yield item


def dataset(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return a dataset of this file, or None; external storage and virtual ones are refused."""
    import h5py

    link = group.get(name, getlink=True) if name in group else None
    if link is None:
        return None
    item = group[name] if isinstance(link, h5py.HardLink) else None
    if item is None or (
        isinstance(item, h5py.Dataset) and (item.external is not None or item.is_virtual)
    ):
        raise DatasetError(
            "its data lie in another file; only data inside the file is read",
            path=group.file.filename,
            key=f"{group.name.rstrip('/')}/{name}",
        )
    if not isinstance(item, h5py.Dataset):
        return None
    return item


def shape(group: h5py.Group, name: str) -> tuple[int, ...] | None:
    """Return the shape of a dataset without reading it, or None if it is absent."""
    data = dataset(group, name)
    return None if data is None or data.shape is None else tuple(map(int, data.shape))


def numeric(value: Any) -> bool:
    """Whether an array holds plain numbers or bools."""
    return np.asarray(value).dtype.kind in "fiub"


def whole(group: h5py.Group, name: str, limit: int = 3 * MAX_ATOMS) -> Any:
    """Read a dataset of at most ``limit`` numbers; None if absent, bytes become str."""
    data = dataset(group, name)
    if data is None or data.shape is None:
        return None
    if data.size > limit or data.size * data.dtype.itemsize > 8 * limit + MAX_TEXT:
        raise DatasetError(
            f"{name} claims {data.size} entries; at most {limit} are believed",
            path=group.file.filename,
            key=group.name,
        )

    # The library's reader of texts may loop in a damaged file; ours does not.
    if _is_text(data):
        strings = _strings(data, limit)
        if strings is not None:
            return strings if data.shape else strings[0]
    check_chunks(data)
    return text(data[()])


def attribute(root: h5py.Group, name: str) -> str | None:
    """Return a short attribute of text of fixed length, as our writer makes them."""
    if name not in root.attrs:
        return None
    stored = root.attrs.get_id(name)
    # What the library would have to follow through the file is left alone.
    if stored.shape != () or stored.dtype.kind != "S" or stored.dtype.itemsize > 4096:
        return None
    return bytes(root.attrs[name]).decode("utf-8", "replace")


def row(group: h5py.Group, name: str, frame: int, limit: int = 3 * MAX_ATOMS) -> Any:
    """Read one entry along the first axis; None if the dataset is absent."""
    data = dataset(group, name)
    if data is None or data.shape is None:
        return None
    if not data.shape or frame >= data.shape[0]:
        raise DatasetError(
            f"{name} has shape {data.shape}, so no entry {frame}",
            path=group.file.filename,
            key=group.name,
        )

    if int(np.prod(data.shape[1:], dtype=object)) > limit:
        raise DatasetError(
            f"{name} claims shape {data.shape}; at most {limit} numbers an entry are believed",
            path=group.file.filename,
            key=group.name,
        )

    if _is_text(data):
        strings = _strings(data, limit)
        if strings is not None:
            return strings[frame]
    check_chunks(data, frame)
    return text(data[frame])


def _is_text(data: h5py.Dataset) -> bool:
    import h5py

    kind = h5py.check_string_dtype(data.dtype)
    return kind is not None and kind.length is None


def _strings(data: h5py.Dataset, limit: int) -> list[str] | None:
    from ase_nnp.datasets.formats.hdf5_text import strings

    return strings(data, limit)


def text(value: Any) -> Any:
    """Decode bytes to str, leave numbers alone."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        flat = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value.flat]
        return flat if value.ndim else flat[0]
    return value
