"""What a screening run has come to: counts, and the merging of its results into one file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import DatasetError
from ase_nnp.files.identity import STRUCTURES
from ase_nnp.files.regular import open_regular
from ase_nnp.workflows.chunk_results import read_chunk, read_summary

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Merged", "Run", "merge", "results", "status"]


class Run:
    """The folder of a screening run.

    Parameters
    ----------
    folder
        As given to :func:`~ase_nnp.workflows.screening.screen`.

    Raises
    ------
    DatasetError
        The folder holds no screening run, or a damaged one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        path = self.folder / "run.json"
        try:
            with open_regular(path) as file:
                said = json.loads(file.read())

            # The run's own file says all: status and merge need neither model nor dataset.
            self.total, self.chunk = len(said[STRUCTURES]), int(said["chunk"])
        except FileNotFoundError:
            raise DatasetError("no screening run lies in this folder", path=folder) from None
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise DatasetError(f"does not say what the run is ({error})", path=path) from error
        if self.chunk < 1 or not self.total:
            raise DatasetError("does not say what the run is", path=path)

    def chunks(self) -> list[tuple[int, int]]:
        """Return first and last (excluded) structure of every chunk."""
        return [
            (first, min(self.total, first + self.chunk))
            for first in range(0, self.total, self.chunk)
        ]

    def files(self, first: int, last: int) -> list[Path]:
        """Return the files that hold the results of a chunk, in order; fewer if it is not done."""
        results = self.folder / "results"
        whole = results / f"{first:09d}-{last:09d}"
        if whole.exists():
            return [whole]
        # A chunk that killed its process has its structures one by one.
        singles = [results / f"{k:09d}-{k + 1:09d}" for k in range(first, last)]
        return [path for path in singles if path.exists()]

    def summaries(self, first: int, last: int) -> list[dict[str, Any]]:
        """Return what the files of a chunk say they hold."""
        return [read_summary(path) for path in self.files(first, last)]


def status(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return how far a screening run is.

    Parameters
    ----------
    folder
        As given to :func:`~ase_nnp.workflows.screening.screen`.

    Returns
    -------
    dict
        ``total``, ``finished`` and ``failed`` structures; ``chunks``, those ``chunks_finished``
        and ``chunks_begun``; ``seconds`` of all processes together; whether it is ``complete``.

    Raises
    ------
    DatasetError
        The folder holds no screening run, or a damaged one.
    """
    run = Run(folder)
    finished = failed = complete = 0
    seconds = 0.0
    for first, last in run.chunks():
        summaries = run.summaries(first, last)
        count = sum(one["count"] for one in summaries)
        finished += count
        failed += sum(one["failed"] for one in summaries)
        seconds += sum(one["seconds"] for one in summaries)
        complete += count == last - first

    # A folder of checkpoints is there from a chunk's first step to its results.
    begun = sum(path.is_dir() for path in (run.folder / "work").glob("*-*"))
    return {
        "total": run.total,
        "finished": finished,
        "failed": failed,
        "chunks": len(run.chunks()),
        "chunks_finished": complete,
        "chunks_begun": begun,
        "seconds": round(seconds, 3),
        "complete": finished == run.total,
    }


@dataclass
class Merged:
    """What :func:`merge` wrote to ``path``, and the structures that failed."""

    path: Path
    total: int
    written: int = 0
    missing: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)


def merge(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    partial: bool = False,
    overwrite: bool = False,
) -> Merged:
    """Write the results of a run to one file, in the order of the input.

    Parameters
    ----------
    folder
        As given to :func:`~ase_nnp.workflows.screening.screen`.
    output
        A dataset file, as in :func:`ase_nnp.write_dataset`; ``info["screen_index"]`` is the place
        of each structure in the input.
    partial
        Take what is there of an unfinished run.
    overwrite
        Replace an existing file.

    Raises
    ------
    DatasetError
        The run is not finished or damaged, nothing succeeded, or ``output`` exists.
    """
    from ase_nnp.datasets.writing.write import write_dataset

    run = Run(folder)
    paths = [path for chunk in run.chunks() for path in run.files(*chunk)]
    result = Merged(Path(output), run.total)

    # First lines only; the records follow one file at a time.
    result.missing = run.total - sum(read_summary(path)["count"] for path in paths)
    if result.missing and not partial:
        raise DatasetError(
            f"{result.missing} of {run.total} structures are not done; call screen again, or take "
            "what is there with partial=True (--partial)",
            path=folder,
        )

    def successes() -> Iterator[Atoms]:
        for record in _records(paths):
            if record[:1] == b"E":
                result.failures.append(json.loads(record[1:]))
            else:
                result.written += 1
                yield _atoms(record)

    write_dataset(output, successes(), overwrite=overwrite)
    return result


def results(folder: str | os.PathLike[str]) -> Iterator[Atoms]:
    """Yield what has succeeded so far of a run, finished or not, in the order of the input.

    Raises
    ------
    DatasetError
        The folder holds no screening run, or a damaged one.
    """
    run = Run(folder)
    for record in _records(path for chunk in run.chunks() for path in run.files(*chunk)):
        if record[:1] != b"E":
            yield _atoms(record)


def _records(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        yield from read_chunk(path)


def _atoms(record: bytes) -> Atoms:
    from ase_nnp.datasets.formats.flatlmdb import decode_record
    from ase_nnp.datasets.sample import to_atoms

    return to_atoms(decode_record(record[1:]))
