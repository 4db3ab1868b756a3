"""Reference energies of a trained model: shifted where labels come from another functional."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.streaming_statistics import ElementFit, Moments
from ase_nnp.errors import DatasetError
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["ReferenceReport", "adapt_references", "refit_references"]

#: Structures that decide whether references are shifted.
SAMPLE = 200


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
        return [
            f"reference energies shifted by (eV): {table}",
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
    200 structures, spread over the dataset. Returns None where the references are kept.
    """
    if type(model).shift_references is Potential.shift_references:
        return None

    # Spread over the whole set: files are often sorted by composition.
    at = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE).astype(int))
    sample = [dataset[int(k)] for k in at]
    report = _fit_shift(model, [a for a in sample if _has_energy(a)], None, False)

    # A fit always lowers the error a little; another functional lowers it by an order of magnitude.
    if not report.after["rms"] < 0.5 * report.before["rms"]:
        return None
    _shift(model, report)
    return report


def _has_energy(atoms: Atoms) -> bool:
    return atoms.calc is not None and "energy" in atoms.calc.results


def _shift(model: Potential, report: ReferenceReport) -> None:
    from ase.data import atomic_numbers

    model.shift_references({atomic_numbers[s]: e for s, e in report.shift.items()})


def _fit_shift(
    model: Potential,
    dataset: Sequence[Atoms],
    elements: Collection[int] | None,
    progress: bool | None,
) -> ReferenceReport:
    from ase.data import atomic_numbers

    labeled = [a for a in dataset if _has_energy(a)]
    if not labeled:
        raise DatasetError("no structure has an energy to fit references to")
    predictions = Predictor(model)(labeled, ("energy",), progress=progress)
    missing = [
        float(atoms.calc.results["energy"] - row["energy"])
        for atoms, row in zip(labeled, predictions, strict=True)
    ]

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
