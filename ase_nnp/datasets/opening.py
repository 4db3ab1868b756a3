"""``open_dataset``: find out what a path holds and open it."""

from __future__ import annotations

import glob as globbing
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.ase_structures import ase_format, guess_ase_name, our_name
from ase_nnp.datasets.labels import check_keys
from ase_nnp.errors import AseNnpError, DatasetError, UnknownModelError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["find_format", "open_dataset"]

#: Endings of what belongs to a file that is being written.
_UNFINISHED = ("-lock", ".lock", ".tmp", ".part")
#: Endings that datasets rarely have: skipped in folders without a look, unless a format is named
#: (CASTEP's dynamics are ``.md``, Gaussian's outputs ``.log``).
_NEVER = (*_UNFINISHED, ".md", ".log", ".npy", ".pkl", ".py")
_COMPRESSED = (".xz", ".gz", ".bz2")


def open_dataset(
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    format: str | None = None,
    *,
    keys: Mapping[str, str] | None = None,
    **options: Any,
) -> AtomsDataset:
    """Open files of structures as one lazy sequence of ``ase.Atoms``.

    Parameters
    ----------
    path
        A file, a folder (its files in name order, subfolders not), a pattern with ``*``, or a
        list of these. In a folder, files that are no dataset (notes, logs, lock files) are
        ignored; a list is taken as it stands.
    format
        Name of a format where the content does not tell (``ase-nnp doctor`` lists them), or the
        name of any format that ASE reads (``"vasp-xdatcar"``, ``"castep-md"``). In a folder only
        files of that format are taken, whatever their endings.
    keys
        Names of labels in these files, where they are unusual: ``{"energy": "dft_energy",
        "forces": "dft_forces"}``. They are looked up in ``info`` and in the arrays of the atoms;
        ``virials`` become stress. ``ase-nnp data info`` lists what looks like a label.
    options
        For the reader of that format. All readers of this package know ``energy_kind=``
        (``"total"`` or ``"adsorption"``: convert energies by the stored reference).

    Returns
    -------
    AtomsDataset
        Opened lazily: shards are opened and decoded on first use, in each process anew.

    Raises
    ------
    DatasetError
        Nothing is there, it is no dataset, is damaged, or kinds of dataset are mixed; or
        ``keys`` names no label.
    """
    names = check_keys(keys)
    formats = dict(_formats())
    if format is not None and format not in formats:
        format = our_name(format)
        formats.setdefault(format, _format_of_ase(format, formats))

    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise DatasetError("an empty list of files")
    # Unlike Path.expanduser, this leaves "~$notes.xyz" alone, which is nobody's home.
    places = [Path(os.path.expanduser(os.fspath(part))) for part in paths]
    groups = [_files(place, formats, format) for place in places]

    # One call of the reader for all files of a kind: it may know what lies beside them.
    if len({kind.name for files in groups for _, kind in files}) == 1:
        dataset = _open([entry for files in groups for entry in files], options)
    else:
        dataset = AtomsDataset.concat(_open(files, options) for files in groups)
    for shard in dataset.shards if names else ():
        shard.use_keys(names)
    return dataset


def _formats() -> Mapping[str, DatasetFormat]:
    from ase_nnp.registry.installed import installed

    return installed().datasets


def _format_of_ase(name: str, formats: Mapping[str, DatasetFormat]) -> DatasetFormat:
    if name in formats:
        return formats[name]
    kind = ase_format(name)
    if kind is None:
        raise UnknownModelError(
            f"no dataset format is named {name!r}; there are {', '.join(sorted(formats))}, and "
            "whatever ASE reads (`ase info --formats` lists these)"
        )
    return kind


def find_format(
    path: Path, formats: Mapping[str, DatasetFormat], *, by_name: bool = True
) -> DatasetFormat | None:
    """Return the format of a file, by content; by its name only if no content tells."""
    # Names lie: `.lmdb` may be three things, `.json` four.
    for candidate in formats.values():
        if candidate.sniff(path):
            return candidate
    return _format_by_name(path, formats) if by_name else None


def _format_by_name(path: Path, formats: Mapping[str, DatasetFormat]) -> DatasetFormat | None:
    name = path.name.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    for candidate in formats.values():
        if name.endswith(tuple(candidate.suffixes)) and candidate.suffixes:
            return candidate
    return None


