"""Screening: one function over a whole dataset, by many processes that may die at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import ConfigError, DatasetError
from ase_nnp.files.atomic import whole_file
from ase_nnp.workflows.ledger import LEASE, Block, Ledger, Worker
from ase_nnp.workflows.tasks import name_of

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Merged", "fingerprint", "merge", "screen"]

#: Blocks of a run at most, unless told otherwise: each is a small file.
MOST_BLOCKS = 100_000
#: How often a block may lose its worker before its structures count as failed.
ATTEMPTS = 5


def screen(
    function: Callable[[Atoms], Any],
    dataset: Sequence[Atoms],
    folder: str | os.PathLike[str],
    *,
    shard: tuple[int, int] = (0, 1),
    block: int | None = None,
    about: Mapping[str, Any] | None = None,
    lease: float = LEASE,
    attempts: int = ATTEMPTS,
    wait: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Apply ``function`` to what no worker has done yet; start it as often as you like.

    Parameters
    ----------
    function
        Returns ``ase.Atoms`` with results, or a dictionary of plain values and arrays. If it has a
        method ``many(list) -> list``, whole blocks are given to that.
    dataset
        The same for all workers.
    folder
        Where claims and results lie; made if it does not exist, seen by all workers.
    shard
        ``(i, n)``: this worker begins with the i-th of n parts, then helps with the rest.
    block
        Structures claimed together, the most that a kill can cost; 1, or more for datasets above
        100 000.
    about
        What must be equal for all workers beside the dataset, such as a task's settings.
    lease
        Seconds after which a silent worker of another machine counts as dead.
    attempts
        A block that has lost so many workers is given up: its structures count as failed.
    wait
        Stay until the other workers have finished too.
    progress
        Called as ``progress(done, failed)`` with the counts of this worker, after each block.

    Returns
    -------
    dict
        ``done``, ``failed`` and ``repeated`` structures of this worker.

    Notes
    -----
    A structure that raises is a result too: its error is stored, and the run goes on.
    """
    total = len(dataset)
    if total == 0:
        raise DatasetError("there is no structure to screen")
    size = block or max(1, -(-total // MOST_BLOCKS))
    ledger = Ledger.create(folder, total, size, {**fingerprint(dataset), **(about or {})})
    counts = {"done": 0, "failed": 0, "repeated": 0}
    with Worker(ledger, lease) as worker:
        for piece in worker.blocks(shard, wait=wait):
            if piece.attempt > attempts:
                why = f"its worker died {piece.attempt - 1} times"
                records = [_failure(k, f"Structure {k}", why) for k in _range(piece)]
                failed = len(records)
            else:
                records, failed = _results(function, dataset, piece)
            if worker.commit(piece, records, failed):
                counts["done"] += len(records)
                counts["failed"] += failed
            else:
                counts["repeated"] += len(records)
            if progress is not None:
                progress(counts["done"], counts["failed"])
    return counts


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Return what tells one dataset from another, for workers on different machines."""
    shards = getattr(dataset, "shards", ())
    return {"files": [[shard.path.name, shard.path.stat().st_size] for shard in shards]}


def _range(block: Block) -> range:
    return range(block.first, block.last)


def _results(
    function: Callable[[Atoms], Any], dataset: Sequence[Atoms], block: Block
) -> tuple[list[bytes], int]:
    structures: list[Any] = []
    for index in _range(block):
        try:
            structures.append(dataset[index])
        except DatasetError as error:
            structures.append(error)
    good = [k for k, one in enumerate(structures) if not isinstance(one, Exception)]
    found = list(structures)
    for k, result in zip(good, _apply(function, [structures[k] for k in good]), strict=True):
        found[k] = result
    records, failed = [], 0
    for index, atoms, result in zip(_range(block), structures, found, strict=True):
        record = _record(index, name_of(index, atoms), result)
        failed += record[:1] == b"E"
        records.append(record)
    return records, failed


def _apply(function: Callable[[Atoms], Any], structures: list[Any]) -> list[Any]:
    many = getattr(function, "many", None)
    if many is not None:
        return list(many(structures)) if structures else []
    results: list[Any] = []
    for atoms in structures:
        try:
            results.append(function(atoms))
        except Exception as error:  # whatever a user's function raises
            results.append(error)
    return results


def _failure(index: int, name: str, error: str) -> bytes:
    return b"E" + json.dumps({"index": index, "name": name, "error": error}).encode()


def _record(index: int, name: str, result: Any) -> bytes:
    """Encode a result: its kind in one byte, then the content."""
    from ase_nnp.datasets.sample import from_atoms
    from ase_nnp.datasets.writing.encode import flat_record, to_json

    if isinstance(result, Exception):
        return _failure(index, name, f"{type(result).__name__}: {result}")
    try:
        if isinstance(result, Mapping):
            return b"J" + to_json({"index": index, **result})
        sample = from_atoms(result)
        sample["info"] = {**sample["info"], "screen_index": index}
        return b"A" + flat_record(sample)
    except (DatasetError, TypeError, ValueError, AttributeError) as error:
        return _failure(index, name, f"a result that cannot be stored: {error}")


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
    """Write the results of a run to one file, in the order of the dataset.

    Parameters
    ----------
    folder
        As given to :func:`screen`.
    output
        A dataset file, as in :func:`ase_nnp.write_dataset`, with ``info["screen_index"]`` for each
        structure; for results that are dictionaries, a ``.jsonl`` file.
    partial
        Take what is there of an unfinished run.
    overwrite
        Replace an existing file.

    Raises
    ------
    DatasetError
        The run is not finished, nothing succeeded, or ``output`` exists.
    """
    ledger, target = Ledger(folder), Path(output)
    done = sorted(ledger.finished())
    result = Merged(target, ledger.total)
    result.missing = ledger.total - sum(b.last - b.first for b in map(ledger.block, done))
    if result.missing and not partial:
        raise DatasetError(
            f"{result.missing} of {ledger.total} structures are not done; start more workers, or "
            "take what is there with partial=True (--partial)",
            path=folder,
        )

    def good() -> Iterator[bytes]:
        for number in done:
            for record in ledger.read(number):
                if record[:1] == b"E":
                    result.failures.append(json.loads(record[1:]))
                else:
                    result.written += 1
                    yield record

    if target.suffix == ".jsonl":
        _write_lines(target, good(), overwrite)
    else:
        from ase_nnp.datasets.writing.write import write_dataset

        write_dataset(target, map(_atoms, good()), overwrite=overwrite)
    return result


def _atoms(record: bytes) -> Atoms:
    from ase_nnp.datasets.formats.flatlmdb import decode_record
    from ase_nnp.datasets.sample import to_atoms

    if record[:1] != b"A":
        raise ConfigError("These results are dictionaries; merge them into a .jsonl file.")
    return to_atoms(decode_record(record[1:]))


def _write_lines(target: Path, records: Iterator[bytes], overwrite: bool) -> None:
    from ase_nnp.datasets.writing.write import check_target

    check_target(target, overwrite)
    with whole_file(target) as beside, open(beside, "wb") as file:
        for record in records:
            if record[:1] != b"J":
                raise ConfigError("These results are structures; merge them into a dataset file.")
            file.write(record[1:] + b"\n")
