"""Labels without corrections: what a network learns where D3, ZBL or Ewald is added to it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.own_labels import labeled_sample
from ase_nnp.datasets.sample import Sample, to_atoms
from ase_nnp.models.corrections import sum_of_terms
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CorrectedLabels", "without_corrections"]

#: Structures that are evaluated together.
CHUNK = 256
SUBTRACTED = ("energy", "forces", "stress")


def without_corrections(
    dataset: Sequence[Atoms],
    stored: Sequence[Mapping[str, Any]],
    labels: Sequence[str] = SUBTRACTED,
    progress: Callable[[int, int], None] | None = None,
) -> Sequence[Atoms]:
    """Return the dataset with the corrections taken off its labels, as it is where there are none.

    Parameters
    ----------
    dataset
        Labeled structures.
    stored
        As from :func:`ase_nnp.models.corrections.stored_corrections`.
    labels
        Those that are wanted, of energy, forces and stress.
    progress
        Told how many structures are done, of how many.
    """
    wanted = [name for name in SUBTRACTED if name in labels]
    if not stored or not wanted:
        return dataset
    return CorrectedLabels(dataset, sum_of_terms(stored), wanted, progress)


class CorrectedLabels(Sequence[Any]):
    """A view of a dataset whose labels lack a potential, evaluated once and kept in memory.

    Parameters
    ----------
    dataset
        Labeled structures: an AtomsDataset or Atoms with results.
    term
        What is subtracted.
    labels
        Of energy, forces and stress.
    progress
        Told how many structures are done, of how many.
    """

    def __init__(
        self,
        dataset: Sequence[Atoms],
        term: Potential,
        labels: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.energy_kind = getattr(dataset, "energy_kind", None)
        self.values: list[dict[str, Any]] = []
        predictor = Predictor(term)
        names = [name for name in labels if name in term.outputs]

        for start in range(0, len(dataset), CHUNK):
            rows = range(start, min(start + CHUNK, len(dataset)))
            structures = [to_atoms(self._stored(k)) for k in rows]
            self.values += predictor(structures, names, progress=False)
            if progress is not None:
                progress(len(self.values), len(dataset))

    def _stored(self, index: int) -> Sample:
        arrays = getattr(self.dataset, "arrays", None)
        return labeled_sample(self.dataset[index], index) if arrays is None else arrays(index)

    def arrays(self, index: int) -> Sample:
        """Return one structure as arrays, its labels without the term."""
        index = range(len(self))[index]
        sample = Sample(**self._stored(index))
        for name, value in self.values[index].items():
            if name in sample:
                left = np.asarray(sample[name], dtype=np.float64) - value  # type: ignore[literal-required]
                sample[name] = float(left) if name == "energy" else left  # type: ignore[literal-required]
        return sample

    @property
    def natoms(self) -> np.ndarray[Any, Any]:
        """Return (n,) atoms of each structure."""
        natoms = getattr(self.dataset, "natoms", None)
        return np.array([len(a) for a in self.dataset]) if natoms is None else np.asarray(natoms)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (int, np.integer)):
            return to_atoms(self.arrays(int(index)))
        picked = np.arange(len(self))[index]
        return [self[int(k)] for k in picked]

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(len(self)))
