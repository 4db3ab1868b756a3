"""Reference energies of a trained model: shifted where labels come from another functional."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.own_labels import own_results
from ase_nnp.datasets.streaming_statistics import ElementFit, Moments
from ase_nnp.errors import DatasetError
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["ReferenceReport", "adapt_references", "refit_references"]

Array = np.ndarray[Any, Any]

#: Structures that decide whether references are shifted.
SAMPLE = 200
#: eV an atom: labels that differ by more have another zero, whatever else they tell.
FOREIGN = 1.0


@dataclass
class ReferenceReport:
    """What new reference energies changed: errors of the energy an atom (eV) before and after.

    ``shift`` (eV by symbol) was added to the references.
    """

    shift: dict[str, float] = field(default_factory=dict)
    rank: int = 0
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as text."""
        table = ", ".join(f"{k} {v:+.4f}" for k, v in self.shift.items())
        old, new = self.before, self.after
        unclear = (
            f" (compositions tell only {self.rank} of {len(self.shift)} elements apart: these "
            "shifts mean nothing for other compositions)"
        )
        return [
            f"reference energies shifted by (eV): {table}"
            + (unclear if self.rank < len(self.shift) else ""),
            f"error of the energy an atom: {old['mean']:+.4f} ± {old['std']:.4f} eV before, "
            f"{new['mean']:+.4f} ± {new['std']:.4f} eV after",
        ]


def refit_references(
    model: Potential,
    dataset: Sequence[Atoms],
    *,
    elements: Collection[int] | None = None,
    progress: bool | None = False,
) -> ReferenceReport:
    """Shift the energies of free atoms to the labels of another functional.

    Least squares of label minus prediction by composition; forces stay as they are.

    Parameters
    ----------
    elements
        Atomic numbers whose references may change; default all.
    model
        Changed in place.
    dataset
        Labeled structures.
    progress
        Show a bar on stderr.

    Raises
    ------
    ConfigError
        The model has no reference energies.
    DatasetError
        No structure has an energy.
    """
    report = _fit_shift(model, dataset, elements, progress)
    _shift(model, report)
    return report


def adapt_references(model: Potential, dataset: Sequence[Atoms]) -> ReferenceReport | None:
    """Shift the references of a trained model if that halves the error of the energy an atom.

    Labels of the model's own functional leave nothing for a shift by composition to explain; those
    of another one, or of other pseudopotentials, differ by electronvolts an atom. Decided on up to
    200 structures, spread over the dataset, by the error of each under a shift that is fitted to
    the others: with as many elements as structures any errors vanish. An error of an electronvolt
    an atom is no model's own and shifts them in any case. Returns None where they are kept.
    """
    if type(model).shift_references is Potential.shift_references:
        return None

    # Spread over the whole set: files are often sorted by composition.
    at = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE).astype(int))
    sample = [a for a in (dataset[int(k)] for k in at) if _has_energy(a)]
    if not sample:
        return None
    missing = _missing(model, sample, False)

    # A fit always lowers the error a little; another functional lowers it by an order of magnitude.
    sizes = np.array([len(a) for a in sample])
    report = _report(sample, missing, None)
    before = report.before["rms"]
    left = _left_by_the_others(sample, missing)
    foreign = before > FOREIGN and report.after["rms"] < 0.5 * before
    if not foreign and not np.square(left / sizes).mean() < (0.5 * before) ** 2:
        return None
    _shift(model, report)
    return report


def _left_by_the_others(structures: Sequence[Atoms], missing: Array) -> Array:
    """Return what is missing (B,) in eV after a shift that is fitted without the structure."""
    elements, rows = np.unique(np.concatenate([a.numbers for a in structures]), return_inverse=True)
    owner = np.repeat(np.arange(len(structures)), [len(a) for a in structures])
    counts = np.zeros((len(structures), len(elements)))
    np.add.at(counts, (owner, rows), 1.0)

    left = missing.copy()
    for k in range(len(structures)):
        others = np.arange(len(structures)) != k
        if others.any():
            shift, *_ = np.linalg.lstsq(counts[others], missing[others], rcond=None)
            left[k] -= counts[k] @ shift
    return left


def _has_energy(atoms: Atoms) -> bool:
    return "energy" in own_results(atoms)


def _shift(model: Potential, report: ReferenceReport) -> None:
    from ase.data import atomic_numbers

    model.shift_references({atomic_numbers[s]: e for s, e in report.shift.items()})


def _fit_shift(
    model: Potential,
    dataset: Sequence[Atoms],
    elements: Collection[int] | None,
    progress: bool | None,
) -> ReferenceReport:
    labeled = [a for a in dataset if _has_energy(a)]
    if not labeled:
        raise DatasetError("no structure has an energy to fit references to")
    return _report(labeled, _missing(model, labeled, progress), elements)


def _missing(model: Potential, labeled: Sequence[Atoms], progress: bool | None) -> Array:
    """Return label minus prediction (B,), eV."""
    predictions = Predictor(model)(labeled, ("energy",), progress=progress)
    pairs = zip(labeled, predictions, strict=True)
    return np.array([float(a.calc.results["energy"]) - float(row["energy"]) for a, row in pairs])


def _report(
    labeled: Sequence[Atoms], missing: Array, elements: Collection[int] | None
) -> ReferenceReport:
    from ase.data import atomic_numbers

    fit, before, after = ElementFit(), Moments(), Moments()
    for atoms, value in zip(labeled, missing, strict=True):
        before.add(-value / len(atoms))
        own = [z for z in atoms.numbers.tolist() if elements is None or z in elements]
        if own:
            fit.add(np.array(own), value)
    solved = fit.solve()

    shift = {atomic_numbers[s]: e for s, e in solved["references"].items()}
    for atoms, value in zip(labeled, missing, strict=True):
        rest = value - sum(shift.get(int(z), 0.0) for z in atoms.numbers)
        after.add(-rest / len(atoms))
    return ReferenceReport(solved["references"], solved["rank"], before.as_dict(), after.as_dict())
