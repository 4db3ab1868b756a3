"""The identity of what is converted: one hash of content and settings.

A conversion is continued only with the input it began with. A list of structures is hashed whole.
Of files (:meth:`~ase_nnp.datasets.shard.Shard.files`), size and time of change count, and the
content of :data:`SAMPLE` records, evenly spread; a path does not count, so that data may be moved
meanwhile. So do the positions that a view shows, and whatever changes how records are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ase_nnp.datasets.own_labels import labeled_sample
from ase_nnp.datasets.writing.encode import flat_record
from ase_nnp.errors import DatasetError

__all__ = ["SAMPLE", "identity"]

#: Records of a dataset of files whose content is hashed.
SAMPLE = 64


def identity(dataset: Any, *settings: Any) -> str:
    """Return the hash of what must be equal for a conversion to be continued.

    Parameters
    ----------
    dataset
        An AtomsDataset, or any sequence of Atoms.
    settings
        Whatever else changes the result; their ``repr`` counts.
    """
    digest = hashlib.sha256(repr((len(dataset), *settings)).encode())
    files = _files(dataset)
    digest.update(repr((files, getattr(dataset, "wanted", None))).encode())

    positions = getattr(dataset, "positions", None)
    if positions is not None:
        digest.update(np.ascontiguousarray(positions, np.int64).tobytes())

    # Only files can be told apart without reading them; anything else is read whole.
    count = min(len(dataset), SAMPLE) if files else len(dataset)
    numbers: Iterable[int] = np.linspace(0, len(dataset) - 1, count, dtype=np.int64).tolist()
    for number in numbers:
        digest.update(hashlib.sha256(_content(dataset, number)).digest())
    return digest.hexdigest()[:32]


def _files(dataset: Any) -> list[tuple[Any, ...]]:
    """Sizes, times and reading options of each shard; empty if a file cannot be looked at."""
    stamps: list[tuple[Any, ...]] = []
    for shard in getattr(dataset, "shards", ()):
        try:
            states = [file.stat() for file in shard.files()]
        except OSError:
            return []
        sizes = tuple((state.st_size, state.st_mtime_ns) for state in states)
        stamps.append((sizes, shard.format, repr(shard.options)))
    return stamps


def _content(dataset: Any, number: int) -> bytes:
    """Numbers, positions, cell, pbc, labels and information of a record; or why there are none."""
    arrays = getattr(dataset, "arrays", None)
    try:
        sample = labeled_sample(dataset[number]) if arrays is None else arrays(number)
        return flat_record(sample)
    except DatasetError as error:
        return repr(error).encode()
