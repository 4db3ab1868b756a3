"""Weights in files: read any of the usual kinds without running code, write safetensors whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import CheckpointError
from ase_nnp.files.atomic import whole_file

__all__ = [
    "as_tensors",
    "read_header",
    "read_tensors",
    "tensor_hash",
    "write_tensors",
]

#: A safetensors header larger than this is no header.
MAX_HEADER = 100 * 2**20


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors, npz or torch file, judged by its content.

    Raises
    ------
    CheckpointError
        The file cannot be read or holds something else; UnsafeFileError if it asks for code.
    """
    path = Path(path)
    start = _head(path)
    if start[:4] == b"PK\x03\x04" and _is_npz(path):
        try:
            with np.load(path, allow_pickle=False) as file:
                return {k: torch.from_numpy(np.array(file[k])) for k in file.files}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} is a damaged npz file: {error}.") from error
    if len(start) > 8 and start[8:9] == b"{" and start[:4] != b"PK\x03\x04":
        return _read_safetensors(path)
    from ase_nnp.files.unpickle import load_torch

    content = load_torch(path)
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    return as_tensors(content, path)


def as_tensors(content: Any, path: object = "the file") -> dict[str, Tensor]:
    """Turn a mapping of arrays into a mapping of tensors (copies, writable)."""
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no named tensors, but {type(content).__name__}.")
    strange = [str(k) for k, v in content.items() if not isinstance(v, np.ndarray)]
    if strange:
        raise CheckpointError(f"{path}: these entries are no tensors: {', '.join(strange[:5])}.")
    return {str(k): torch.from_numpy(np.array(v)) for k, v in content.items()}


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error


def _is_npz(path: Path) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(str(path)))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged safetensors file: {error}.") from error


def read_header(path: str | Path) -> dict[str, str]:
    """Return the text metadata of a safetensors file, {} if it is none."""
    path = Path(path)
    start = _head(path)
    size = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:9] != b"{" or size > min(MAX_HEADER, path.stat().st_size):
        return {}
    with open(path, "rb") as file:
        file.seek(8)
        text = file.read(size)
    try:
        header = json.loads(text)
    except ValueError:
        return {}
    found = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return dict(found) if isinstance(found, dict) else {}


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> None:
    """Write a safetensors file that appears whole or not at all."""
    from safetensors.torch import save_file

    flat = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with whole_file(path) as beside:
        save_file(flat, str(beside), metadata=dict(header))


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, shapes, types and values, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
