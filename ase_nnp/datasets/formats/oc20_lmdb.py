"""Legacy OC20 and OC22 LMDB files: pickled PyG records, read without PyG, torch or trust.

IS2RE/IS2RS sets are one file, S2EF sets a folder of shards. Both pickle layouts are read (flat
``__dict__`` of PyG < 2, ``_store`` of PyG >= 2), as are files with the names of the old writers
(``y``, ``force``) and of fairchem 1 (``energy``, ``forces``). Positions stay as stored.

An IS2RE record is its initial structure: ``energy`` is ``y_init``; ``y_init``, ``y_relaxed`` and
``pos_relaxed`` are in ``info``. Whether an S2EF energy is total or referenced does not stand in
the file: ``y`` is taken as adsorption energy (as published), ``energy`` and every OC22 energy as
total, unless ``stored_energy_kind=`` says otherwise. Where ``energy`` stands beside ``y`` it is the
label, and ``y`` information.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.lmdb_sniff import lmdb_kind, open_lmdb
from ase_nnp.datasets.formats.oc20_mapping import as_references, reference_of
from ase_nnp.datasets.formats.oc20_pickles import plain_field, record_fields
from ase_nnp.datasets.labels import full_stress
from ase_nnp.datasets.metadata_npz import attach_natoms
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import DatasetWarning, Shard, check_kind
from ase_nnp.errors import DatasetError, UnsafeFileError
from ase_nnp.files.unpickle import UnpickleError, loads
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "OC20_REFERENCE", "LegacyShard", "open_legacy"]

OC20_REFERENCE = (
    "OC20: relaxed clean slab + gas-phase adsorbate from N2, H2O, CO and H2 (RPBE, no dispersion)"
)
_RENAMED = {"y": "energy", "force": "forces", "pos": "positions", "cell_offsets": "edge_shift"}
_EXACT = 2.0**53  # whole numbers up to here are exact as floats
_DROPPED = frozenset(
    ["natoms", "nedges", "edge_distance_vec", "distances", "edge_attr", "x", "normal", "face"]
)


def _number(value: Any, name: str) -> float:
    """Return a scalar label as float; old files hold floats, some hold one-element tensors."""
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise DatasetError(f"{name} has {value.size} values, not one")
        value = value.item()
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return float(value)
    raise DatasetError(f"{name} is {type(value).__name__}, not a number")


def _identifier(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def decode(data: bytes) -> Sample:
    """Turn one pickled OC20 record into an unchecked sample."""
    fields = record_fields(data)
    for name in ("pos", "atomic_numbers", "cell"):
        if not isinstance(fields.get(name), np.ndarray):
            raise DatasetError(f"no {name}" if name not in fields else f"{name} is no tensor")

    numbers, cell = fields.pop("atomic_numbers"), fields.pop("cell")
    said = _identifier(fields.get("natoms", len(numbers)))
    if said != len(numbers) or said != len(fields["pos"]):
        raise DatasetError(
            f"natoms is {said}, with {len(numbers)} atomic numbers and {len(fields['pos'])} "
            "positions"
        )

    info: dict[str, Any] = {}
    sample: Sample = {
        "atomic_numbers": numbers,
        "cell": cell.reshape(3, 3) if cell.size == 9 else cell,
        "pbc": _pbc(fields.pop("pbc", None)),
        "info": info,
    }

    if "distances" in fields:
        sample["edge_distance"] = fields["distances"]
    for name, value in fields.items():
        if name in _DROPPED:
            continue
        # Where both stand there, the names of fairchem 1 are the label, and old ones information.
        if name not in _RENAMED or _RENAMED[name] not in fields:
            name = _RENAMED.get(name, name)
        if name in ("energy", "y", "y_init", "y_relaxed"):
            (sample if name == "energy" else info)[name] = _number(value, name)
        elif name in ("positions", "forces", "edge_shift", "edge_index"):
            sample[name] = value
        elif name == "tags":
            sample["tags"] = value.astype(np.int64, copy=False)
        elif name == "fixed":
            sample["fixed"] = value != 0
        elif name == "stress" and isinstance(value, np.ndarray) and value.size in (6, 9):
            # (1, 3, 3) in ASE's sign, as fairchem 1 writes it with r_stress=True.
            sample["stress"], info[name] = full_stress(value), value
        else:
            try:
                known = type(value) is int or type(value) is str
                info[name] = value if known else plain_field(_identifier(plain_field(value)))
            except ValueError as error:
                sample.setdefault("remarks", {})[name] = f"is left out ({error})"

    if "y_init" in info:
        sample.setdefault("energy", info["y_init"])
    if "pos_relaxed" in info:
        relaxed = info["pos_relaxed"]
        if relaxed.shape != fields["pos"].shape or not np.isfinite(relaxed).all():
            raise DatasetError(f"pos_relaxed of shape {relaxed.shape} or not finite")

    return sample


_PERIODIC = np.ones(3, bool)
_PERIODIC.flags.writeable = False


def _pbc(value: Any) -> Any:
    if value is None:
        return _PERIODIC
    pbc = np.asarray(value).astype(bool).ravel()
    if pbc.shape != (3,):
        raise DatasetError(f"pbc has {pbc.size} values, not 3")
    return pbc


class LegacyShard(Shard):
    """One LMDB file of pickled records with keys ``0``, ``1``, ...

    Parameters
    ----------
    path
        The file.
    stored_energy_kind
        What its energies are, where the caller knows better than the rule of this module.
    references
        Reference energy by system id (``"random123"`` or 123), eV.
    """

    format = "oc20-lmdb"

    def __init__(
        self,
        path: str | Path,
        *,
        stored_energy_kind: str | None = None,
        references: Mapping[Any, float] | None = None,
    ) -> None:
        self.path = Path(path)
        self.options = (stored_energy_kind,)
        self.references = references
        self._lmdb = open_lmdb(self.path)
        self._length = self._count()
        self._kind = check_kind(stored_energy_kind)
        self._kind_known = stored_energy_kind is not None

    def _count(self) -> int:
        """Return the number of records: the ``length`` key if it can be believed."""
        entries = len(self._lmdb)
        stored = self._lmdb.get(b"length")
        if stored is not None:
            length = self._stored_length(stored)
            if length < entries - 1 and self._lmdb.get(b"%d" % length) is not None:
                present = length
                while self._lmdb.get(b"%d" % present) is not None:
                    present += 1
                warnings.warn(
                    f"{self.path}: 'length' says {length}, but records 0 to {present - 1} are "
                    f"there; all {present} are shown",
                    DatasetWarning,
                    stacklevel=2,
                )
                length = present
            if length > 2 * entries + 1_000_000:
                raise DatasetError(
                    f"{length}, with {entries} entries in the file", path=self.path, key="length"
                )
            return length

        if self._lmdb.get(b"%d" % (entries - 1)) is not None:
            return entries
        keys = self._lmdb.keys()
        numbered = sum(key.isdigit() and b"%d" % int(key) == key for key in keys)
        if numbered == 0:
            raise DatasetError("an LMDB file without numbered records", path=self.path)
        return numbered

    def _stored_length(self, stored: bytes) -> int:
        if stored.strip().isdigit():
            return int(stored)
        try:
            value = loads(stored)
        except UnsafeFileError as error:
            raise UnsafeFileError(str(error), path=self.path, key="length") from None
        except UnpickleError as error:
            raise DatasetError(str(error), path=self.path, key="length") from None

        if isinstance(value, (float, np.generic)) and float(value).is_integer():
            value = int(value)
        if type(value) is not int or value < 0:
            raise DatasetError(
                f"a length of {value!r}; it must be a count", path=self.path, key="length"
            )

        return value

    @property
    def energy_kind(self) -> str | None:  # type: ignore[override]
        """What the energies of this file are; judged by its first records."""
        if not self._kind_known:
            self._kind, self._kind_known = self._guess_kind(), True
        return self._kind

    @property
    def energy_reference(self) -> str | None:  # type: ignore[override]
        """To what its adsorption energies are referred."""
        return OC20_REFERENCE if self.energy_kind == "adsorption" else None

    def _guess_kind(self) -> str | None:
        for key in range(min(3, self._length)):
            try:
                fields = record_fields(self._lmdb.get(b"%d" % key) or b"")
            except DatasetError:
                continue
            if fields.get("oc22"):
                return "total"
            if "energy" in fields:
                return "total"
            return "adsorption" if {"y_init", "y_relaxed", "y"} & fields.keys() else None
        return None

    def __len__(self) -> int:
        return self._length

    def key(self, index: int) -> object:
        """Return the LMDB key of a record."""
        return str(index)

    def read(self, index: int) -> Sample:
        """Decode one record."""
        data = self._lmdb.get(b"%d" % index)
        if data is None:
            raise DatasetError("no such key in the file; it is missing or was never written")
        if not data:
            raise DatasetError("an empty value")
        sample = decode(data)
        if self.references is not None:
            sample["info"].update(reference_of(self.references, sample["info"].get("sid")))
        return sample

    def close(self) -> None:
        """Close the file."""
        self._lmdb.close()


def sniff(path: Path) -> bool:
    """Whether a file is an LMDB file whose first value is a pickle (or cannot be looked at)."""
    return lmdb_kind(path) == "pickle"


def open_legacy(
    files: Sequence[Path],
    *,
    stored_energy_kind: str | None = None,
    references: Mapping[Any, float] | str | Path | None = None,
    energy_kind: str | None = None,
    metadata: bool = True,
) -> AtomsDataset:
    """Open legacy files as one dataset, in the order given.

    Parameters
    ----------
    files
        LMDB files.
    stored_energy_kind
        ``"total"`` or ``"adsorption"``: what the files hold, see the module.
    references
        Reference energies by system id (``oc20_ref.pkl`` or a dict), eV.
    energy_kind
        Convert to this kind on reading.
    metadata
        Whether to use (and check) ``metadata.npz`` beside the files.
    """
    references = as_references(references)
    shards = [
        LegacyShard(path, stored_energy_kind=stored_energy_kind, references=references)
        for path in files
    ]
    if metadata:
        attach_natoms(shards, ".lmdb")
    return AtomsDataset(shards, energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="oc20-lmdb",
    summary="OC20/OC22 LMDB files of pickled PyG records (S2EF, IS2RE, IS2RS), read safely",
    sniff=sniff,
    open=open_legacy,
    suffixes=(".lmdb",),
)
