"""Screening of a large set: chunks that each go on after a kill, mapped over an executor.

::

    run.json                        what the run is: task, model, digest of every structure
    work/000000000-000000064/       a chunk at work: the folder of a batched relaxation
    results/000000000-000000064     its results, written whole when it is done

The executor schedules and repeats. A chunk that ends its process again and again is tried alone,
and then structure by structure: the one to blame becomes a failed record.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import AseNnpError, ConfigError, DatasetError, TaskError
from ase_nnp.files.atomic import locked
from ase_nnp.files.identity import STRUCTURES
from ase_nnp.workflows.batched.inputs import Structures
from ase_nnp.workflows.batched.store import agree
from ase_nnp.workflows.local_processes import available_cores, interruptible, local_processes
from ase_nnp.workflows.mapping import unordered
from ase_nnp.workflows.pieces import failure, read_summary, success, write_piece
from ase_nnp.workflows.screened import Run, merge, status
from ase_nnp.workflows.tasks import ModelTask, name_of

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["merge", "screen", "status"]

#: Structures of a chunk at most: the chunk of a relaxation is also its batch.
LARGEST = {"relax": 64, "predict": 1024}
#: Chunks of a run at most, unless told otherwise: each is a file.
MOST_CHUNKS = 100_000


@dataclass(frozen=True)
class Piece:
    """Structures ``first`` to ``last`` (excluded) of a run, as they travel to a process."""

    task: ModelTask
    folder: str
    first: int
    last: int
    structures: Sequence[Atoms]

    @property
    def name(self) -> str:
        """Of its folder and its results."""
        return f"{self.first:09d}-{self.last:09d}"

    @property
    def results(self) -> Path:
        """The file of its results."""
        return Path(self.folder) / "results" / self.name

    @property
    def work(self) -> Path:
        """The folder of its checkpoints."""
        return Path(self.folder) / "work" / self.name

    def split(self) -> list[Piece]:
        """Return a piece for each structure."""
        given = Structures(self.structures)
        return [
            Piece(self.task, self.folder, self.first + k, self.first + k + 1, given.part(k, k + 1))
            for k in range(len(given))
        ]

    def clear(self) -> None:
        """Remove the folder of checkpoints."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.with_suffix(".lock").unlink(missing_ok=True)


def screen(
    model: Any,
    structures: Any,
    folder: str | os.PathLike[str],
    *,
    executor: Executor | Callable[[], Executor] | None = None,
    workers: int | None = None,
    chunk: int | None = None,
    shard: tuple[int, int] = (0, 1),
    retries: int = 2,
    progress: Callable[[int, int], None] | None = None,
    **task: Any,
) -> dict[str, int]:
    """Relax or predict every structure that has no result yet; call it again after a kill.

    Parameters
    ----------
    model
        What :func:`ase_nnp.load_model` takes, or a :class:`~ase_nnp.workflows.tasks.ModelTask`.
    structures
        A dataset, or a list; the same at every call.
    folder
        Where chunks and results lie; made if missing, seen by all processes.
    executor
        Any ``concurrent.futures.Executor``, or a function that makes one; processes of this
        machine by default.
    workers
        Processes of this machine; by default one for each core, or one on a GPU.
    chunk
        Structures that one call of a process takes, and relaxes as one batch; by default at most
        64 to relax and 1024 to predict.
    shard
        ``(i, n)``: only every n-th chunk, from the i-th on. Merge when all shards are done.
    retries
        How often a chunk is repeated because its process died before it is tried alone.
    progress
        Called as ``progress(finished, failed)`` with numbers of structures of this shard.
    **task
        ``task`` (``"relax"`` or ``"predict"``), ``checkpoint``, ``device``, ``dtype``, ``fmax``,
        ``steps``, ``optimizer``, ``cell``, as in :class:`~ase_nnp.workflows.tasks.ModelTask`.

    Returns
    -------
    dict
        ``finished`` and ``failed`` structures of this shard; ``computed`` by this call.

    Raises
    ------
    ConfigError
        For arguments that cannot be meant, or a folder that holds another run.
    DatasetError
        The folder is damaged or cannot be written.
    TaskError
        Processes die whatever they are given.

    Notes
    -----
    In a script, call this below ``if __name__ == "__main__":``, because the processes import it.
    """
    job = _task(model, task).absolute()
    part, parts = shard
    if not 0 <= part < parts:
        raise ConfigError(f"Shard {part}/{parts}; shards count from 0 to {parts - 1}.")
    if (chunk is not None and chunk < 1) or (workers is not None and workers < 1) or retries < 0:
        raise ConfigError(
            f"chunk = {chunk}, workers = {workers}, retries = {retries}: at least 1, 1 and 0."
        )
    given = Structures(structures)
    if not len(given):
        raise DatasetError("there is no structure to screen")

    device = job.load().device.type
    count = workers or (available_cores() if device == "cpu" else 1)
    run = _begin(job, given, Path(folder).resolve(), chunk, count * parts)
    pieces = [
        Piece(job, str(run.folder), first, last, given.part(first, last))
        for first, last in run.chunks()[part::parts]
    ]
    screening = _Screening(run, progress)
    todo = screening.remaining(pieces)

    # An engine of others knows best how many it can take at a time.
    capacity = count if executor is None else max(1, len(todo))
    make = partial(local_processes, count) if executor is None else executor
    screening.compute(todo, make, capacity, retries)
    return {
        "finished": screening.finished,
        "failed": screening.failed,
        "computed": screening.computed,
    }


