"""What is done to each structure of a large set: a prediction, a relaxation, a search for sites.

A task is small and travels to other processes; each of them loads the model once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ase_nnp.errors import AseNnpError, ConfigError, StructureError, TaskError

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential
    from ase_nnp.models.predictor import Predictor

__all__ = ["TASKS", "ModelTask", "labeled", "name_of"]

TASKS = ("relax", "predict", "adsorb")


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
    """Relax, predict or adsorb with a model; callable with one structure, or :meth:`many`.

    Parameters
    ----------
    model
        What :func:`ase_nnp.load_model` takes; a file or a name is loaded where it is needed, a
        potential travels whole.
    task
        ``"relax"`` (:func:`ase_nnp.relax_many`), ``"predict"`` (energy, forces and what else
        there is), or ``"adsorb"`` (the most stable minimum of each of the
        :class:`~ase_nnp.workflows.adsorption.Pairs` of surfaces and adsorbates).
    checkpoint, device, dtype, corrections
        As in :func:`ase_nnp.load_model`.
    fmax, steps, optimizer, cell
        Of a relaxation, as in :func:`ase_nnp.relax_many`; a search for sites takes the first two.
    placements, top, seed, reference
        Of a search, as in :func:`~ase_nnp.workflows.adsorption.adsorb`.

    Raises
    ------
    ConfigError
        For values that cannot be meant.
    """

    model: Any = None
    task: str = "relax"
    checkpoint: str | None = None
    device: str = "auto"
    dtype: str | None = None
    fmax: float = 0.05
    steps: int = 300
    optimizer: str = "FIRE"
    cell: bool = False
    corrections: tuple[str, ...] = ()
    placements: int = 24
    top: int = 5
    seed: int = 0
    reference: str = "oc20"

    def __post_init__(self) -> None:
        # Torch takes seconds to import: forked workers inherit it from here.

        if self.task not in TASKS:
            raise ConfigError(f"No task '{self.task}'. There are: {', '.join(TASKS)}.")
        if self.task == "relax":
            from ase_nnp.workflows.batched.relaxation import Relaxation

            Relaxation(self.optimizer, self.fmax, self.cell)
        if self.placements < 1 or self.top < 1:
            raise ConfigError(
                f"placements = {self.placements}, top = {self.top}: at least 1 of both."
            )

    def absolute(self) -> Self:
        """Return the same task for processes that work in another folder."""

        def path(value: Any) -> Any:
            # Names of families and pretrained models stay names.
            is_file = isinstance(value, (str, Path)) and Path(value).exists()
            return str(Path(value).resolve()) if is_file else value

        return replace(self, model=path(self.model), checkpoint=path(self.checkpoint))

    def settings(self) -> dict[str, Any]:
        """Return what decides the results: the model by its content, and the numbers that count."""
        from ase_nnp.models.files import model_hash

        model = self.load()

        # The device does not count: a run may go on elsewhere.
        said = {"task": self.task, "model": model_hash(model), "dtype": str(model.dtype)}
        if self.task == "predict":
            return said
        names: tuple[str, ...] = ("fmax", "steps", "optimizer", "cell")
        if self.task == "adsorb":
            names = ("fmax", "steps", "placements", "top", "seed", "reference")
        return {**said, **{name: getattr(self, name) for name in names}}

    def load(self) -> Potential:
        """Return the model; loaded once in each process."""
        return self._predictor().model

    def _predictor(self) -> Predictor:
        where = (self.device, self.dtype)
        return _predictor(self.model, self.checkpoint, *where, tuple(self.corrections))

    def __call__(self, atoms: Atoms) -> Atoms:
        """Return a copy with results, and what the relaxation did in ``info``.

        Raises
        ------
        AseNnpError
            The structure has no answer.
        """
        answer = self.many([atoms])[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def many(
        self, structures: Sequence[Atoms], folder: str | Path | None = None
    ) -> list[Atoms | AseNnpError]:
        """Return a structure with results, or an error, for each.

        Parameters
        ----------
        structures
            Read one by one; one that cannot be read has an error.
        folder
            Where a relaxation keeps its checkpoints.
        """
        from ase_nnp.workflows.batched.inputs import Structures

        given = Structures(structures)
        if self.task == "adsorb":
            return self._adsorbed(given, folder)
        return self._relaxed(given, folder) if self.task == "relax" else self._predicted(given)

    def _adsorbed(self, given: Any, folder: str | Path | None) -> list[Atoms | AseNnpError]:
        from ase_nnp.workflows.adsorption.pairs import most_stable

        options = {
            name: getattr(self, name)
            for name in ("fmax", "steps", "placements", "top", "seed", "reference")
        }
        answers: list[Atoms | AseNnpError] = []
        for index in range(len(given)):
            home = None if folder is None else Path(folder) / str(index)
            try:
                answers.append(most_stable(given.read(index), self.load(), home, **options))
            except AseNnpError as error:
                answers.append(error)
        return answers

    def _relaxed(self, given: Any, folder: str | Path | None) -> list[Atoms | AseNnpError]:
        from ase_nnp.workflows.batched import relax_many

        outcomes = relax_many(
            self.load(),
            given.items,
            optimizer=self.optimizer,
            fmax=self.fmax,
            steps=self.steps,
            cell=self.cell,
            folder=folder,
            trajectory=None,
            # Seconds; a structure of a chunk takes some, and a checkpoint milliseconds.
            checkpoint_every=10.0,
        )

        from ase_nnp.workflows.doubts import noted

        answers: list[Atoms | AseNnpError] = []
        for outcome in outcomes:
            if outcome.status == "failed":
                answers.append(TaskError(outcome.reason))
                continue
            outcome.atoms.info.update(
                converged=outcome.converged,
                steps=outcome.steps,
                energy_before=outcome.energy_before,
            )
            answers.append(noted(outcome.atoms, outcome.doubts))
        return answers

    def _predicted(self, given: Any) -> list[Atoms | AseNnpError]:
        answers: list[Any] = []
        for index in range(len(given)):
            try:
                answers.append(given.read(index))
            except StructureError as error:
                answers.append(error)

        # A broken record is one failed structure, not a failed chunk.
        readable = [k for k, one in enumerate(answers) if not isinstance(one, AseNnpError)]
        results = self._batched([answers[k] for k in readable])
        for k, result in zip(readable, results, strict=True):
            good = not isinstance(result, AseNnpError)
            answers[k] = labeled(answers[k], result) if good else result
        return answers

    def _batched(self, structures: list[Atoms]) -> list[Any]:
        """Predict together; where that fails, halves tell which structures it was."""
        if not structures:
            return []
        try:
            return list(self._predictor()(structures, progress=False))
        except Exception as error:  # of a model, which is a plugin
            if len(structures) == 1:
                own = isinstance(error, AseNnpError)
                return [error if own else TaskError(f"{type(error).__name__}: {error}")]
        middle = len(structures) // 2
        return self._batched(structures[:middle]) + self._batched(structures[middle:])


@lru_cache(maxsize=1)
def _predictor(
    model: Any,
    checkpoint: str | None,
    device: str,
    dtype: str | None,
    corrections: tuple[str, ...],
) -> Predictor:
    from ase_nnp.models.files import load_model
    from ase_nnp.models.predictor import Predictor

    options: dict[str, Any] = {"device": device, "dtype": dtype, "corrections": corrections}
    return Predictor(load_model(model, checkpoint=checkpoint, **options))


def labeled(atoms: Atoms, results: Mapping[str, Any]) -> Atoms:
    """Return a copy of ``atoms`` with a model's results as its labels.

    Energy, forces and stress go into a SinglePointCalculator, further scalars into ``info``.
    """
    from ase_nnp.models.structures import with_labels
    from ase_nnp.workflows.doubts import noted

    twin: Atoms = noted(atoms.copy(), {})
    twin.info.update({k: v for k, v in results.items() if isinstance(v, (bool, float))})

    # ASE writes info beside the results, and readers would meet two energies.
    twin.info.pop("energy", None)
    return with_labels(twin, results)
