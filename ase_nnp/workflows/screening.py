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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from ase_nnp.errors import ConfigError, DatasetError, TaskError
from ase_nnp.files.atomic import locked
from ase_nnp.files.identity import STRUCTURES
from ase_nnp.workflows.batched.inputs import Structures
from ase_nnp.workflows.batched.store import agree
from ase_nnp.workflows.chunk_results import failure, write_chunk
from ase_nnp.workflows.chunks import Chunk, compute_chunk
from ase_nnp.workflows.local_processes import available_cores, local_processes
from ase_nnp.workflows.mapping import unordered
from ase_nnp.workflows.screened import Run, merge, status
from ase_nnp.workflows.tasks import ModelTask, name_of

__all__ = ["merge", "screen", "status"]

#: Structures of a chunk at most: the chunk of a relaxation is also its batch.
LARGEST = {"relax": 64, "predict": 1024, "adsorb": 1}
#: Chunks of a run at most, unless told otherwise: each is a file.
MOST_CHUNKS = 100_000


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
    """Compute every structure that has no result yet; call it again after a kill.

    Parameters
    ----------
    model
        What :func:`ase_nnp.load_model` takes, or a :class:`~ase_nnp.workflows.tasks.ModelTask`.
    structures
        A dataset, or a list; the same at every call. To search for adsorption minima:
        :class:`~ase_nnp.workflows.adsorption.Pairs`.
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
        ``task`` (``"relax"``, ``"predict"`` or ``"adsorb"``), ``checkpoint``, ``device``,
        ``dtype``, ``fmax``, ``steps``, ``optimizer``, ``cell``, ``corrections``, and of a search
        ``placements``, ``top``, ``seed``, ``reference``, as in
        :class:`~ase_nnp.workflows.tasks.ModelTask`.

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

    # The model is loaded here once: a wrong name is told before processes start.
    device = job.load().device.type

    # One process holds a GPU: two would share its memory without knowing of each other.
    count = workers or (available_cores() if device == "cpu" else 1)
    run = _begin(job, given, Path(folder).resolve(), chunk, count * parts)
    chunks = [
        Chunk(job, str(run.folder), first, last, given.part(first, last))
        # Every n-th: neighbors in a dataset are alike, so blocks would make slow and quick shards.
        for first, last in run.chunks()[part::parts]
    ]
    screening = _Screening(run, progress)
    todo = screening.remaining(chunks)

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

        # All tasks of a job array begin at once.
        with locked(folder / "lock"):
            if chunk is None and (folder / "run.json").exists():
                chunk = Run(folder).chunk
            total = len(given)
            if chunk is None:
                # Some chunks for each process, so that none waits long for the last.
                chunk = max(1, min(LARGEST[job.task], -(-total // (4 * workers))))
                chunk = max(chunk, -(-total // MOST_CHUNKS))

            # By content: the same file name with other structures is another run.
            identity = {**job.settings(), "chunk": chunk, STRUCTURES: given.digests()}
            agree(folder / "run.json", identity)
    except OSError as error:
        raise DatasetError(f"cannot be written: {error}", path=folder) from error
    return Run(folder)


class _Screening:
    """One call of :func:`screen`: what is done, and how the rest is computed."""

    def __init__(self, run: Run, progress: Callable[[int, int], None] | None) -> None:
        self.run, self.progress = run, progress
        self.finished = self.failed = self.computed = 0
        self.answered = False  # whether any process has come back with results

    def remaining(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return the chunks without results; clear up after those that have them."""
        todo = []
        for chunk in chunks:
            summaries = self.run.summaries(chunk.first, chunk.last)
            if sum(one["count"] for one in summaries) < chunk.last - chunk.first:
                todo.append(chunk)
                continue
            chunk.clear()
            for summary in summaries:
                self._count(summary)
        return todo

    def compute(
        self,
        chunks: Sequence[Chunk],
        executor: Executor | Callable[[], Executor],
        capacity: int,
        retries: int,
    ) -> None:
        """Compute chunks together, those that kill their process alone, then their structures."""
        lost = [chunk for chunk, _ in self._lost(chunks, executor, capacity, retries)]

        # Alone, because a process that dies takes innocent chunks with it.
        lost = [chunk for chunk, _ in self._lost(lost, executor, 1, retries)]
        for chunk in lost:
            singles = chunk.split()
            deaths = list(self._lost(singles, executor, 1, retries))

            # Not every structure of a chunk is deadly: then it is the machine, and nobody is
            # blamed.
            if len(deaths) == len(singles) > 1:
                raise _all_died(chunk, deaths[0][1])
            for single, error in deaths:
                self._blame(single, error)
            chunk.clear()

    def _lost(
        self,
        chunks: Sequence[Chunk],
        executor: Executor | Callable[[], Executor],
        capacity: int,
        retries: int,
    ) -> Iterator[tuple[Chunk, BaseException]]:
        """Compute chunks; yield those of which the executor says only that they were lost."""
        if not chunks:
            return
        losses = 0

        for chunk, answer in unordered(
            compute_chunk, chunks, executor, in_flight=capacity, retries=retries
        ):
            if isinstance(answer, BaseException):
                # Where no process has ever answered, it is not the structures: do not try them all.
                losses += 1
                if not self.answered and losses >= max(3, 2 * capacity):
                    raise _all_died(chunk, answer)
                yield chunk, answer
            elif isinstance(answer, str):
                raise TaskError(f"Structures {chunk.first} to {chunk.last - 1}: {answer}")
            else:
                self.answered = True
                self.computed += answer["count"]
                self._count(answer)

    def _blame(self, single: Chunk, error: BaseException) -> None:
        name = name_of(single.first, Structures(single.structures).readable(0))
        said = f"its process died, also alone ({type(error).__name__})"

        # Written as a result, so that the next call does not die of it again.
        self._count(write_chunk(single.results, [failure(single.first, name, said)], 0.0))
        self.computed += 1
        single.clear()

    def _count(self, summary: dict[str, Any]) -> None:
        self.finished += summary["count"]
        self.failed += summary["failed"]
        if self.progress is not None:
            self.progress(self.finished, self.failed)


def _all_died(chunk: Chunk, error: BaseException) -> TaskError:
    return TaskError(
        f"Structures {chunk.first} to {chunk.last - 1}: every process died, whatever it was "
        f"given ({type(error).__name__}: {error}). Is there enough memory?"
    )
