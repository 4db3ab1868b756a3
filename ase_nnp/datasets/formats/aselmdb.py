"""ASE-LMDB files (``.aselmdb``): OC20 re-releases, OC22, OC25, OMat24 and their like.

An LMDB file of zlib-compressed ASE rows with ids from 1; ``nextid`` and ``deleted_ids`` say which
ids are visible. Energies are total energies unless a row says otherwise. Positions are as stored
(not wrapped).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.lmdb_sniff import lmdb_kind, open_lmdb
from ase_nnp.datasets.formats.oc20_mapping import as_references, reference_of
from ase_nnp.datasets.formats.rows import parse_json, row_to_sample
from ase_nnp.datasets.formats.schnetpack import SchNetPackUnits
from ase_nnp.datasets.metadata_npz import attach_natoms
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import KINDS, SpeakingShard, check_kind
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "AseLmdbShard", "open_aselmdb"]

#: A row may inflate to this many bytes, or to this multiple of its size if that is more.
MAX_INFLATED = 8 << 20
MAX_RATIO = 60


try:  # more than twice as fast, where it is installed
    _isal: Any = import_module("isal.isal_zlib")
except ImportError:
    _decompress: Any = zlib.decompress
    _ERRORS: Any = (zlib.error,)
else:
    _decompress, _ERRORS = _isal.decompress, (zlib.error, _isal.error, EOFError)


def inflate(data: bytes) -> bytes:
    """Decompress one value, within bounds."""
    if len(data) < MAX_INFLATED // 1040:  # zlib cannot make more of it than the bound
        try:
            return bytes(_decompress(data))
        except _ERRORS as error:
            raise DatasetError(f"cannot be decompressed: {error}") from None

    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, max(MAX_INFLATED, MAX_RATIO * len(data)))
    except zlib.error as error:
        raise DatasetError(f"cannot be decompressed: {error}") from None
    if stream.unconsumed_tail:
        raise DatasetError(
            f"{len(data)} bytes inflate to more than {len(text)}; no structure is like that"
        )
    if not stream.eof:
        raise DatasetError("the compressed value is cut off")
    return text


class AseLmdbShard(SpeakingShard):
    """One ``.aselmdb`` file; record k is the k-th visible row id.

    Parameters
    ----------
    path
        The file.
    first
        Number of its first record in the whole dataset: the default ``sid`` counts from there.
    references
        Reference energies by ``sid``, eV.
    stored_energy_kind
        What the file holds, if not total energies.
    """

    format = "aselmdb"

    def __init__(
        self,
        path: str | Path,
        *,
        first: int = 0,
        references: Mapping[Any, float] | None = None,
        stored_energy_kind: str | None = None,
    ) -> None:
        self.path, self.first, self.references = Path(path), first, references
        stored = check_kind(stored_energy_kind)
        self.options = (first, stored_energy_kind)
        self._lmdb = open_lmdb(self.path)
        self._declared = stored or self._kind_of_all()
        entries = len(self._lmdb)
        following = self._value(b"nextid")
        self._ids: np.ndarray[Any, Any] | None = None
        self._units: SchNetPackUnits | None = None
        if following is None:  # a writer that was stopped: the ids are in the keys
            keys = self._lmdb.keys()
            numbers = (int(key) for key in keys if key.isdigit() and len(key) < 19)
            self._ids = np.sort(np.fromiter(numbers, np.int64))
            self._length = len(self._ids)
        else:
            if type(following) is not int or not 1 <= following <= 2 * entries + 1_000_000:
                raise DatasetError(f"it is {following!r}", path=self.path, key="nextid")
            self._length = following - 1

        self._hide(self._value(b"deleted_ids"))
        if self._length == 0:
            raise DatasetError("no visible rows", path=self.path)

    def _hide(self, deleted: Any) -> None:
        if deleted is None or deleted == []:
            return
        if type(deleted) is not list or not all(type(number) is int for number in deleted):
            raise DatasetError("not a list of integers", path=self.path, key="deleted_ids")
        ids = self._ids if self._ids is not None else np.arange(1, self._length + 1)
        self._ids = ids[~np.isin(ids, deleted)]
        self._length = len(self._ids)

    def _value(self, key: bytes) -> Any:
        data = self._lmdb.get(key)
        if data is None:
            return None
        try:
            return parse_json(inflate(data))
        except DatasetError as error:
            raise DatasetError(str(error), path=self.path, key=key.decode()) from None

    @property
    def metadata(self) -> Any:
        """What the file says of itself, a dict as a rule; None if nothing."""
        return self._value(b"metadata")

    def _said_all(self) -> dict[str, Any]:
        try:
            said = self.metadata
        except DatasetError:
            return {}
        return said if isinstance(said, dict) else {}

    def _said(self, name: str) -> Any:
        """Return an entry of the file's own metadata."""
        return self._said_all().get(name)

    def _kind_of_all(self) -> str | None:
        kind = self._said("energy_kind")
        return kind if kind in (*KINDS, "mixed") else None

    @property
    def energy_reference(self) -> str | None:  # type: ignore[override]
        """To what the energies are referred, if the file's metadata say so."""
        said = self._said("energy_reference")
        return said if isinstance(said, str) else None

    def __len__(self) -> int:
        return self._length

    def row_id(self, index: int) -> int:
        """Return the row id of a record."""
        return index + 1 if self._ids is None else int(self._ids[index])

    def key(self, index: int) -> object:
        """Return the row id of a record."""
        return self.row_id(index)

    def read(self, index: int) -> Sample:
        """Decode one row."""
        data = self._lmdb.get(b"%d" % self.row_id(index))
        if data is None:
            raise DatasetError("no such row in the file, although nextid counts it")
        sample = row_to_sample(parse_json(inflate(data), row=True))
        if self._units is None:
            self._units = SchNetPackUnits(self._said_all())
        self._units.apply(sample)
        info = sample["info"]
        sid = info.setdefault("sid", self.first + index)
        info.update(reference_of(self.references, sid))
        return sample

    def close(self) -> None:
        """Close the file."""
        self._lmdb.close()


def sniff(path: Path) -> bool:
    """Whether a file is an LMDB file whose first value is compressed."""
    return lmdb_kind(path) == "zlib"


def open_aselmdb(
    files: Sequence[Path],
    *,
    references: Mapping[Any, float] | str | Path | None = None,
    stored_energy_kind: str | None = None,
    energy_kind: str | None = None,
    metadata: bool = True,
) -> AtomsDataset:
    """Open ``.aselmdb`` files as one dataset, in the order given.

    Parameters
    ----------
    files
        The shards.
    references
        Reference energies by ``sid`` (a dict or a file), eV; a row's own ``ref_energy`` or
        ``reference_energy`` counts without it.
    stored_energy_kind
        What the files hold, if not total energies.
    energy_kind
        Convert to this kind on reading.
    metadata
        Whether to use (and check) ``metadata.npz`` beside the files.
    """
    references = as_references(references)
    shards: list[AseLmdbShard] = []
    first = 0
    for path in files:
        shard = AseLmdbShard(
            path, first=first, references=references, stored_energy_kind=stored_energy_kind
        )
        first += len(shard)
        shards.append(shard)
    if metadata:
        attach_natoms(shards, ".aselmdb")
    return AtomsDataset(shards, energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="aselmdb",
    summary="ASE-LMDB files of fairchem 2 (OC20 v2, OC22, OC25, OMat24)",
    sniff=sniff,
    open=open_aselmdb,
    suffixes=(".aselmdb",),
)
