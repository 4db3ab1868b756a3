"""What a dataset holds, in one pass and fixed memory: counts, elements, sizes, label statistics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.labels import candidates, keys_lines
from ase_nnp.datasets.own_labels import labeled_sample
from ase_nnp.datasets.sample import Sample, from_atoms
from ase_nnp.datasets.streaming_statistics import ElementFit, Histogram, Moments
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["DatasetStats", "dataset_info", "dataset_stats"]

Progress = Callable[[int, int], None]
_BATCH = 256


@dataclass
class DatasetStats:
    """Streaming statistics of structures: ``add`` each, ``merge`` parts, ``as_dict`` at the end.

    Energies in eV, forces in eV/Angstrom. Force statistics are over components: of all atoms, and
    of the free ones (not held by FixAtoms).
    """

    fit_references: bool = False
    count: int = 0
    atoms: int = 0
    fixed: int = 0
    elements: Counter[int] = field(default_factory=Counter)
    """Atoms by atomic number."""
    structures_with: Counter[int] = field(default_factory=Counter)
    """Structures that contain an element."""
    sizes: Counter[int] = field(default_factory=Counter)
    tags: Counter[int] = field(default_factory=Counter)
    pbc: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    energy_kinds: Counter[str] = field(default_factory=Counter)
    energy: Moments = field(default_factory=Moments)
    energy_per_atom: Moments = field(default_factory=Moments)
    forces: Moments = field(default_factory=Moments)
    free_forces: Moments = field(default_factory=Moments)
    force_norms: Moments = field(default_factory=Moments)
    energy_histogram: Histogram = field(default_factory=Histogram)
    force_histogram: Histogram = field(default_factory=lambda: Histogram(width=2.0**-6))
    """Of log10(|F| / (eV/Angstrom)); atoms with no force are in ``zero_forces``."""
    zero_forces: int = 0
    fit: ElementFit = field(default_factory=ElementFit)
    _waiting: list[tuple[float, int, Any, Any]] = field(default_factory=list, repr=False)

    def add(self, sample: Sample) -> None:
        """Add one structure, given as a sample (:mod:`ase_nnp.datasets.sample`)."""
        numbers = sample["atomic_numbers"]
        n = len(numbers)
        self.count += 1
        self.atoms += n
        self.sizes[n] += 1

        counts = np.bincount(numbers, minlength=1)
        for z in np.flatnonzero(counts).tolist():
            self.elements[z] += int(counts[z])
            self.structures_with[z] += 1
        self.pbc["".join("T" if p else "F" for p in sample["pbc"])] += 1

        if "tags" in sample:
            tags, times = np.unique(sample["tags"], return_counts=True)
            self.tags.update(dict(zip(tags.tolist(), times.tolist(), strict=True)))
        fixed = sample.get("fixed")
        self.fixed += 0 if fixed is None else int(np.count_nonzero(fixed))
        self._labels(sample, fixed)

    def _labels(self, sample: Sample, fixed: Any) -> None:
        info = sample["info"]
        for name in ("energy", "forces", "stress"):
            self.labels[name] += name in sample
        for name in ("y_relaxed", "pos_relaxed", "charge", "spin"):
            if name in info:
                self.labels[name] += 1

        energy = math.nan
        if "energy" in sample:
            energy = float(sample["energy"])
            self.energy_kinds[str(info.get("energy_kind", "total"))] += 1
            if self.fit_references:
                self.fit.add(sample["atomic_numbers"], energy)

        n = len(sample["atomic_numbers"])
        free = np.ones(n, dtype=bool) if fixed is None else ~fixed.astype(bool)
        forces = sample.get("forces", np.zeros((0, 3)))
        self._waiting.append((energy, n, forces, free[: len(forces)]))
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Take up labels that wait to be counted together, which is faster than one by one."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        energy = np.array([entry[0] for entry in waiting])
        labeled = np.isfinite(energy)
        sizes = np.array([entry[1] for entry in waiting])
        self.energy.add(energy[labeled])
        self.energy_per_atom.add(energy[labeled] / sizes[labeled])
        self.energy_histogram.add(energy[labeled])

        forces = np.concatenate([entry[2] for entry in waiting]).astype(np.float64)
        norms = np.sqrt((forces * forces).sum(axis=1))
        self.forces.add(forces)
        self.free_forces.add(forces[np.concatenate([entry[3] for entry in waiting])])
        self.force_norms.add(norms)
        moving = norms[norms > 0]
        self.zero_forces += len(norms) - len(moving)
        self.force_histogram.add(np.log10(moving))

    def merge(self, other: DatasetStats) -> DatasetStats:
        """Add what another worker saw; returns self."""
        self.flush()
        other.flush()
        for name, value in vars(other).items():
            if name in ("fit_references", "_waiting"):
                continue
            ours = getattr(self, name)
            if isinstance(ours, int):
                setattr(self, name, ours + value)
            elif isinstance(ours, Counter):
                ours.update(value)
            else:
                ours.merge(value)
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as for ``--json``."""
        from ase.data import chemical_symbols

        self.flush()

        def by_symbol(counter: Counter[int]) -> dict[str, int]:
            return {chemical_symbols[z]: counter[z] for z in sorted(counter)}

        # Sizes are counted by value: their moments come from the counts, exactly.
        sizes = Moments()
        for n, times in self.sizes.items():
            sizes.merge(Moments(times, float(n), 0.0, n, n))
        out: dict[str, Any] = {
            "structures": self.count,
            "atoms": self.atoms,
            "fixed_atoms": self.fixed,
            "elements": by_symbol(self.elements),
            "structures_with_element": by_symbol(self.structures_with),
            "size": sizes.as_dict(),
            "size_histogram": {str(n): self.sizes[n] for n in sorted(self.sizes)},
            "tags": {str(tag): self.tags[tag] for tag in sorted(self.tags)},
            "pbc": dict(self.pbc),
            "labels": dict(self.labels),
            "energy_kind": dict(self.energy_kinds),
            "energy": self.energy.as_dict(),
            "energy_per_atom": self.energy_per_atom.as_dict(),
            "forces": self.forces.as_dict(),
            "forces_free_atoms": self.free_forces.as_dict(),
            "force_norm": self.force_norms.as_dict(),
        }
        if self.fit_references:
            out["fit"] = self._fitted()
        return out

    def _fitted(self) -> dict[str, Any]:
        if len(self.energy_kinds) > 1:
            kinds = ", ".join(f"{n} {kind}" for kind, n in self.energy_kinds.items())
            raise DatasetError(
                f"element references need energies of one kind, and these are mixed ({kinds}); "
                "choose one with energy_kind="
            )
        return self.fit.solve()


