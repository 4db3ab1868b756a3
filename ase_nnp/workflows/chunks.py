"""A chunk of a screening run: what travels to a process, and what is done with it there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import AseNnpError, DatasetError
from ase_nnp.files.atomic import locked
from ase_nnp.workflows.batched.inputs import Structures
from ase_nnp.workflows.chunk_results import failure, read_summary, success, write_chunk
from ase_nnp.workflows.local_processes import interruptible
from ase_nnp.workflows.tasks import ModelTask, name_of

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Chunk", "compute_chunk"]


@dataclass(frozen=True)
class Chunk:
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

    def split(self) -> list[Chunk]:
        """Return a chunk for each structure."""
        given = Structures(self.structures)
        return [
            Chunk(self.task, self.folder, self.first + k, self.first + k + 1, given.part(k, k + 1))
            for k in range(len(given))
        ]

    def clear(self) -> None:
        """Remove the folder of checkpoints."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.with_suffix(".lock").unlink(missing_ok=True)


def compute_chunk(chunk: Chunk) -> dict[str, Any] | str:
    """Compute a chunk and write its results, unless that has been done; what went wrong as text."""
    try:
        # A second process on the same chunk, which an engine thought dead, must wait its turn.
        with interruptible(), locked(chunk.work.with_suffix(".lock")):
            if not chunk.results.exists():
                began = time.monotonic()
                write_chunk(chunk.results, _records(chunk), time.monotonic() - began)
            chunk.clear()
        return read_summary(chunk.results)
    except Exception as error:
        # As text: an exception of a plugin's own class may not unpickle on the other side.
        return f"{type(error).__name__}: {error}"


def _records(chunk: Chunk) -> list[bytes]:
    given = Structures(chunk.structures)
    answers = chunk.task.many(chunk.structures, chunk.work)

    records = []
    for place, answer in enumerate(answers):
        index = chunk.first + place

        # The number in the whole input, so that a failure can be found there.
        name = name_of(index, given.readable(place))
        if isinstance(answer, AseNnpError):
            records.append(failure(index, name, str(answer)))
            continue
        try:
            records.append(success(index, answer))
        except (DatasetError, TypeError, ValueError) as error:
            records.append(failure(index, name, f"a result that cannot be stored: {error}"))
    return records
