"""Weights in files: read any of the usual kinds without running code, write safetensors whole.

The project's own files (models, uncertainties, samples of weights) are *sealed*: a SHA-256 covers
every tensor and every word of the header, so that one changed digit is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import CheckpointError
from ase_nnp.files.atomic import whole_file
from ase_nnp.files.npz import is_npz, read_npz
from ase_nnp.files.regular import open_regular

__all__ = [
    "as_tensors",
    "read_header",
    "read_sealed",
    "read_tensors",
    "tensor_hash",
    "write_sealed",
    "write_tensors",
]

#: A safetensors header larger than this is no header.
MAX_HEADER = 100 * 2**20
SEAL = "sha256"
_DAMAGE = (OSError, ValueError, TypeError, KeyError, RuntimeError, EOFError, MemoryError)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors, npz or torch file, judged by its content.

    Raises
    ------
    CheckpointError
        The file cannot be read or holds something else; UnsafeFileError if it asks for code.
    """
    path = Path(path)
    with _opened(path) as file:
        # By content, because names lie: safetensors begins with the length of a JSON header, zip
        # archives (npz, torch) with PK.
        start = file.read(16)
        if start[:4] != b"PK\x03\x04" and start[8:9] == b"{":
            file.seek(0)
            return _safetensors(file.read(), path)
        packed = start[:4] == b"PK\x03\x04" and is_npz(file)

    if packed:
        return as_tensors(read_npz(path, CheckpointError), path)
    from ase_nnp.files.unpickle import load_torch

    content = load_torch(path)
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    return as_tensors(content, path)


def _opened(path: Path) -> IO[bytes]:
    try:
        return open_regular(path)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error


def _safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(data))
    except (SafetensorError, *_DAMAGE) as error:
        raise CheckpointError(f"{path} is a damaged safetensors file: {error}.") from error


def as_tensors(content: Any, path: object = "the file") -> dict[str, Tensor]:
    """Turn a mapping of arrays into a mapping of tensors (copies, writable)."""
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no named tensors, but {type(content).__name__}.")

    # Nested dictionaries are optimizer states or whole checkpoints: which part is meant is not for
    # us to guess.
    strange = [str(k) for k, v in content.items() if not isinstance(v, np.ndarray)]
    if strange:
        raise CheckpointError(f"{path}: these entries are no tensors: {', '.join(strange[:5])}.")
    return {str(k): torch.from_numpy(np.array(v)) for k, v in content.items()}


def read_header(path: str | Path) -> dict[str, str]:
    """Return the text metadata of a safetensors file, {} if it is none."""
    with _opened(Path(path)) as file:
        return _metadata(file)


def _metadata(file: IO[bytes]) -> dict[str, str]:
    start = file.read(9)
    size = int.from_bytes(start[:8], "little")
    length = file.seek(0, 2)

    # The announced length is a stranger's number: nothing is read before it is believable.
    if len(start) < 9 or start[8:9] != b"{" or size > min(MAX_HEADER, length):
        return {}
    file.seek(8)
    try:
        header = json.loads(file.read(size))
    except (ValueError, RecursionError):
        return {}
    words = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return dict(words) if isinstance(words, dict) else {}


def read_sealed(path: str | Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Return header and tensors of a file that :func:`write_sealed` wrote; None for any other.

    Parameters
    ----------
    path
        Opened once; a file of another kind is not read beyond its header.
    key
        What kind of file is wanted.

    Raises
    ------
    CheckpointError
        It is of this kind, and its checksum is missing or wrong, or its header is no JSON object.
    """
    path = Path(path)
    with _opened(path) as file:
        metadata = _metadata(file)
        if key not in metadata:
            return None
        file.seek(0)
        tensors = _safetensors(file.read(), path)

    if SEAL not in metadata:
        raise CheckpointError(
            f"{path} has no checksum over its header (a file of before the first release). Make it "
            "again."
        )

    # Over the header as well: a changed cutoff or unit is as wrong as a changed weight.
    if metadata.pop(SEAL) != _seal(metadata, tensors):
        raise CheckpointError(f"{path}: header and weights do not match their SHA-256.")
    try:
        header = json.loads(metadata[key])
    except (ValueError, RecursionError, TypeError) as error:
        raise CheckpointError(f"{path}: the header is damaged ({error!r}).") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is damaged (no JSON object).")
    return header, tensors


def write_sealed(
    path: str | Path, key: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write tensors and a JSON header with a checksum over both; whole or not at all.

    Raises
    ------
    CheckpointError
        The header is not plain JSON.
    """
    try:
        metadata = {key: json.dumps(header, allow_nan=False)}
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"What describes {path} is not plain JSON: {error}.") from error
    write_tensors(path, tensors, {**metadata, SEAL: _seal(metadata, tensors)})


def _seal(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    # Sorted, because safetensors does not keep the order of its metadata.
    text = json.dumps([dict(metadata), tensor_hash(tensors)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> None:
    """Write a safetensors file that appears whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # safetensors refuses tensors that share memory, such as tied or expanded weights: each gets its
    # own.
    flat = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    try:
        with whole_file(path) as beside:
            save_file(flat, str(beside), metadata=dict(header))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}.") from error


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, shapes, types and values, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}|".encode())

        # As bytes: numpy has no bfloat16. An empty tensor has none, and no form as bytes.
        if value.numel():
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
