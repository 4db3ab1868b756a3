"""What an index belongs to: files by size and content, the way they are read, the mappings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ase_nnp.errors import DatasetError
from ase_nnp.files.identity import digest

__all__ = ["described_files", "differences", "refreshed"]

BLOCK, SAMPLES, WHOLE = 1 << 16, 64, 64 << 20


def described_files(shards: Iterable[Any]) -> list[dict[str, Any]]:
    """Return for each file what must not change, and the stamp that saves looking again."""
    return [_describe(shard, with_content=True) for shard in shards]


def _describe(shard: Any, with_content: bool) -> dict[str, Any]:
    try:
        files = shard.files()
        states = [file.stat() for file in files]
        content = _content(files) if with_content else ""
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror}", path=shard.path) from None

    return {
        "name": Path(shard.path).name,
        "records": len(shard),
        "reading": [shard.format, repr(shard.options), _digest_of_references(shard)],
        "size": sum(state.st_size for state in states),
        "content": content,
        # A time of change cannot be set back, unlike the time of writing.
        "stamp": [[s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in states],
    }


def _digest_of_references(shard: Any) -> str:
    references = getattr(shard, "references", None)
    return digest(dict(references)) if references else ""


def _content(files: list[Path]) -> str:
    """Hash files whole; of one larger than 64 MB, blocks spread evenly over it."""
    state = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        state.update(b"%d;" % size)
        with open(path, "rb") as file:
            if size <= WHOLE:
                while block := file.read(1 << 20):
                    state.update(block)
                continue
            for number in range(SAMPLES + 1):
                file.seek((size - BLOCK) * number // SAMPLES)
                state.update(file.read(BLOCK))
    return state.hexdigest()[:32]


def differences(stored: list[dict[str, Any]], shards: Iterable[Any]) -> list[str]:
    """Return what differs between indexed files and those of a dataset, a phrase for each."""
    listed = list(shards)
    if len(stored) != len(listed):
        return [f"{len(stored)} files were indexed, the dataset has {len(listed)}"]

    phrases = []
    for before, shard in zip(stored, listed, strict=True):
        now = _describe(shard, with_content=False)
        for name, words in (("records", "records"), ("reading", "reading"), ("size", "bytes")):
            if before.get(name) != now[name]:
                phrases.append(f"{shard.path}: {words} {before.get(name)} then, {now[name]} now")
                break
        else:
            # The same stamp is the same file; another one may be a copy of it.
            if before.get("stamp") != now["stamp"] and before.get("content") != _content(
                shard.files()
            ):
                phrases.append(f"{shard.path}: another content of the same size")

    return phrases


def refreshed(stored: list[dict[str, Any]], shards: Iterable[Any]) -> list[dict[str, Any]]:
    """Return stored descriptions with today's stamps, after :func:`differences` found none."""
    return [
        {**before, "stamp": _describe(shard, with_content=False)["stamp"]}
        for before, shard in zip(stored, shards, strict=True)
    ]
