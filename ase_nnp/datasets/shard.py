"""``Shard``: one file of a dataset; a reader of a new format writes one subclass."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ase_nnp.datasets.labels import relabel
from ase_nnp.datasets.sample import Sample, check_sample
from ase_nnp.errors import AseNnpError, DatasetError

__all__ = ["KINDS", "DatasetWarning", "Shard", "SpeakingShard", "check_kind", "has_energy"]

Array = np.ndarray[Any, Any]


class DatasetWarning(UserWarning):
    """Something in a dataset that is odd but has one sensible reading."""


class Shard:
    """One file of a dataset, opened on first use in each process.

    A subclass gives ``__len__`` and :meth:`read`, and :meth:`key` where records have names. It
    must pickle without its open handle.

    Attributes
    ----------
    path
        The file.
    format
        Name of the format.
    options
        What changes the content read (part of the key of cached metadata).
    energy_kind
        ``"total"``, ``"adsorption"`` or ``"formation"``: what ``energy`` is in this file;
        ``"mixed"`` where records differ; None without energies.
    energy_reference
        To what an adsorption energy is referred.
    keys
        Names of labels in the file by our names, as ``open_dataset(keys=...)`` was told.
    """

    path: Path
    format: str = ""
    options: tuple[Any, ...] = ()
    energy_kind: str | None = "total"
    energy_reference: str | None = None
    keys: Mapping[str, str] = MappingProxyType({})
    side_natoms: tuple[Any, int] | None = None  # counts of a side file, and our place in them

    _told: frozenset[str] = frozenset()

    @property
    def silent_kind(self) -> str | None:
        """What the energy of a record is that says nothing itself."""
        return "total" if self.energy_kind == "mixed" else self.energy_kind

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> Sample:
        """Decode record ``index`` (0 to len - 1) into a sample; need not check its values.

        Any exception counts as damage of that record and becomes a DatasetError.
        """
        raise NotImplementedError

    def key(self, index: int) -> object:
        """Name of a record inside the file, for messages."""
        return index

    def natoms(self) -> Array | None:
        """Atom counts, if the file or a checked side file knows them without decoding."""
        if self.side_natoms is None:
            return None
        column, start = self.side_natoms
        counts: Array = column.values()[start : start + len(self)]
        return counts

    def files(self) -> list[Path]:
        """Return all files that records are read from: ``path``, or what lies in that folder.

        What is kept of a dataset (an index, columns, a conversion that was interrupted) is stale as
        soon as one of them changes.
        """
        if not self.path.is_dir():
            return [self.path]
        inside = sorted(file for file in self.path.rglob("*") if file.is_file())
        # Lock files change with every reader.
        return [f for f in inside if not f.name.startswith("lock.") and "-lock" not in f.name]

    def close(self) -> None:
        """Release open handles; the next read opens them again."""

    def arrays(self, index: int) -> Sample:
        """Read and check one record; errors name file and record."""
        try:
            sample = self.read(index)
            if self.keys:
                relabel(sample, self.keys)
            if "remarks" in sample:
                self._warn_of(sample.pop("remarks"))
            check_sample(sample)

            if self.side_natoms is not None:
                said = self.side_natoms[0].values()[self.side_natoms[1] + index]
                if said != len(sample["atomic_numbers"]):
                    raise DatasetError(f"natoms is {said} in the metadata.npz beside the file")
            return sample
        except AseNnpError as error:
            if getattr(error, "path", None) is not None:
                raise
            kind = type(error) if isinstance(error, DatasetError) else DatasetError
            raise kind(str(error), path=self.path, key=self.key(index)) from None
        except OSError as error:
            raise DatasetError(str(error), path=self.path, key=self.key(index)) from error
        except Exception as error:
            raise DatasetError(
                f"cannot be decoded: {type(error).__name__}: {error}",
                path=self.path,
                key=self.key(index),
            ) from error

    def use_keys(self, keys: Mapping[str, str]) -> None:
        """Take labels from these names of the file; cached metadata are kept apart by them."""
        self.keys = dict(keys)
        self.options = (*self.options, tuple(sorted(self.keys.items())))

    def _warn_of(self, remarks: dict[str, str]) -> None:
        """Say once a file what became of a field: left out, or taken for something."""
        new = {name: what for name, what in remarks.items() if name not in self._told}
        self._told = self._told | set(new)
        for name, what in new.items():
            warnings.warn(f"{self.path}: the field {name!r} {what}", DatasetWarning, stacklevel=5)


#: Total energies, or energies to which ``info["reference_energy"]`` has to be added for a total:
#: of clean slab and molecules (adsorption) or of single atoms (formation).
KINDS = ("total", "adsorption", "formation")


def check_kind(kind: str | None) -> str | None:
    """Return a kind of energy, or say which there are."""
    if kind is not None and kind not in KINDS:
        raise DatasetError(
            f"an energy kind {kind!r}; there are 'total', 'adsorption' and 'formation'"
        )
    return kind


def has_energy(sample: Sample) -> bool:
    """Whether a record has an energy or a free energy, which are of one kind."""
    return "energy" in sample or "free_energy" in sample.get("results", ())


class SpeakingShard(Shard):
    """A shard whose records may carry ``info["energy_kind"]``, each for itself.

    ``_declared`` is what the file says of all of them, which counts for records that say nothing.
    """

    #: Records that are looked at where the file declares nothing, evenly spread.
    _looked_at = 16
    _declared: str | None = None
    _found: str | None = None

    @property
    def energy_kind(self) -> str | None:  # type: ignore[override]
        """What the energies of this file are, or mixed; total where nothing says otherwise."""
        if self._found is None:
            kinds = {self._declared} if self._declared is not None else self._kinds()
            self._found = kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "total"
        return self._found

    @property
    def silent_kind(self) -> str | None:
        """What the energy of a record is that says nothing itself."""
        return self._declared if self._declared in KINDS else "total"

    def _kinds(self) -> set[str]:
        """Return the kinds of energy that records name."""
        last, count = len(self) - 1, min(len(self), self._looked_at)
        said = map(self._said_by, np.linspace(0, last, count, dtype=np.int64).tolist())
        return {kind for kind in said if kind is not None}

    def _said_by(self, index: int) -> str | None:
        """Return the kind of a record's energy; None without one."""
        try:
            sample = self.read(index)
        except Exception:  # the record itself raises when it is asked for
            return None
        said = sample["info"].get("energy_kind")
        if isinstance(said, str) and said in KINDS:
            return said
        # What ``keys`` names is an energy too.
        return "total" if self.keys or has_energy(sample) else None
