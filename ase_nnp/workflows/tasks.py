"""What is done to each structure of a large set: a model's prediction or a relaxation.

A task is small and travels to other processes; each of them loads the model once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import AseNnpError, ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential
    from ase_nnp.models.predictor import Predictor

__all__ = ["TASKS", "ModelTask", "labelled", "name_of"]

TASKS = ("relax", "predict")


def name_of(index: int, atoms: Any) -> str:
    """Return how messages call a structure: its number, id and formula."""
    try:
        formula, info = atoms.get_chemical_formula(), atoms.info
    except AttributeError:  # whatever else a set may hold
        return f"Item {index}"
    sid = f", id {info['sid']}" if "sid" in info else ""
    return f"Structure {index} ({formula}{sid})"


@dataclass(frozen=True)
class ModelTask:
    """Relax or predict with a model; callable with one structure, :meth:`many` with several.

    Parameters
    ----------
    model
        A model file, or the name of a family.
    task
        ``"relax"`` (ASE's optimizers) or ``"predict"`` (energy, forces and what else there is).
    checkpoint, device, dtype
        As in :func:`ase_nnp.load_model`.
    fmax, steps, optimizer, cell
        Of a relaxation, as in :func:`ase_nnp.workflows.relax.relax`.
    """

    model: str
    task: str = "relax"
    checkpoint: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    fmax: float = 0.05
    steps: int = 300
    optimizer: str = "FIRE"
    cell: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"No task '{self.task}'. There are: {', '.join(TASKS)}.")
        if self.task == "relax":
            from ase_nnp.workflows.relax import check_optimizer

            check_optimizer(self.optimizer)

    def load(self) -> Potential:
        """Return the model; loaded once in each process."""
        return self._predictor().model

    def _predictor(self) -> Predictor:
        return _predictor(self.model, self.checkpoint, self.device, self.dtype)

    def __call__(self, atoms: Atoms) -> Atoms:
        """Return a copy with results, and what the relaxation did in ``info``."""
        if self.task == "predict":
            return labelled(atoms, self._predictor()([atoms], progress=False)[0])
        from ase_nnp.calculator.calculator import NNPCalculator
        from ase_nnp.workflows.relax import relax

        found = relax(
            atoms,
            NNPCalculator(self.load()),
            fmax=self.fmax,
            steps=self.steps,
            optimizer=self.optimizer,
            cell=self.cell,
        )
        found.atoms.info.update(
            converged=found.converged, steps=found.steps, energy_before=found.energy_before
        )
        return found.atoms

    def many(self, structures: Sequence[Atoms]) -> list[Atoms | Exception]:
        """Return one result or error for each; predictions share batches where all are good."""
        if self.task == "predict" and len(structures) > 1:
            try:
                found = self._predictor()(structures, progress=False)
            except AseNnpError:  # one by one tells which it was
                pass
            else:
                return [labelled(a, r) for a, r in zip(structures, found, strict=True)]
        results: list[Atoms | Exception] = []
        for atoms in structures:
            try:
                results.append(self(atoms))
            except Exception as error:  # of a model, which is a plugin
                results.append(error)
        return results


@lru_cache(maxsize=1)
def _predictor(model: str, checkpoint: str | None, device: str, dtype: str) -> Predictor:
    from ase_nnp.models.files import load_model
    from ase_nnp.models.predictor import Predictor

    return Predictor(load_model(model, checkpoint=checkpoint, device=device, dtype=dtype))


def labelled(atoms: Atoms, found: Mapping[str, Any]) -> Atoms:
    """Return a copy of ``atoms`` with a model's results as its labels.

    Energy, forces and stress go into a SinglePointCalculator, further scalars into ``info``.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    twin: Atoms = atoms.copy()
    standard = {k: v for k, v in found.items() if k in ("energy", "forces", "stress")}
    if "stress" in standard:
        standard["stress"] = full_3x3_to_voigt_6_stress(standard["stress"])
    twin.info.update({k: v for k, v in found.items() if isinstance(v, float)})
    twin.info.pop("energy", None)
    twin.calc = SinglePointCalculator(twin, **standard)
    return twin
