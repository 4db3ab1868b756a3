"""``AtomsDataset``: files of structures as one sequence of ``ase.Atoms``.

A dataset is a list of *shards* and, for a view, an array of positions in them. A reader of a new
format writes one class, a :class:`Shard`, and gets slicing, concatenation, splits, selection,
metadata and error messages from here.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ase_nnp.datasets.columns import Columns, columns
from ase_nnp.datasets.sample import Sample, to_atoms
from ase_nnp.datasets.shard import DatasetWarning, Shard, check_kind, has_energy
from ase_nnp.datasets.views import select, split
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.datasets.catalog.index import DatasetIndex
    from ase_nnp.datasets.catalog.pairs import Pair

__all__ = ["AtomsDataset", "DatasetWarning", "Shard"]

Array = np.ndarray[Any, Any]


class AtomsDataset(Sequence["Atoms"]):
    """A lazy sequence of ``ase.Atoms`` with labels.

    Labels are in a ``SinglePointCalculator`` (``atoms.get_potential_energy()``), identifiers in
    ``atoms.info``; :mod:`ase_nnp.datasets.sample` lists all names. Integers give one structure;
    slices, index arrays and boolean masks give views that share the files.

    Files are opened on first use in each process, so a dataset pickles into data-loader workers
    and survives ``fork``.

    Parameters
    ----------
    shards
        The files, in order.
    index
        Positions within them that this view shows; None for all.
    energy_kind
        ``"total"`` or ``"adsorption"`` to convert every energy to that kind by the stored
        reference energy; None leaves energies as they are stored.
    """

    def __init__(
        self,
        shards: Iterable[Shard],
        index: Array | None = None,
        *,
        energy_kind: str | None = None,
    ) -> None:
        check_kind(energy_kind)
        self.shards: tuple[Shard, ...] = tuple(shards)
        self._starts = [0]
        for shard in self.shards:
            self._starts.append(self._starts[-1] + len(shard))
        self._index = index
        self._wanted = energy_kind
        self._catalog: DatasetIndex | None = None

    # ---- a sequence

    def __len__(self) -> int:
        return self._starts[-1] if self._index is None else len(self._index)

    @overload
    def __getitem__(self, item: int) -> Atoms: ...
    @overload
    def __getitem__(self, item: slice | Sequence[int] | Array) -> AtomsDataset: ...

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
            return to_atoms_named(*self._sample(int(item)))
        return self._view(self._positions()[_checked(item, len(self))])

    def __iter__(self) -> Iterator[Atoms]:
        for position in range(len(self)):
            yield self[position]

    def __contains__(self, value: object) -> bool:
        return any(value == atoms for atoms in self)

    def __repr__(self) -> str:
        names = sorted({shard.format for shard in self.shards})
        where = f"{len(self.shards)} files" if len(self.shards) != 1 else str(self.shards[0].path)
        return f"<AtomsDataset of {len(self)} structures, {'/'.join(names)}, {where}>"

    def __add__(self, other: AtomsDataset) -> AtomsDataset:
        if not isinstance(other, AtomsDataset):
            return NotImplemented
        return AtomsDataset.concat([self, other])

    def _view(self, positions: Array) -> AtomsDataset:
        view: AtomsDataset = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._index = np.ascontiguousarray(positions, np.int64)
        return view

    def _positions(self) -> Array:
        """Positions of this view in the whole of its shards."""
        return np.arange(self._starts[-1]) if self._index is None else self._index

    def _find(self, number: int) -> tuple[Shard, int]:
        size = len(self)
        if not -size <= number < size:
            raise IndexError(f"index {number} of a dataset of {size} structures")
        number %= size
        if self._index is not None:
            number = int(self._index[number])
        place = bisect.bisect_right(self._starts, number) - 1
        return self.shards[place], number - self._starts[place]

    # ---- one record

    def arrays(self, index: int) -> Sample:
        """Return a structure as a dict of arrays, without building ``Atoms``: the fast way.

        See :mod:`ase_nnp.datasets.sample` for names, shapes and units. Arrays may be read-only.
        """
        return self._sample(index)[2]

    def locate(self, index: int) -> tuple[Path, object]:
        """Return file and record name of a structure."""
        shard, number = self._find(index)
        return shard.path, shard.key(number)

    def _sample(self, index: int) -> tuple[Shard, int, Sample]:
        shard, number = self._find(index)
        sample = shard.arrays(number)
        if has_energy(sample):
            info = sample["info"]
            if "energy_kind" not in info:
                info["energy_kind"] = shard.silent_kind
            if self._wanted is not None and info["energy_kind"] != self._wanted:
                _convert(sample, self._wanted, shard, number)
        return shard, number, sample

    # ---- what makes it this dataset

    @property
    def positions(self) -> Array | None:
        """Positions within the files that a view shows; None for all."""
        return self._index

    @property
    def wanted(self) -> str | None:
        """The kind that energies are converted to; None as they are stored."""
        return self._wanted

    # ---- energies

    @property
    def energy_kind(self) -> str | None:
        """``"total"``, ``"adsorption"``, ``"mixed"``, or None where no file has energies."""
        if self._wanted is not None:
            return self._wanted
        kinds = {shard.energy_kind for shard in self._used_shards()} - {None}
        if self._index is not None and "mixed" in kinds:
            kinds = self._kinds_of_view() or kinds
        return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else None

    def _kinds_of_view(self, count: int = 64) -> set[str | None]:
        """Return the kinds of at most so many of its structures, evenly spread."""
        kinds: set[str | None] = set()
        numbers = np.linspace(0, len(self) - 1, min(len(self), count), dtype=np.int64)
        for number in numbers.tolist():
            with suppress(DatasetError):
                sample = self.arrays(number)
                if has_energy(sample):
                    kinds.add(str(sample["info"]["energy_kind"]))
        return kinds

    @property
    def energy_reference(self) -> str | None:
        """What adsorption energies are referred to; None for total energies."""
        if self.energy_kind not in ("adsorption", "formation", "mixed"):
            return None
        named = {shard.energy_reference for shard in self._used_shards()} - {None}
        return "; ".join(sorted(map(str, named))) or "info['reference_energy'] of each structure"

    def with_energy(self, kind: str | None) -> AtomsDataset:
        """Return a view with energies as ``"total"`` or ``"adsorption"`` (None: as stored).

        Conversion needs ``reference_energy`` of each structure (clean slab plus gas-phase
        adsorbate): E_ads = E_total - E_reference. A structure without it raises when read.
        """
        check_kind(kind)
        view: AtomsDataset = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _wanted=kind)
        return view

    def _used_shards(self) -> list[Shard]:
        if self._index is None:
            return list(self.shards)
        used = np.unique(np.searchsorted(self._starts, self._index, side="right") - 1)
        return [self.shards[k] for k in used]

    # ---- views

    def concat(self: AtomsDataset | Iterable[AtomsDataset], *others: AtomsDataset) -> AtomsDataset:
        """Join datasets one after the other; the files are shared, nothing is copied.

        ``first.concat(second, third)``, or ``AtomsDataset.concat([first, second, third])``.
        """
        datasets = [*([self] if isinstance(self, AtomsDataset) else self), *others]
        if len({dataset._wanted for dataset in datasets}) > 1:
            raise DatasetError("join datasets first, then choose the energy with with_energy()")
        shards = [shard for dataset in datasets for shard in dataset.shards]
        index = None
        if any(dataset._index is not None for dataset in datasets):
            first = np.cumsum([0] + [dataset._starts[-1] for dataset in datasets])
            index = np.concatenate(
                [start + d._positions() for start, d in zip(first, datasets, strict=False)]
            )
        return AtomsDataset(shards, index, energy_kind=datasets[0]._wanted if datasets else None)

    def split(self, *parts: Any, **options: Any) -> Any:
        """Divide into views; see :func:`ase_nnp.datasets.views.split`.

        ``split([0.8, 0.1, 0.1], seed=0)``; ``split(0.8)`` gives two parts; a dict of fractions or
        of lists of ids gives a dict of views.
        """
        if len(parts) == 1 and isinstance(parts[0], Real):
            parts = (parts[0], 1 - parts[0])
        chosen = split(self, parts[0] if len(parts) == 1 else parts, **options)
        if isinstance(chosen, dict):
            return {name: self._view(self._positions()[index]) for name, index in chosen.items()}
        return [self._view(self._positions()[index]) for index in chosen]

    def select(self, **conditions: Any) -> AtomsDataset:
        """Return the structures that meet all conditions; see :func:`~.views.select`."""
        return self[select(self, **conditions)]

    # ---- the index beside the files

    @property
    def whole(self) -> AtomsDataset:
        """All records of the files, whatever this view shows."""
        view: AtomsDataset = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _index=None)
        return view

    def index(self, path: Any = None, *span: Any, **options: Any) -> Any:
        """Return the SQLite index of the files, which is built once and checked every time.

        ``index(path, mapping="oc20_data_mapping.pkl", rebuild=False, progress=None)``; see
        :class:`~ase_nnp.datasets.catalog.index.DatasetIndex`. :meth:`where` and :meth:`pairs` of
        this dataset and of its views then use it. Given ``Atoms``, it returns their position, as
        ``index`` of any sequence does.
        """
        if hasattr(path, "get_atomic_numbers"):
            return super().index(path, *span)
        from ase_nnp.datasets.catalog.index import DatasetIndex

        catalog = DatasetIndex(self.shards, path, *span, **options)
        self._catalog = catalog
        return catalog

    def where(self, query: str = "", **conditions: Any) -> AtomsDataset:
        """Return the records that meet a query and all conditions, from the index alone.

        ``where("adsorbate = '*CO' and Cu")`` or ``where(adsorbate="*CO", contains=["Cu"],
        energy=(-2, 0), natoms__lt=80)``; :mod:`~ase_nnp.datasets.catalog.grammar` has the language,
        :mod:`~ase_nnp.datasets.catalog.conditions` the keywords. Records that cannot be read are
        left out. Energies are those of this view: converted by :meth:`with_energy` or as stored.
        """
        chosen = self._indexed().positions(query, wanted=self._wanted, **conditions)
        if self._index is None:
            return self._view(chosen)
        return self._view(self._index[np.isin(self._index, chosen)])

    def pairs(self) -> list[Pair]:
        """Return clean slab and molecules of each adslab here, as positions in :attr:`whole`."""
        from ase_nnp.datasets.catalog.pairs import join_pairs

        return join_pairs(self._indexed(), self._index)

    def _indexed(self) -> DatasetIndex:
        catalog: DatasetIndex = self.index() if self._catalog is None else self._catalog
        return catalog

    # ---- metadata

    @property
    def metadata(self) -> Columns:
        """Columns over all structures (natoms, sid, fid, composition, energy, tags).

        The first use decodes every record once; the result is cached per file, see
        :mod:`ase_nnp.datasets.columns`.
        """
        return self.columns()

    def columns(self, **options: Any) -> Columns:
        """Return :attr:`metadata`, with options: ``cache=``, ``progress=``, ``on_error=``."""
        return columns(self.shards, **options).take(self._index)

    @property
    def natoms(self) -> Array:
        """(n,) number of atoms of each structure."""
        known = [shard.natoms() for shard in self.shards]
        if any(column is None for column in known) or not known:
            return self.metadata.natoms
        column = np.concatenate([c for c in known if c is not None])
        return column if self._index is None else column[self._index]

    def close(self) -> None:
        """Close all files; they open again when needed."""
        for shard in self.shards:
            shard.close()


def to_atoms_named(shard: Shard, number: int, sample: Sample) -> Atoms:
    """Build Atoms; an error names file and record."""
    try:
        return to_atoms(sample)
    except Exception as error:
        raise DatasetError(str(error), path=shard.path, key=shard.key(number)) from error


def _convert(sample: Sample, wanted: str, shard: Shard, number: int) -> None:
    info = sample["info"]
    reference = info.get("reference_energy")
    if "total" not in (wanted, info.get("energy_kind")):
        raise DatasetError(
            f"{info.get('energy_kind')} energies have no way to {wanted} ones; total energies have",
            path=shard.path,
            key=shard.key(number),
        )

    if reference is None:
        raise DatasetError(
            f"no reference energy to make {wanted} of {info.get('energy_kind')} energies; "
            "pass references= (a dict or pickle of reference energies by system id)",
            path=shard.path,
            key=shard.key(number),
        )

    if not isinstance(reference, (int, float, np.number)) or not np.isfinite(reference):
        raise DatasetError(
            f"a reference energy of {reference!r}", path=shard.path, key=shard.key(number)
        )
    shift = float(reference if wanted == "total" else -reference)
    if "energy" in sample:
        sample["energy"] += shift

    # The free energy is one of the same structure: it must not stay on the other scale.
    results = sample.get("results", {})
    if "free_energy" in results:
        sample["results"] = {**results, "free_energy": results["free_energy"] + shift}
    info["energy_kind"] = wanted


def _checked(item: Any, size: int) -> Any:
    """Turn a slice, mask or list of numbers into something that indexes an array."""
    if isinstance(item, slice):
        return item
    array = np.asarray(item)
    if array.dtype == bool:
        if array.shape != (size,):
            raise IndexError(f"a mask of shape {array.shape} for {size} structures")
        return array
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"a dataset takes integers, slices, index arrays and masks, not {item!r}")
    if array.min() < -size or array.max() >= size:
        raise IndexError(f"an index array that leaves the dataset of {size} structures")
    return array
