"""Convert a dataset to another format: in parallel, and to be continued after a kill."""

from __future__ import annotations

import json
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.writing.encode import to_json
from ase_nnp.datasets.writing.identity import identity
from ase_nnp.datasets.writing.record_writers import Sink, State, sink_class
from ase_nnp.datasets.writing.write import (
    CHUNK,
    about,
    check_target,
    encode_chunk,
    kinds_of,
    refuse_own_source,
    remove_others,
    said_by_all,
    sample_to_write,
)
from ase_nnp.errors import DatasetError
from ase_nnp.files.atomic import read_checked, take_lock, whole_file, write_checked

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
    shard_size: int | None = None,
    **open_options: Any,
) -> Conversion:
    """Convert ``src`` to one file ``dst``, or to a folder of shards.

    An interrupted conversion leaves a hidden file beside ``dst``; the same call continues it, with
    nothing lost and nothing doubled, and with another input it is refused (see
    :mod:`ase_nnp.datasets.writing.identity`); ``dst`` appears by rename at the end. The result does
    not depend on ``workers`` or on interruptions.

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
    shard_size
        Make ``dst`` a folder of files ``data.0000...`` with so many records each (the last may
        have fewer) and a ``metadata.npz`` with the atom counts; finished shards stay when the
        conversion is interrupted. The format is aselmdb unless given.
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
    if shard_size is not None and shard_size < 1:
        raise DatasetError(f"shard_size is {shard_size}; at least 1 record a shard")
    sink_type = sink_class(target, "aselmdb" if shard_size and format is None else format)
    check_target(target, overwrite or shard_size is not None)

    dataset = _opened(src, open_options)
    total = len(dataset)
    if total == 0:
        raise DatasetError("there is no structure to convert", path=src)

    settings = (sink_type.name, chunk_size, skip_broken, shard_size, open_options)
    work = _Work(dataset, src, open_options, workers, skip_broken, chunk_size, resume, progress)
    work.token = identity(dataset, *settings)

    with _alone(target):
        if shard_size is None:
            result = _one_file(work, sink_type, target, 0, total)
        else:
            result = _shards(work, sink_type, target, shard_size, overwrite)
    if not result.written:
        raise DatasetError("no record could be read", path=src)
    return result


@dataclass
class _Work:
    """What stays the same through a conversion."""

    dataset: Sequence[Atoms]
    src: Any
    open_options: dict[str, Any]
    workers: int
    skip_broken: bool
    chunk_size: int
    resume: bool
    progress: Progress | None
    token: str = ""

    def __post_init__(self) -> None:
        self.about = about(self.dataset)
        if not hasattr(self.dataset, "energy_kind"):
            self.about |= said_by_all(kinds_of(self.dataset))


def _one_file(
    work: _Work, sink_type: type[Sink], target: Path, first: int, last: int
) -> Conversion:
    """Convert records ``first`` to ``last``, continuing what an interrupted run left."""
    sink = sink_type(target.with_name(f".{target.name}.part"))
    if not work.resume:
        sink.remove()

    fresh: State = {"token": work.token, "done": first, "written": 0, "skipped": [], "crc": 0}
    other = sink.is_other()
    state: State = fresh if other else sink.state() or fresh
    if other or state["token"] != work.token:
        raise DatasetError(
            "the rest of a conversion from another source or with other settings lies here; "
            "use resume=False (--restart) to begin again",
            path=sink.part,
        )

    # What an interrupted run wrote may have been changed since; its checksum tells.
    if state is not fresh:
        _check_held(sink, state)

    state["about"] = work.about
    resumed_at = state["done"] if state["done"] > first else 0
    result = Conversion(target, last - first, resumed_at=resumed_at)

    try:
        _fill(sink, state, work, last)
        if state["written"]:
            sink.finish(target)
        else:
            sink.remove()
    except OSError as error:
        raise DatasetError(f"cannot be written: {error.strerror or error}", path=target) from error
    finally:
        sink.close()
    result.written, result.skipped = state["written"], state["skipped"]
    return result


def _shards(
    work: _Work, sink_type: type[Sink], folder: Path, size: int, overwrite: bool
) -> Conversion:
    """Convert to a folder; a note in it says which shards are finished, until all are."""
    note = folder / ".conversion.json"
    if not note.exists() and folder.exists() and any(folder.iterdir()) and not overwrite:
        raise DatasetError("the folder is not empty; give overwrite=True", path=folder)

    folder.mkdir(exist_ok=True)
    try:
        known = json.loads(read_checked(note)) if note.exists() and work.resume else {}
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"what an interrupted conversion noted is damaged ({error}); use resume=False "
            "(--restart) to begin again",
            path=note,
        ) from error
    if known and known["token"] != work.token:
        raise DatasetError(
            "the rest of a conversion from another source or with other settings lies here; "
            "use resume=False (--restart) to begin again",
            path=folder,
        )

    finished: list[dict[str, Any]] = known.get("shards", [])
    if not known:  # before the first shard: a kill in it must not leave a folder of nobody's
        refuse_own_source(folder, work.dataset)
        write_checked(note, to_json({"token": work.token, "shards": finished}))

    total = len(work.dataset)
    result = Conversion(folder, total, resumed_at=min(total, len(finished) * size))
    made: set[Path] = set()
    for number, first in enumerate(range(0, total, size)):
        target = folder / f"data.{number:04d}{sink_type.suffixes[0]}"
        if number >= len(finished):
            one = _one_file(work, sink_type, target, first, min(total, first + size))
            result.resumed_at = max(result.resumed_at, one.resumed_at)
            finished.append({"written": one.written, "skipped": one.skipped})
            write_checked(note, to_json({"token": work.token, "shards": finished}))
        elif finished[number]["written"] and not target.exists():
            raise DatasetError(
                "a finished file of an interrupted conversion is gone; use resume=False "
                "(--restart) to begin again",
                path=target,
            )
        if finished[number]["written"]:
            made.add(target)
        result.written += finished[number]["written"]
        result.skipped += finished[number]["skipped"]

    if result.written:
        remove_others(folder, made)
        _write_natoms(folder, sink_type)
    note.unlink()
    return result


def _write_natoms(folder: Path, sink_type: type[Sink]) -> None:
    """Write the side file by which fairchem balances batches."""
    import numpy as np

    files = sorted(folder.glob(f"data.*{sink_type.suffixes[0]}"))
    made = _opened([str(file) for file in files], {})
    samples: Any = made
    counts = [len(samples.arrays(k)["atomic_numbers"]) for k in range(len(made))]
    with whole_file(folder / "metadata.npz") as beside:
        np.savez(beside, natoms=np.array(counts, dtype=np.int32))


def _opened(src: Any, options: dict[str, Any]) -> Sequence[Atoms]:
    if not (isinstance(src, (str, os.PathLike)) or _is_paths(src)):
        if hasattr(src, "get_positions"):
            raise DatasetError("one structure alone is converted as [atoms]")
        return src  # type: ignore[no-any-return]
    from ase_nnp.datasets.opening import open_dataset

    return open_dataset(src, **options)


def _is_paths(src: Any) -> bool:
    return isinstance(src, list) and all(isinstance(one, (str, os.PathLike)) for one in src)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold a lock on the conversion to ``target``; the system lets go of it after a kill."""
    lock = target.with_name(f".{target.name}.lock")
    try:
        handle = take_lock(lock, wait=False)
    except OSError as error:
        # The folder is read-only or full; of the lock's own name nobody has heard.
        raise DatasetError(f"cannot be written: {error.strerror or error}", path=target) from error
    if handle is None:
        raise DatasetError("another process is converting to this file", path=target)
    with handle:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _check_held(sink: Sink, state: State) -> None:
    """Refuse to go on with records that changed since they were written."""
    checksum = 0
    try:
        for payload in sink.held(state):
            checksum = zlib.crc32(payload, checksum)
    except (DatasetError, OSError, LookupError) as error:
        raise sink.damaged(error) from error
    if checksum != state["crc"]:
        raise sink.damaged(ValueError("its checksum does not fit"))


