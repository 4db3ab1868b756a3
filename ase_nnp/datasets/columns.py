"""Metadata columns of a dataset: indexed once, cached per file, no decoding afterwards.

The cache lies in the user's cache folder (``$ASE_NNP_CACHE``, else ``$XDG_CACHE_HOME/ase_nnp``,
else ``~/.cache/ase_nnp``), never beside the data unless asked for with ``cache="beside"``. A file
that changed (path, size or time of change) is indexed anew; its neighbors are not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.symbols import atomic_number
from ase_nnp.errors import DatasetError
from ase_nnp.files.atomic import whole_file
from ase_nnp.files.npz import read_npz

if TYPE_CHECKING:
    from ase_nnp.datasets.sample import Sample
    from ase_nnp.datasets.shard import Shard

__all__ = ["Columns", "cache_folder", "columns"]

Array = np.ndarray[Any, Any]
_VERSION = 2


@dataclass(frozen=True)
class Columns:
    """One entry a structure, n in all.

    Attributes
    ----------
    natoms
        (n,) int32; 0 marks a record that could not be read (``on_error="mark"``).
    sid
        (n,) int64 if all are integers, else strings; "" where there is none.
    fid
        (n,) int64 frame number, ``NO_FRAME`` where there is none.
    energy
        (n,) float64 eV as stored, NaN where there is none.
    num_edges
        (n,) int64 stored edges, -1 where there are none.
    tags
        (n,) uint8, bit k set if an atom has tag k.
    first, elements, counts
        Composition: structure i has ``counts[first[i]:first[i+1]]`` atoms of the atomic numbers
        ``elements[first[i]:first[i+1]]``.
    """

    natoms: Array
    sid: Array
    fid: Array
    energy: Array
    num_edges: Array
    tags: Array
    first: Array
    elements: Array
    counts: Array

    NO_FRAME = -(2**62)

    def __len__(self) -> int:
        return len(self.natoms)

    def __getitem__(self, name: str) -> Any:
        """Return a column by name; ``"composition"`` as a list of dicts."""
        if name == "composition":
            return [self.composition(index) for index in range(len(self))]
        if name not in {field.name for field in fields(self)}:
            raise KeyError(name)
        return getattr(self, name)

    def composition(self, index: int) -> dict[int, int]:
        """Return atom counts by atomic number of one structure."""
        part = slice(self.first[index], self.first[index + 1])
        return dict(zip(self.elements[part].tolist(), self.counts[part].tolist(), strict=True))

    def count(self, element: int | str) -> Array:
        """Return (n,) number of atoms of one element in each structure."""
        matches = np.where(self.elements == atomic_number(element), self.counts, 0)
        total = np.concatenate([[0], np.cumsum(matches, dtype=np.int64)])
        counts: Array = total[self.first[1:]] - total[self.first[:-1]]
        return counts

    def take(self, index: Array | None) -> Columns:
        """Return the columns of a view."""
        if index is None:
            return self
        sizes = np.diff(self.first)[index]
        first = np.concatenate([[0], np.cumsum(sizes)])
        where = np.repeat(self.first[:-1][index] - first[:-1], sizes) + np.arange(first[-1])
        simple = {
            name: getattr(self, name)[index]
            for name in ("natoms", "sid", "fid", "energy", "num_edges", "tags")
        }
        return Columns(
            **simple, first=first, elements=self.elements[where], counts=self.counts[where]
        )

    @staticmethod
    def concat(parts: list[Columns]) -> Columns:
        """Join the columns of several files."""
        if len(parts) == 1:
            return parts[0]
        joined: dict[str, Array] = {}
        for field in fields(Columns):
            values = [getattr(part, field.name) for part in parts]
            if field.name == "first":
                starts = np.cumsum([0] + [value[-1] for value in values])
                values = [v[:-1] + start for v, start in zip(values, starts, strict=False)]
                values.append(starts[-1:])
            if field.name == "sid" and len({value.dtype.kind for value in values}) > 1:
                values = [value.astype(str) for value in values]
            joined[field.name] = np.concatenate(values) if values else np.zeros(0)
        return Columns(**joined)


def cache_folder() -> Path:
    """Return the folder of cached metadata; it may not exist yet."""
    chosen = os.environ.get("ASE_NNP_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ase_nnp"


def columns(
    shards: Iterable[Shard],
    *,
    cache: str | None = "user",
    progress: Callable[[int, int], None] | None = None,
    on_error: str = "raise",
) -> Columns:
    """Return the metadata of files, from the cache where it is fresh.

    Parameters
    ----------
    shards
        The files.
    cache
        ``"user"``, ``"beside"`` the data, or None for no cache.
    progress
        Called as ``progress(done, total)`` now and then.
    on_error
        ``"raise"`` at the first broken record, or ``"mark"`` it by ``natoms`` 0 (not cached).
    """
    shards = list(shards)
    if not shards:
        raise DatasetError("no files, no metadata")

    done, total = 0, sum(map(len, shards))
    parts = []
    for shard in shards:
        file = _cache_file(shard, cache)
        part = _read_cache(file, len(shard))
        if part is None:
            tick = _ticker(progress, done, total)
            part = _index(shard, tick, on_error)
            if file is not None and part.natoms.all():
                _write_cache(file, part)
        done += len(shard)
        if progress is not None:
            progress(done, total)
        parts.append(part)
    return Columns.concat(parts)


def _ticker(
    progress: Callable[[int, int], None] | None, start: int, total: int
) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda number: progress(start + number, total) if number % 256 == 0 else None


def _index(shard: Shard, tick: Callable[[int], None] | None, on_error: str) -> Columns:
    n = len(shard)
    natoms, energy = np.zeros(n, np.int32), np.full(n, np.nan)
    fid = np.full(n, Columns.NO_FRAME, np.int64)
    num_edges, tags = np.full(n, -1, np.int64), np.zeros(n, np.uint8)
    sids: list[Any] = [""] * n
    sizes, elements, counts = np.zeros(n, np.int64), [], []

    for number in range(n):
        if tick is not None:
            tick(number)
        try:
            sample = shard.arrays(number)
        except DatasetError:
            if on_error == "raise":
                raise
            continue

        numbers, info = sample["atomic_numbers"], sample["info"]
        natoms[number] = len(numbers)
        energy[number] = sample.get("energy", np.nan)
        sids[number] = info.get("sid", "")
        fid[number] = _frame(info)
        if "edge_index" in sample:
            num_edges[number] = sample["edge_index"].shape[1]
        tags[number] = _tag_bits(sample)
        histogram = np.bincount(numbers)
        present = np.flatnonzero(histogram)
        sizes[number] = len(present)
        elements.append(present.astype(np.uint8))
        counts.append(histogram[present].astype(np.int32))

    whole = all(isinstance(sid, (int, np.integer)) and not isinstance(sid, bool) for sid in sids)
    return Columns(
        natoms=natoms,
        sid=np.array(sids, np.int64) if whole and n else np.array([str(sid) for sid in sids], str),
        fid=fid,
        energy=energy,
        num_edges=num_edges,
        tags=tags,
        first=np.concatenate([[0], np.cumsum(sizes)]),
        elements=np.concatenate(elements) if elements else np.zeros(0, np.uint8),
        counts=np.concatenate(counts) if counts else np.zeros(0, np.int32),
    )


def _frame(info: dict[str, Any]) -> int:
    value = info.get("fid")
    return int(value) if isinstance(value, (int, np.integer)) else Columns.NO_FRAME


def _tag_bits(sample: Sample) -> int:
    tags = sample.get("tags")
    if tags is None:
        return 1
    return sum(1 << int(tag) for tag in np.unique(tags) if 0 <= tag < 8)


# ---- the cache: .npz files without pickles


def _cache_file(shard: Shard, cache: str | None) -> Path | None:
    if cache is None:
        return None
    path = os.path.abspath(shard.path)
    if not os.path.isfile(path):
        return None
    try:
        states = [os.stat(file) for file in shard.files()]
    except OSError:
        return None
    stamps = [(state.st_size, state.st_mtime_ns) for state in states]
    identity = repr((_VERSION, path, stamps, shard.format, shard.options, len(shard)))
    name = hashlib.sha256(identity.encode()).hexdigest()[:32] + ".npz"
    if cache == "beside":
        return Path(path).parent / ".ase_nnp" / name
    if cache != "user":
        raise DatasetError(f"cache is {cache!r}; it is 'user', 'beside' or None")
    return cache_folder() / name


def _read_cache(file: Path | None, n: int) -> Columns | None:
    if file is None or not file.is_file():
        return None
    try:
        stored = read_npz(file, DatasetError)
        cached = Columns(**{field.name: stored[field.name] for field in fields(Columns)})
    except (DatasetError, KeyError):
        return None  # a damaged cache is rebuilt
    return cached if len(cached) == n and len(cached.first) == n + 1 else None


def _write_cache(file: Path, part: Columns) -> None:
    """Write beside and rename; a cache that cannot be written is only slower."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as beside:
            np.savez(beside, **{f.name: getattr(part, f.name) for f in fields(Columns)})
    except OSError:
        pass