def _files(
    path: Path, formats: Mapping[str, DatasetFormat], format: str | None
) -> list[tuple[Path, DatasetFormat]]:
    """Return the files of a dataset with their formats, sorted by name."""
    # Records are read later, when the process may work in another folder.
    if path.exists():
        path = path.absolute()
    if path.is_dir():
        return _files_of_folder(path, formats, format)
    if path.exists():
        return [(path, _format_of_file(path, formats, format))]

    if any(sign in str(path) for sign in "*?["):
        matches = sorted(match.absolute() for match in _matches(path))
        files = _of_format(matches, formats, format)
        if not files:
            raise DatasetError("no dataset matches this pattern", path=path)
        _refuse_mixture(path, files)
        return files
    raise DatasetError("no such file or folder", path=path)


def _matches(pattern: Path) -> Iterable[Path]:
    if "**" not in pattern.parts:
        return map(Path, globbing.glob(str(pattern)))
    # glob.glob enters linked folders, a folder that links to itself some 40 times.
    return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))


def _files_of_folder(
    path: Path, formats: Mapping[str, DatasetFormat], format: str | None
) -> list[tuple[Path, DatasetFormat]]:
    # Some datasets are folders: LMDB's data.mdb, DeePMD's sets of arrays.
    whole = find_format(path, formats, by_name=False)
    if whole is not None and format in (None, whole.name):
        return [(path, whole)]

    entries = sorted(path.iterdir())
    files = _of_format(entries, formats, format)
    if not files:
        listed = ", ".join(entry.name for entry in entries[:8]) or "nothing"
        if ".pkl" in listed:
            listed += " (pickled tables are read with load_mapping)"
        raise DatasetError(f"no dataset in this folder; it holds {listed}", path=path)
    _refuse_mixture(path, files)
    return files


def _format_of_file(
    path: Path, formats: Mapping[str, DatasetFormat], format: str | None
) -> DatasetFormat:
    if not path.is_file():
        raise DatasetError("neither a file nor a folder (a device or a pipe)", path=path)
    if format is not None:
        return formats[format]

    # What only an ending tells comes last: ASE knows a hundred, `.md` of notes among them.
    kind = find_format(path, formats)
    if kind is None and not path.name.lower().endswith(_NEVER):
        name = guess_ase_name(path)
        kind = ase_format(name) if name is not None else None
    if kind is None:
        raise DatasetError(_unknown(path, formats), path=path)
    return kind


def _of_format(
    files: list[Path], formats: Mapping[str, DatasetFormat], format: str | None
) -> list[tuple[Path, DatasetFormat]]:
    """Return those files that are of a known format, or of the one that was named."""
    files = [file for file in files if _may_be_data(file, format)]
    kinds = [(file, _in_folder(file, formats, format)) for file in files]
    return [(file, kind) for file, kind in kinds if kind is not None]


def _may_be_data(path: Path, format: str | None) -> bool:
    name = path.name.lower()
    if name.startswith(".") or name.endswith(_NEVER if format is None else _UNFINISHED):
        return False
    return path.is_file() or (path / "type.raw").is_file()


def _in_folder(
    path: Path, formats: Mapping[str, DatasetFormat], format: str | None
) -> DatasetFormat | None:
    kind = find_format(path, formats)
    if format is None or (kind is not None and kind.name == format):
        return kind
    return formats[format] if guess_ase_name(path) == format else None


def _refuse_mixture(path: Path, files: list[tuple[Path, DatasetFormat]]) -> None:
    # Two kinds in one place are as a rule the same frames twice (POSCAR and OUTCAR).
    kinds: dict[str, list[str]] = {}
    for file, kind in files:
        kinds.setdefault(kind.name, []).append(file.name)
    if len(kinds) > 1:
        listed = "; ".join(
            f"{name}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for name, names in kinds.items()
        )
        raise DatasetError(
            f"several kinds of dataset in one place ({listed}); name one with format=", path=path
        )


def _unknown(path: Path, formats: Mapping[str, DatasetFormat]) -> str:
    if path.stat().st_size == 0:
        return "an empty file"
    return f"no known kind of dataset; there are {', '.join(sorted(formats))}"


def _open(files: Sequence[tuple[Path, DatasetFormat]], options: dict[str, Any]) -> AtomsDataset:
    kind, path = files[0][1], files[0][0]
    try:
        return kind.open([file for file, _ in files], **options)  # type: ignore[return-value]
    except AseNnpError:
        raise
    except TypeError as error:
        option = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if option is None:
            raise DatasetError(f"cannot be opened: {error}", path=path) from error
        raise DatasetError(f"format {kind.name} has no option {option[1]!r}", path=path) from None
    except Exception as error:  # a reader is a plugin, and a damaged file may do anything to it
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"cannot be opened as {kind.name}: {reason}", path=path) from error
