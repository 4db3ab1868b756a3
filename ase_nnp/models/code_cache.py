"""The folder of compiled models: whose code a file is, and whether it may be run.

Loading machine code runs it. A file is taken from a folder that nobody else can write to, and by a
name that says everything the code was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ase_nnp.datasets.columns import cache_folder
from ase_nnp.errors import ConfigError
from ase_nnp.models.files import model_hash
from ase_nnp.models.machine_code import OPTIONS
from ase_nnp.models.potential import Potential

__all__ = ["cached_code", "code_key", "private_folder"]


def code_key(model: Potential) -> str | None:
    """Return the name of a model's code on this machine; None where its source is not in a file.

    It is a hash of weights, configuration, source code, plain attributes, precision, torch, its
    number of threads, the compiler's options, and the processor with all it can do.
    """
    sources = [_source(cls) for cls in _classes(model)]
    if None in sources:
        return None

    said = {
        "model": model_hash(model),
        "attributes": [_attributes(part) for part in model.modules()],
        "sources": _files_hash({Path(__file__).parent, *(s for s in sources if s is not None)}),
        "dtype": str(model.dtype),
        "torch": [torch.__version__, torch.version.git_version, torch.get_num_threads()],
        "options": OPTIONS,
        "processor": _processor(),
    }
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _classes(model: Potential) -> list[type]:
    found = {type(part) for part in model.modules()}
    return sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__))


def _source(cls: type) -> Path | None:
    """Return the package or the file that a class is written in."""
    top, *inner = cls.__module__.split(".")
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None or not Path(file).exists():
        return None
    # torch is known by its version; of this package what models are made from is enough.
    if top in ("torch", "ase_nnp"):
        return Path(__file__).parent
    return Path(file).parents[len(inner) - 1] if inner else Path(file)


def _files_hash(places: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for place in sorted(places):
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _attributes(part: nn.Module) -> Any:
    # Where a model was read from and what it was last used for are not in its code.
    left_out = ("training", "provenance", "config")
    return _plain({k: v for k, v in vars(part).items() if k not in left_out})


def _plain(values: Any) -> Any:
    """Return numbers and words of an object's attributes; what else they hold is left out."""
    if isinstance(values, Mapping):
        kept = {str(k): _plain(v) for k, v in values.items() if str(k)[:1] != "_"}
        return {k: v for k, v in sorted(kept.items()) if v is not ...}
    if isinstance(values, list | tuple):
        return [_plain(v) if _plain(v) is not ... else None for v in values]
    if isinstance(values, set | frozenset):
        return sorted(map(str, values))
    return values if isinstance(values, int | float | str | None) else ...


def _processor() -> list[str]:
    said = [platform.machine(), platform.system(), torch.backends.cpu.get_cpu_capability()]
    # The compiler writes for this processor: another of the same capability may lack something.
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().split("\n\n")[0].splitlines()
        said += [x for x in lines if x.startswith(("flags", "Features", "model name"))]
    else:
        said.append(platform.processor())
    return said


def private_folder() -> Path:
    """Return the folder of compiled models, made if it is missing.

    Raises
    ------
    ConfigError
        Others could write there, or above it.
    """
    folder = cache_folder() / "compiled"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder = folder.resolve()

    if not _is_own(folder):
        raise ConfigError(
            f"{folder}: others can write to this folder, and what lies there is run. "
            f"Take that away (chmod 700 {folder}) or set ASE_NNP_CACHE to a folder of your own."
        )
    for parent in folder.parents:
        mode = parent.stat().st_mode
        # Where the sticky bit is set (/tmp), nobody else can rename or replace what is ours.
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(
                f"{parent}: everybody can write to this folder, and so put another in the place "
                f"of {folder}. Set ASE_NNP_CACHE to a folder that is safe."
            )
    return folder


def cached_code(folder: Path, key: str) -> Path | None:
    """Return the file of that name; None where there is none that may be run."""
    file = folder / f"{key}.pt2"
    return file if file.is_file() and not file.is_symlink() and _is_own(file) else None


def _is_own(path: Path) -> bool:
    """Whether nobody else can write it."""
    if not hasattr(os, "getuid"):  # Windows keeps a user's folders by other means
        return True
    about = path.stat()
    return about.st_uid == os.getuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
