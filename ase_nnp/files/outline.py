"""The words of a checkpoint: what its pickle names, read without building anything.

A family recognizes its files by them (``ModelFamily.knows``), so that a file of gigabytes is
unpickled once, by the family whose it is, and not by every installed family in turn.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO

from ase_nnp.errors import CheckpointError
from ase_nnp.files.npz import check_members

__all__ = ["checkpoint_words"]

#: Names of tensors and keys of configurations stand well within this; tensors stand elsewhere.
MAX_BYTES = 32 * 2**20
MAX_OPCODES = 2_000_000
MAX_WORD = 200

_TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}


def checkpoint_words(path: str | Path) -> frozenset[str]:
    """Return the short strings and the global names in a torch file or a pickle.

    Parameters
    ----------
    path
        A file written by ``torch.save`` (either layout) or ``pickle.dump``.

    Returns
    -------
    frozenset of str
        Keys, names of tensors, values of settings, and ``"module.name"`` of every global;
        empty for a file of another kind.

    Raises
    ------
    CheckpointError
        The file cannot be read.
    """
    path = Path(path)
    try:
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as stream:
                return _words(stream)
        with zipfile.ZipFile(path) as archive:
            check_members(archive)
            names = [n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"]
            if not names:
                return frozenset()
            with archive.open(names[0]) as stream:
                return _words(stream)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error


def _words(stream: IO[bytes]) -> frozenset[str]:
    import io

    words: set[str] = set()
    content = io.BytesIO(stream.read(MAX_BYTES))
    count, latest = 0, ["", ""]
    # The old layout of torch.save is several pickles, one after the other.
    while content.tell() < len(content.getbuffer()):
        try:
            for opcode, argument, _ in pickletools.genops(content):
                count += 1
                if count > MAX_OPCODES:
                    return frozenset(words)
                if opcode.name in _TEXT:
                    latest = [latest[1], str(argument)]
                    if len(latest[1]) <= MAX_WORD:
                        words.add(latest[1])
                elif opcode.name == "GLOBAL":
                    words.add(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    words.add(".".join(latest))
        except (ValueError, EOFError, IndexError, OverflowError, MemoryError):
            break  # raw tensors follow, or it is no pickle at all
    return frozenset(words)
