"""How a structure ended, as an object and as a line of a file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.models.structures import with_labels
from ase_nnp.workflows.batched.evaluate import BatchResults
from ase_nnp.workflows.batched.state import Batch
from ase_nnp.workflows.doubts import WANTED

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Outcome", "as_result", "from_result", "labeled"]


@dataclass
class Outcome:
    """How one structure ended.

    Attributes
    ----------
    index
        Its place in the input.
    atoms
        Its last sound state, with energy and forces where there are any, and, unless it failed,
        the ``energy_std``, ``ood_score`` and ``ood_flag`` of a model that gives them
        (``outcome.atoms.calc.results``).
    status
        ``"converged"``, ``"finished"`` (all steps taken), ``"stopped"`` by the monitor, or
        ``"failed"``; ``reason`` says why.
    steps
        Steps taken.
    energy_before, energy
        eV, before the first step and at the end; None if unknown.
    fmax
        Largest force on a free atom (with a relaxing cell: or cell row), eV/Angstrom.
    events
        What the monitor reported.
    unknown
        Of dynamics: at how many of its states the model's own flag was raised, of the first, every
        hundredth after it and the last, which were looked at.
    """

    index: int
    atoms: Atoms
    status: str
    steps: int
    energy_before: float | None = None
    energy: float | None = None
    fmax: float | None = None
    reason: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    unknown: int = 0

    @property
    def doubts(self) -> dict[str, Any]:
        """What the model doubts of :attr:`atoms`; empty where it has no uncertainty."""
        results = {} if self.atoms.calc is None else self.atoms.calc.results
        return {name: results[name] for name in WANTED if name in results}

    @property
    def converged(self) -> bool:
        """Whether the forces came below the threshold."""
        return self.status == "converged"


def labeled(batch: Batch, results: BatchResults, k: int) -> Atoms:
    """Return structure ``k`` as it is, with what the model says of it; both on the host."""
    atoms = batch.snapshot(k)
    rows = batch.segments.slice(k)
    labels: dict[str, Any] = {
        "energy": float(results.energy[k]),
        "forces": results.forces[rows].numpy().copy(),
    }
    if results.stress is not None:
        labels["stress"] = results.stress[k].numpy().copy()
    with_labels(atoms, labels)

    # SinglePointCalculator's constructor refuses names that ASE does not know.
    atoms.calc.results |= {
        name: value[rows if len(value) == batch.segments.rows else k].numpy().copy()
        for name, value in results.extra.items()
    }
    return atoms


def as_result(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as plain values; numbers keep every digit."""
    atoms, calc = outcome.atoms, outcome.atoms.calc
    momenta = atoms.arrays.get("momenta")
    results = {} if calc is None else calc.results

    own = {one.name: getattr(outcome, one.name) for one in fields(Outcome) if one.name != "atoms"}
    return {
        **own,
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "momenta": None if momenta is None else momenta.tolist(),
        "results": {name: np.asarray(value).tolist() for name, value in results.items()},
    }


def from_result(line: dict[str, Any], given: Atoms) -> Outcome:
    """Return the outcome of :func:`as_result`; ``given`` is the structure of the input."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = given.copy()
    if len(line["positions"]) != len(atoms):
        raise ValueError(
            f"structure {line['index']} has {len(atoms)} atoms, its result {len(line['positions'])}"
        )
    atoms.arrays["positions"] = np.array(line["positions"], dtype=np.float64).reshape(-1, 3)
    atoms.cell[:] = np.array(line["cell"])
    if line["momenta"] is not None:
        atoms.arrays["momenta"] = np.array(line["momenta"], dtype=np.float64)

    if line["results"]:
        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.results = {
            k: v if isinstance(v, float) else np.array(v) for k, v in line["results"].items()
        }
    line = {"unknown": 0, **line}  # runs before it was counted
    own = {one.name: line[one.name] for one in fields(Outcome) if one.name != "atoms"}
    return Outcome(atoms=atoms, **own)
