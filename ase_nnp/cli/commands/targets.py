"""Where results go: an output file that is known to be writable before anything runs."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.output import warn
from ase_nnp.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["OverwriteOption", "Target", "check_place", "free_name", "open_target"]

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output file if it exists.")
]


def free_name(path: Path) -> Path:
    """Return ``path``, or ``name-2.ending`` and so on where that is taken."""
    if not path.exists():
        return path
    stem, ending = path.name.split(".", 1) if "." in path.name else (path.name, "")
    numbered = (path.with_name(f"{stem}-{k}{'.' * bool(ending)}{ending}") for k in count(2))
    return next(name for name in numbered if not name.exists())


@dataclass(frozen=True)
class Target:
    """An output file with the format it will have; :func:`open_target` makes one.

    Attributes
    ----------
    path
        The file.
    format
        One of ASE's format names; empty where :func:`~ase_nnp.datasets.write_dataset` writes.
    overwrite
        Whether a file that is there may be replaced.
    """

    path: Path
    format: str
    overwrite: bool = False

    def write(self, structures: Sequence[Atoms]) -> Path:
        """Write structures with their results; return where they are.

        Finished work is never lost: what the chosen format cannot hold goes to a file of extended
        XYZ beside it, with a warning.
        """
        try:
            _write(self.path, structures, self.format, self.overwrite)
        except Exception as error:  # writers of ASE's sixty formats raise anything
            # Hours of work must not be lost to a writer: extended XYZ holds anything.
            spare = free_name(self.path.with_name(f"{self.path.name}.extxyz"))
            _write(spare, structures, "", False)
            warn(f"{self.path} could not be written ({_reason(error)}); the results are in {spare}")
            return spare
        return self.path


def open_target(
    path: Path | None,
    structures: Sequence[Atoms],
    *,
    default: str,
    overwrite: bool = False,
) -> Target:
    """Check, before work is spent, that results like ``structures`` can be written.

    Parameters
    ----------
    path
        What the user named; None for a free name like ``default``.
    structures
        What will be written, as it is before the work: one or two of them are written to a
        temporary file by the very writer.
    default
        The name to be, numbered where it is taken.
    overwrite
        Whether a file that is there may be replaced.

    Raises
    ------
    ConfigError, DatasetError
        The file exists, its folder does not, its ending names no format, or its format cannot
        hold the structures.
    """
    # A default name never replaces a file; a name that was given is refused if it is taken.
    target = free_name(Path(default)) if path is None else path
    check_place(target, default)
    if target.exists() and not overwrite:
        raise ConfigError(
            f"{target} exists already. Name another --output, or say --overwrite to replace it."
        )
    format = _format_of(target)
    _rehearse(target, format, structures)
    return Target(target, format, overwrite)


def check_place(file: Path, example: str) -> None:
    """Refuse a file whose folder is missing or closed, and a folder in a file's place.

    Raises
    ------
    ConfigError
        With a name such as ``example`` to take instead of a folder.
    """
    if file.is_dir():
        raise ConfigError(f"{file} is a folder; name a file, such as {file / example}.")
    folder = file.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.parent}.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{file}: nothing can be written in the folder {file.parent}.")


def _format_of(path: Path) -> str:
    from ase_nnp.datasets.writing.record_writers import sink_class

    try:
        sink_class(path, None)
        return ""
    except DatasetError as error:
        refusal = error

    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        name = filetype(str(path), read=False)
    except UnknownFileTypeError:
        name = ""
    if name not in ioformats or not ioformats[name].can_write:
        raise ConfigError(
            f"{path}: no format that can be written ends like this. Ours: "
            f"{str(refusal).partition('choose from ')[2]}; ASE's: `ase info --formats`."
        )
    return str(name)


def _rehearse(path: Path, format: str, structures: Sequence[Atoms]) -> None:
    """Write one or two structures with made-up results where nobody looks."""
    if not len(structures):
        raise ConfigError("The input holds no structures.")

    # Many of ASE's writers fail only on certain structures (no cell, two frames, rare elements).
    twins = [_labeled(structures[k]) for k in range(min(2, len(structures)))]
    with tempfile.TemporaryDirectory() as folder:
        try:
            trial = Path(folder) / path.name
            _write(trial, twins, format, False)
            if format and len(twins) > 1:
                _check_count(trial, format, twins)
        except Exception as error:  # writers of ASE's sixty formats raise anything
            raise ConfigError(
                f"{path}: {f'the format {format!r}' if format else 'this format'} cannot hold "
                f"{_what(len(structures))} ({_reason(error)}). Name another --output, such as "
                f"{path.with_suffix('.extxyz').name}."
            ) from error


def _labeled(atoms: Atoms) -> Atoms:
    import numpy as np

    from ase_nnp.models.structures import with_labels

    return with_labels(atoms.copy(), {"energy": 0.0, "forces": np.zeros((len(atoms), 3))})


def _write(path: Path, structures: Sequence[Atoms], format: str, overwrite: bool) -> None:
    """Write a file that appears whole or not at all."""
    if not format:
        from ase_nnp.datasets.writing.write import write_dataset

        write_dataset(path, structures, overwrite=overwrite)
        return
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} has appeared meanwhile.")

    import ase.io

    # Some formats are told by the name (POSCAR) and some write a second file (.ini of .pov).
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ase-nnp-") as folder:
        images: Any = list(structures) if len(structures) > 1 else structures[0]
        with warnings.catch_warnings():
            # FHI-aims announces a plugin and CASTEP's writer its missing binary: no one's concern.
            warnings.simplefilter("ignore")
            ase.io.write(str(Path(folder) / path.name), images, format=format)
        for made in Path(folder).iterdir():
            place = path.with_name(made.name)
            if place.is_dir():
                shutil.rmtree(place)
            made.replace(place)


def _check_count(path: Path, format: str, twins: Sequence[Atoms]) -> None:
    """Refuse a writer that keeps one of many structures in silence."""
    import ase.io
    from ase.io.formats import ioformats

    if ioformats[format].can_read:
        kept = len(ase.io.read(str(path), index=":", format=format))
    else:
        alone = path.with_name(f"1{path.name}")
        _write(alone, twins[:1], format, False)

        # Nothing can read it back, so the size tells whether the second structure is in it.
        kept = 1 if path.stat().st_size < 1.3 * alone.stat().st_size else len(twins)
    if kept != len(twins):
        raise ConfigError("it keeps one structure of many")


def _what(structures: int) -> str:
    return "this structure" if structures == 1 else f"these {structures} structures"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
