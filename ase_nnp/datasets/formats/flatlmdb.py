"""LMDB files of flat binary records: what legacy OC20 files become, without pickles.

A record has the layout of a safetensors file, so that reading one is slicing bytes. The entry
``__format__`` tells these files from legacy ones with the same ending.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.lmdb_sniff import lmdb_kind, open_lmdb
from ase_nnp.datasets.formats.rows import parse_json, plain
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import Shard
from ase_nnp.datasets.writing.encode import NESTED, REST, put_back
from ase_nnp.datasets.writing.record_writers import FLAT_KEY, FLAT_MAGIC
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "FlatLMDBShard", "decode_record", "open_flat_lmdb"]

_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


def decode_record(record: bytes) -> Sample:
    """Decode one flat record; arrays are read-only views of ``record``.

    Raises
    ------
    DatasetError
        If a length, type or range in the header does not fit the record.
    """
    import orjson

    size = int.from_bytes(record[:8], "little")
    if len(record) < 8 or size > len(record) - 8:
        raise DatasetError(f"a record of {len(record)} bytes with a header of {size}")
    try:
        header = orjson.loads(record[8 : 8 + size])
        rest = _json(header.pop("__metadata__")["rest"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"the header of the record is damaged ({error})") from error
    sample: Sample = {"info": {}}
    for name, entry in header.items():
        _put(sample, name, _view(record, 8 + size, name, entry))
    odd = rest.pop(REST, None)
    for name, value in rest.items():
        _put(sample, name, value)
    if odd is not None:
        put_back(sample, odd)
    for name in ("atomic_numbers", "positions", "cell", "pbc"):
        if not isinstance(sample.get(name), np.ndarray):
            raise DatasetError(f"no {name} in the record")
    if sample["pbc"].shape != (3,):
        raise DatasetError(f"pbc has shape {sample['pbc'].shape}, wanted (3,)")
    return sample


def _json(text: str) -> dict[str, Any]:
    values = parse_json(text.encode())
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return {name: plain(v, name) for name, v in values.items()} if '{"__' in text else values


def _view(record: bytes, start: int, name: str, entry: Any) -> Any:
    """Return an array over the bytes of ``record``, after checking every number."""
    try:
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        shape = tuple(int(n) for n in entry["shape"])
        first, last = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"the header of {name!r} is damaged ({error})") from error
    count = math.prod(shape)
    fits = 0 <= first <= last <= len(record) - start and min(shape, default=0) >= 0
    if not fits or count * dtype.itemsize != last - first:
        raise DatasetError(f"{name!r} of shape {shape} does not fit bytes {first} to {last}")
    return np.frombuffer(record, dtype, count, start + first).reshape(shape)


def _put(sample: Sample, name: str, value: Any) -> None:
    part, _, key = name.partition(".")
    if key and part in NESTED:
        sample.setdefault(part, {})[key] = value
    else:
        sample[name] = value


class FlatLMDBShard(Shard):
    """One file of flat records under the keys 0, 1, 2, ..."""

    format = "flat-lmdb"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = open_lmdb(self.path)
        if self._file.get(FLAT_KEY) != FLAT_MAGIC:
            raise DatasetError("no LMDB file of flat records, or of a later version", path=path)
        length = self._file.get(b"length") or b""
        if not length.isdigit() or int(length) > self._file.entries:
            raise DatasetError(
                f"length is {length!r} with {self._file.entries} entries", path=path, key="length"
            )
        self._length = int(length)
        about = self._about()
        self.energy_kind = about.get("energy_kind", "total")
        self.energy_reference = about.get("energy_reference")

    def _about(self) -> dict[str, str]:
        import orjson

        try:
            about = orjson.loads(self._file.get(b"metadata") or b"{}")
        except orjson.JSONDecodeError as error:
            raise DatasetError(str(error), path=self.path, key="metadata") from error
        return dict(about) if isinstance(about, dict) else {}

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> Sample:
        """Decode record ``index``."""
        record = self._file.get(str(index).encode())
        if record is None:
            raise DatasetError("the record is missing")
        return decode_record(record)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._file.close()


def _is_flat(path: Path) -> bool:
    return lmdb_kind(path) == "flat"


def open_flat_lmdb(files: Sequence[Path], *, energy_kind: str | None = None) -> AtomsDataset:
    """Open files of flat records as one dataset, in the order given."""
    return AtomsDataset([FlatLMDBShard(Path(file)) for file in files], energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="flat-lmdb",
    summary="LMDB of flat binary records, what ase_nnp writes as .lmdb (no pickles)",
    sniff=_is_flat,
    open=open_flat_lmdb,
    suffixes=(".lmdb",),
)
