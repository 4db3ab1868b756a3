"""Convert a dataset to another format: in parallel, and to be continued after a kill."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.datasets._sinks import Sink, State, sink_class
from ase_nnp.datasets.sample import Sample, from_atoms
from ase_nnp.datasets.writers import CHUNK, about, check_target, encode_chunk
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ase import Atoms

__all__ = ["Conversion", "convert"]

Progress = Callable[[int, int], None]


@dataclass
class Conversion:
    """What a conversion did.

    ``written`` records of ``total`` are in ``path``; ``skipped`` lists the broken ones as
    ``{"index", "error"}``; ``resumed_at`` is where an interrupted run was taken up, or 0.
    """

    path: Path
    total: int
    written: int = 0
    resumed_at: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as for ``--json``."""
        return {**asdict(self), "path": str(self.path)}


def convert(
    src: Any,
    dst: str | os.PathLike[str],
    *,
    format: str | None = None,
    workers: int = 1,
    skip_broken: bool = False,
    resume: bool = True,
    overwrite: bool = False,
    chunk_size: int = CHUNK,
    progress: Progress | None = None,
    source_format: str | None = None,
    **open_options: Any,
) -> Conversion:
    """Convert ``src`` to one file ``dst``.

    An interrupted conversion leaves a hidden file beside ``dst``; the same call continues it, with
    nothing lost and nothing doubled, and ``dst`` appears by rename at the end. The result does not
    depend on ``workers`` or on interruptions.

    Parameters
    ----------
    src
        A path for :func:`ase_nnp.open_dataset`, or a sequence of Atoms.
    dst
        The file to be; its ending chooses the format as in :func:`write_dataset`.
    format
        A format name instead of the ending.
    workers
        Processes that read and encode; 1 does it in this process. With more than one, a script
        needs ``if __name__ == "__main__":`` around its main part.
    skip_broken
        Leave broken records out and list them, instead of stopping at the first.
    resume
        False starts again from the beginning.
    overwrite
        Replace ``dst`` if it exists.
    chunk_size
        Records written together; an interruption costs at most so many per worker.
    progress
        Called as ``progress(done, total)`` after every chunk.
    source_format
        Name of the format of ``src``, where its content does not tell.
    **open_options
        For :func:`ase_nnp.open_dataset`.

    Raises
    ------
    DatasetError
        A broken record (unless skipped), an existing ``dst``, another conversion at work on it,
        or the rest of a conversion from another source.
    """
    if source_format is not None:
        open_options["format"] = source_format
    target = Path(dst)
    sink_type = sink_class(target, format)
    check_target(target, overwrite)
    dataset = _opened(src, open_options)
    total = len(dataset)
    if total == 0:
        raise DatasetError("there is no structure to convert", path=src)
    token = _token(src, total, sink_type.name, chunk_size, skip_broken, open_options)
    with _alone(target):
        sink = sink_type(target.with_name(f".{target.name}.part"))
        if not resume:
            sink.remove()
        state = sink.state() or {"token": token, "done": 0, "written": 0, "skipped": []}
        state["about"] = about(dataset)
        if state["token"] != token:
            raise DatasetError(
                "the rest of a conversion from another source or with other settings lies here; "
                "use resume=False (--restart) to begin again",
                path=sink.part,
            )
        result = Conversion(target, total, resumed_at=state["done"])
        try:
            _fill(
                sink, state, dataset, src, open_options, workers, skip_broken, chunk_size, progress
            )
            if not state["written"]:
                raise DatasetError("no record could be read", path=src)
            sink.finish(target)
        finally:
            sink.close()
    result.written, result.skipped = state["written"], state["skipped"]
    return result


def _opened(src: Any, options: dict[str, Any]) -> Sequence[Atoms]:
    if not isinstance(src, (str, os.PathLike)):
        return src  # type: ignore[no-any-return]
    from ase_nnp.datasets import open_dataset

    return open_dataset(src, **options)


def _token(src: Any, total: int, *settings: Any) -> str:
    """Digest of what must be equal for a conversion to be continued."""
    where = os.path.abspath(src) if isinstance(src, (str, os.PathLike)) else "sequence"
    return hashlib.sha256(repr((where, total, *settings)).encode()).hexdigest()[:32]


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold a lock on the conversion to ``target``; the system lets go of it after a kill."""
    lock = target.with_name(f".{target.name}.lock")
    with open(lock, "w") as handle:
        try:
            import fcntl
        except ImportError:  # no such lock on this system
            fcntl = None  # type: ignore[assignment]
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DatasetError(
                    "another process is converting to this file", path=target
                ) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _fill(
    sink: Sink,
    state: State,
    dataset: Sequence[Atoms],
    src: Any,
    open_options: dict[str, Any],
    workers: int,
    skip_broken: bool,
    chunk_size: int,
    progress: Progress | None,
) -> None:
    total = len(dataset)
    starts = range(state["done"], total, chunk_size)
    spans = [(first, min(first + chunk_size, total)) for first in starts]
    job = (type(sink), skip_broken)
    if workers > 1 and len(spans) > 1:
        source = src if isinstance(src, (str, os.PathLike)) else dataset
        results = _in_processes(spans, source, open_options, job, workers)
    else:
        results = (_encode_span(dataset, first, last, *job) for first, last in spans)
    for (_, last), (payloads, count, broken) in zip(spans, results, strict=True):
        state["done"] = last
        state["written"] += count
        state["skipped"] = state["skipped"] + broken
        sink.append(payloads, state)
        if progress is not None:
            progress(last, total)


Encoded = tuple[list[bytes], int, list[dict[str, Any]]]


def _encode_span(
    dataset: Sequence[Atoms], first: int, last: int, sink: type[Sink], skip_broken: bool
) -> Encoded:
    samples: list[Sample] = []
    broken = []
    arrays = getattr(dataset, "arrays", None)
    for index in range(first, last):
        try:
            samples.append(from_atoms(dataset[index]) if arrays is None else arrays(index))
        except DatasetError as error:
            if not skip_broken:
                raise
            broken.append({"index": index, "error": str(error)})
    payloads = encode_chunk(sink, samples, first) if samples else []
    return payloads, len(samples), broken


_worker_dataset: Any = None


def _start_worker(src: Any, options: dict[str, Any]) -> None:
    global _worker_dataset
    _worker_dataset = _opened(src, options)


def _work(first: int, last: int, sink: type[Sink], skip_broken: bool) -> Encoded:
    return _encode_span(_worker_dataset, first, last, sink, skip_broken)


def _in_processes(
    spans: list[tuple[int, int]],
    source: Any,
    options: dict[str, Any],
    job: tuple[type[Sink], bool],
    workers: int,
) -> Iterator[Encoded]:
    """Encode spans in parallel and yield the results in order, a few ahead at most."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # spawn: a fork would copy locks of threads (progress bars) in an unknown state.
    with ProcessPoolExecutor(
        workers, get_context("spawn"), _start_worker, (source, options)
    ) as pool:
        waiting: deque[Future[Encoded]] = deque()
        remaining = iter(spans)
        try:
            for first, last in remaining:
                waiting.append(pool.submit(_work, first, last, *job))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