def _task(model: Any, task: dict[str, Any]) -> ModelTask:
    if isinstance(model, ModelTask):
        if task:
            raise ConfigError(f"A ModelTask is complete: {', '.join(task)} cannot go with it.")
        return model
    try:
        return ModelTask(model, **task)
    except TypeError:
        known = list(ModelTask.__dataclass_fields__)[1:]
        raise ConfigError(
            f"No option {', '.join(sorted(set(task) - set(known)))}. There are: {', '.join(known)}."
        ) from None


def _begin(job: ModelTask, given: Structures, folder: Path, chunk: int | None, workers: int) -> Run:
    """Begin a run, or join the one that lies there, which must be the same."""
    try:
        for name in ("work", "results"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            if chunk is None and (folder / "run.json").exists():
                chunk = Run(folder).chunk
            total = len(given)
            if chunk is None:
                # Some chunks for each process, so that none waits long for the last.
                chunk = max(1, min(LARGEST[job.task], -(-total // (4 * workers))))
                chunk = max(chunk, -(-total // MOST_CHUNKS))
            identity = {**job.settings(), "chunk": chunk, STRUCTURES: given.digests()}
            agree(folder / "run.json", identity)
    except OSError as error:
        raise DatasetError(f"cannot be written: {error}", path=folder) from error
    return Run(folder)


def compute_piece(piece: Piece) -> dict[str, Any] | str:
    """Compute a chunk and write its results, unless that has been done; what went wrong as text."""
    try:
        # A second process on the same chunk, which an engine thought dead, must wait its turn.
        with interruptible(), locked(piece.work.with_suffix(".lock")):
            if not piece.results.exists():
                began = time.monotonic()
                write_piece(piece.results, _records(piece), time.monotonic() - began)
            piece.clear()
        return read_summary(piece.results)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _records(piece: Piece) -> list[bytes]:
    given = Structures(piece.structures)
    answers = piece.task.many(piece.structures, piece.work)

    records = []
    for place, answer in enumerate(answers):
        index = piece.first + place
        name = name_of(index, given.readable(place))
        if isinstance(answer, AseNnpError):
            records.append(failure(index, name, str(answer)))
            continue
        try:
            records.append(success(index, answer))
        except (DatasetError, TypeError, ValueError) as error:
            records.append(failure(index, name, f"a result that cannot be stored: {error}"))
    return records


class _Screening:
    """One call of :func:`screen`: what is done, and how the rest is computed."""

    def __init__(self, run: Run, progress: Callable[[int, int], None] | None) -> None:
        self.run, self.progress = run, progress
        self.finished = self.failed = self.computed = 0

    def remaining(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Return the chunks without results; clear up after those that have them."""
        todo = []
        for piece in pieces:
            summaries = self.run.summaries(piece.first, piece.last)
            if sum(one["count"] for one in summaries) < piece.last - piece.first:
                todo.append(piece)
                continue
            piece.clear()
            for summary in summaries:
                self._count(summary)
        return todo

    def compute(
        self,
        pieces: Sequence[Piece],
        executor: Executor | Callable[[], Executor],
        capacity: int,
        retries: int,
    ) -> None:
        """Compute chunks together, those that kill their process alone, then their structures."""
        lost = [p for p, _ in self._lost(pieces, executor, capacity, retries)]
        lost = [p for p, _ in self._lost(lost, executor, 1, retries)]
        for piece in lost:
            singles = piece.split()
            deaths = list(self._lost(singles, executor, 1, retries))
            if len(deaths) == len(singles) > 1:
                raise TaskError(
                    f"Structures {piece.first} to {piece.last - 1}: every process died, also with "
                    f"one structure each ({deaths[0][1]!r}). Is there enough memory? In a script, "
                    'call screen below `if __name__ == "__main__":`.'
                )
            for single, error in deaths:
                self._blame(single, error)
            piece.clear()

    def _lost(
        self,
        pieces: Sequence[Piece],
        executor: Executor | Callable[[], Executor],
        capacity: int,
        retries: int,
    ) -> Iterator[tuple[Piece, BaseException]]:
        """Compute pieces; yield those of which the executor says only that they were lost."""
        if not pieces:
            return
        for piece, answer in unordered(
            compute_piece, pieces, executor, in_flight=capacity, retries=retries
        ):
            if isinstance(answer, BaseException):
                yield piece, answer
            elif isinstance(answer, str):
                raise TaskError(f"Structures {piece.first} to {piece.last - 1}: {answer}")
            else:
                self.computed += answer["count"]
                self._count(answer)

    def _blame(self, single: Piece, error: BaseException) -> None:
        name = name_of(single.first, Structures(single.structures).readable(0))
        said = f"its process died, also alone ({type(error).__name__})"
        self._count(write_piece(single.results, [failure(single.first, name, said)], 0.0))
        self.computed += 1
        single.clear()

    def _count(self, summary: dict[str, Any]) -> None:
        self.finished += summary["count"]
        self.failed += summary["failed"]
        if self.progress is not None:
            self.progress(self.finished, self.failed)
