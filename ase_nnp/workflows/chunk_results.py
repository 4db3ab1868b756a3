"""Results of a chunk of a screening run: one file, written whole, with a checksum.

The first line is JSON: what the file holds. Records follow, one for each structure: ``A`` and a
flat binary record of a structure with its results, or ``E`` and a failure as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnp.errors import DatasetError
from ase_nnp.files.atomic import whole_file
from ase_nnp.files.regular import open_regular

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["failure", "read_chunk", "read_summary", "success", "write_chunk"]


def success(index: int, atoms: Atoms) -> bytes:
    """Return the record of a structure with results; ``index`` is its place in the input."""
    from ase_nnp.datasets.sample import from_atoms
    from ase_nnp.datasets.writing.encode import flat_record

    sample = from_atoms(atoms)
    sample["info"] = {**sample["info"], "screen_index": index}
    return b"A" + flat_record(sample)


def failure(index: int, name: str, error: str) -> bytes:
    """Return the record of a structure that has no results."""
    return b"E" + json.dumps({"index": index, "name": name, "error": error}).encode()


def write_chunk(path: Path, records: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """Write the records of a chunk, whole or not at all; return what the first line says.

    Raises
    ------
    DatasetError
        The file cannot be written.
    """
    # Sizes and checksum stand in the first line, so that status reads one line a file.
    body = b"".join(records)
    summary = {
        "count": len(records),
        "failed": sum(record[:1] == b"E" for record in records),
        "seconds": round(seconds, 3),
        "sizes": [len(record) for record in records],
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    try:
        with whole_file(path) as beside:
            beside.write_bytes(json.dumps(summary).encode() + b"\n" + body)
    except OSError as error:
        raise DatasetError(f"cannot be written: {error}", path=path) from error
    return summary


def read_summary(path: Path) -> dict[str, Any]:
    """Return the first line of the file.

    Raises
    ------
    DatasetError
        It is damaged.
    """
    return _summary(path, _content(path, first_line=True))


def read_chunk(path: Path) -> list[bytes]:
    """Return the records of a chunk.

    Raises
    ------
    DatasetError
        The content is not what was written.
    """
    line, _, body = _content(path).partition(b"\n")
    summary = _summary(path, line)
    if hashlib.sha256(body).hexdigest() != summary["sha256"]:
        raise DatasetError("is damaged: its checksum does not fit", path=path)

    records, place = [], 0
    for size in summary["sizes"]:
        records.append(body[place : place + size])
        place += size
    if place != len(body) or len(records) != summary["count"]:
        raise DatasetError("is damaged: its lengths do not fit", path=path)
    return records


def _content(path: Path, *, first_line: bool = False) -> bytes:
    try:
        with open_regular(path) as file:
            return file.readline() if first_line else file.read()
    except OSError as error:
        raise DatasetError(f"cannot be read: {error}", path=path) from error


def _summary(path: Path, line: bytes) -> dict[str, Any]:
    try:
        summary = json.loads(line)
        whole = all(isinstance(summary[k], int) for k in ("count", "failed"))

        # The line is JSON, but of a file that may be cut, damaged or another's: each field is
        # looked at.
        whole &= all(isinstance(size, int) and size > 0 for size in summary["sizes"])
        whole &= isinstance(summary["sha256"], str) and float(summary["seconds"]) >= 0
    except (ValueError, LookupError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise DatasetError("is damaged: its first line says nothing of its content", path=path)
    return dict(summary)