def samples(
    dataset: Sequence[Atoms] | Iterable[Atoms], progress: Progress | None
) -> Iterable[Sample]:
    """Yield samples of a dataset or of plain Atoms, reporting progress."""
    arrays = getattr(dataset, "arrays", None)
    if arrays is None:
        for number, atoms in enumerate(dataset):
            yield labeled_sample(atoms, number)
            if progress is not None:
                progress(number + 1, len(dataset) if isinstance(dataset, Sequence) else number + 1)
        return
    total = len(dataset)  # type: ignore[arg-type]
    for number in range(total):
        yield arrays(number)
        if progress is not None:
            progress(number + 1, total)


def dataset_stats(
    dataset: Sequence[Atoms] | Iterable[Atoms],
    *,
    fit_references: bool = False,
    progress: Progress | None = None,
    workers: int = 1,
) -> DatasetStats:
    """Read a dataset once and return its statistics.

    Parameters
    ----------
    dataset
        An AtomsDataset, or any iterable of Atoms.
    fit_references
        Also fit one energy per element; needs energies of one kind.
    progress
        Called as ``progress(done, total)``.
    workers
        Processes that read an AtomsDataset; 1 does it in this process. With more than one, a
        script needs ``if __name__ == "__main__":`` around its main part.
    """
    if workers > 1 and hasattr(dataset, "arrays"):
        return _in_processes(dataset, fit_references, progress, workers)
    stats = DatasetStats(fit_references=fit_references)
    for sample in samples(dataset, progress):
        stats.add(sample)
    stats.flush()
    if fit_references:
        stats._fitted()
    return stats


_worker_dataset: Any = None


def _start_worker(dataset: Any) -> None:
    global _worker_dataset
    _worker_dataset = dataset


def _part(first: int, last: int, fit_references: bool) -> DatasetStats:
    stats = DatasetStats(fit_references=fit_references)
    for index in range(first, last):
        stats.add(_worker_dataset.arrays(index))
    stats.flush()
    return stats


def _in_processes(
    dataset: Any, fit_references: bool, progress: Progress | None, workers: int
) -> DatasetStats:
    """Read spans in parallel and merge them in order, so that the result is repeatable."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    total = len(dataset)

    # Four spans a process: one that is slow keeps the others waiting for a quarter at most.
    size = max(1, min(5000, -(-total // (4 * workers))))
    starts = range(0, total, size)
    ends = [min(first + size, total) for first in starts]
    stats = DatasetStats(fit_references=fit_references)
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (dataset,)) as pool:
        parts = pool.map(_part, starts, ends, [fit_references] * len(ends))
        for last, part in zip(ends, parts, strict=True):
            stats.merge(part)
            if progress is not None:
                progress(last, total)
    if fit_references:
        stats._fitted()
    return stats


def dataset_info(
    dataset: Any, *, progress: Progress | None = None, workers: int = 1
) -> dict[str, Any]:
    """Return files, format, and all statistics of a dataset as plain values."""
    shards = getattr(dataset, "shards", ())
    names = label_names(dataset)
    return {
        "files": [{"path": str(shard.path), "structures": len(shard)} for shard in shards],
        "format": "/".join(sorted({shard.format for shard in shards})),
        "energy_reference": getattr(dataset, "energy_reference", None),
        "label_names": names,
        "keys": keys_lines(names),
        **dataset_stats(dataset, progress=progress, workers=workers).as_dict(),
    }


def label_names(dataset: Any, count: int = 64) -> dict[str, str]:
    """Return names that look like labels and are none yet, with the label they could be.

    At most ``count`` structures are looked at, evenly spread.
    """
    arrays = getattr(dataset, "arrays", None)
    names: dict[str, str] = {}
    for number in np.unique(np.linspace(0, len(dataset) - 1, count, dtype=np.int64)).tolist():
        try:
            sample = from_atoms(dataset[number]) if arrays is None else arrays(number)
        except DatasetError:
            continue  # the statistics raise it
        names |= candidates(sample)
    return names