def _fill(sink: Sink, state: State, work: _Work, end: int) -> None:
    size = work.chunk_size
    spans = [(first, min(first + size, end)) for first in range(state["done"], end, size)]

    job = (type(sink), work.skip_broken)
    if work.workers > 1 and len(spans) > 1:
        by_path = isinstance(work.src, (str, os.PathLike)) or _is_paths(work.src)
        source = work.src if by_path else work.dataset
        results = _in_processes(spans, source, work.open_options, job, work.workers)
    else:
        results = (_encode_span(work.dataset, first, last, *job) for first, last in spans)

    for (_, last), (payloads, count, broken) in zip(spans, results, strict=True):
        state["done"] = last
        state["written"] += count
        state["skipped"] = state["skipped"] + broken
        for payload in payloads:
            state["crc"] = zlib.crc32(payload, state["crc"])
        sink.append(payloads, state)
        if work.progress is not None:
            work.progress(last, len(work.dataset))


Encoded = tuple[list[bytes], int, list[dict[str, Any]]]


def _encode_span(
    dataset: Sequence[Atoms], first: int, last: int, sink: type[Sink], skip_broken: bool
) -> Encoded:
    samples: list[Sample] = []
    broken = []
    arrays = getattr(dataset, "arrays", None)
    for index in range(first, last):
        try:
            one = sample_to_write(dataset[index], index) if arrays is None else arrays(index)
            samples.append(one)
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
