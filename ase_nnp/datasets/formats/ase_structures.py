"""Files that ASE's readers read as a whole: which names are safe, and a shard for one file."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.byteranges import compressed_size
from ase_nnp.datasets.formats.framefile import first_bytes
from ase_nnp.datasets.sample import Sample, from_atoms, refuse_shared_sites
from ase_nnp.datasets.shard import Shard
from ase_nnp.errors import DatasetError, UnsafeFileError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["StructureShard", "ase_format", "guess_ase_name", "open_named", "refuse_partial"]

#: Readers that unpickle, hand the file to another package, or need a server.
_UNSAFE = {
    "bundletrajectory": "its older versions hold pickles",
    "gpw": "GPAW restores objects from it",
    "mysql": "it is a server",
    "postgresql": "it is a server",
}
#: ASE's names of formats that have a reader of their own here.
_OURS = {"traj": "ase", "json": "ase-db", "db": "ase-db", "xyz": "extxyz"}
_PARTIAL = 1e-3
#: Bytes. ASE reads such a file as a whole, and holds several times as much.
MOST_INFLATED = 1 << 30


def ase_format(name: str) -> DatasetFormat | None:
    """Return the format that ASE calls ``name`` as a format of datasets; None if unknown.

    Raises
    ------
    UnsafeFileError
        ASE's reader of this format may run what stands in the file, or is no part of ASE.
    """
    from ase.io.formats import ioformats

    reader = ioformats.get(name)
    if reader is None:
        return None
    if not reader.can_read:
        raise DatasetError(f"ASE writes {name!r} and cannot read it")

    if name in _UNSAFE:
        raise UnsafeFileError(f"ASE's format {name!r} is not read: {_UNSAFE[name]}")
    if not reader.module_name.startswith("ase.io."):
        raise UnsafeFileError(
            f"the format {name!r} comes from {reader.module_name}, not from ASE; what it runs is "
            "unknown. Read it with ase.io.read and write a dataset from the atoms"
        )

    return DatasetFormat(
        name=name,
        summary=reader.description,
        sniff=lambda path: guess_ase_name(path) == name,
        open=open_named(name),
    )


def our_name(name: str) -> str:
    """Return our name of a format for which ASE has another."""
    return _OURS.get(name, name)


def guess_ase_name(path: Path) -> str | None:
    """Return ASE's name of a file by its name, first bytes or ending; only formats read by ASE."""
    from ase.io.formats import filetype

    try:
        name = filetype(str(path), guess=False)
        return name if name not in _OURS and name != "extxyz" and ase_format(name) else None
    except Exception:  # unknown, not ours to read, or damaged: compressed data raise anything
        return None


def open_named(name: str) -> Callable[..., AtomsDataset]:
    """Return the function that opens files of one of ASE's formats."""

    def open_files(files: Sequence[Path], *, energy_kind: str | None = None) -> AtomsDataset:
        return AtomsDataset([StructureShard(path, name) for path in files], energy_kind=energy_kind)

    return open_files


@contextmanager
def _source(path: Path, name: str) -> Iterator[str | TextIO]:
    """Give ASE's reader a path, or a stream where it would open one without a name.

    The reader of OUTCAR asks the stream for its name to find the constraints beside it, which the
    streams of bz2 and lzma do not have before Python 3.13.
    """
    from ase.io.formats import ioformats

    open_stream = {".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}.get(path.suffix.lower())
    kind = ioformats[name]
    if open_stream is None or kind.isbinary or not kind.acceptsfd:
        yield str(path)
        return
    with open_stream(path) as stream, io.TextIOWrapper(_Named(stream, str(path))) as text:
        yield text


class _Named(io.BufferedReader):
    """A stream of bytes with the name of its file."""

    def __init__(self, stream: Any, name: str) -> None:
        super().__init__(stream)
        self._name = name

    @property
    def name(self) -> str:  # type: ignore[override]
        """Path of the file."""
        return self._name


class StructureShard(Shard):
    """One file that ASE reads as a whole (VASP, CIF, XSF, ...); read again in each process.

    Parameters
    ----------
    path
        The file; ``.gz``, ``.bz2`` and ``.xz`` are inflated, up to 1 GiB.
    name
        ASE's name of its format.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        self.path, self._name = Path(path), name
        self.format = name
        images = self._load()
        self._length = len(images)
        labeled = any("energy" in (getattr(atoms.calc, "results", None) or {}) for atoms in images)
        self.energy_kind = "total" if labeled else None

    def _load(self) -> list[Any]:
        import ase.io

        check_claims(self.path, self._name)
        try:
            with warnings.catch_warnings(), _source(self.path, self._name) as source:
                warnings.simplefilter("ignore")
                images = ase.io.read(
                    source,  # type: ignore[arg-type]
                    index=":",
                    format=self._name,
                    parallel=False,
                    do_not_split_by_at_sign=True,
                )
        except Exception as error:  # ASE's readers raise anything on a damaged file
            reason = f"{type(error).__name__}: {error}"
            raise DatasetError(
                f"cannot be read: ASE's reader of {self._name} says {reason}", path=self.path
            ) from error

        if not images:
            raise DatasetError("no structures", path=self.path)
        self._images: list[Any] | None = list(images)
        return self._images

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> Sample:
        """Return one structure."""
        from ase.calculators.calculator import all_properties

        # ASE's readers give all frames at once; after unpickling they are read again.
        images = self._images if self._images is not None else self._load()
        atoms = images[index]
        refuse_partial(atoms)
        sample = from_atoms(atoms)

        # What a reader of CIF keeps here are objects of ASE, which no file can hold.
        sample["info"] = {
            k: v for k, v in sample["info"].items() if isinstance(v, (str, int, float))
        }
        sample.get("arrays", {}).pop("spacegroup_kinds", None)
        if "results" in sample:
            results = {k: v for k, v in sample["results"].items() if k in all_properties}
            sample["results"] = results
        sample["info"].setdefault("sid", index)
        return sample

    def files(self) -> list[Path]:
        """Return the file and, of an OUTCAR, those that ASE takes constraints from."""
        names = ("CONTCAR", "POSCAR") if self.format == "vasp-out" else ()
        beside = [self.path.parent / name for name in names]
        return [self.path, *(file for file in beside if file.is_file())]

    def close(self) -> None:
        """Drop the structures; they are read again when needed."""
        self._images = None


def refuse_partial(atoms: Any) -> None:
    """Refuse a structure with sites that are empty in part or shared by elements.

    ASE keeps the occupancies of a CIF in ``info["occupancy"]`` and shows whole atoms of the most
    frequent element; its readers of PDB and microscopy files have an array of them.

    Raises
    ------
    DatasetError
        Naming the first such site.
    """
    refuse_shared_sites(atoms.info)
    for name in ("occupancy", "occupancies"):
        column = atoms.arrays.get(name)
        if column is not None and ((column > _PARTIAL) & (column < 1 - _PARTIAL)).any():
            raise DatasetError(f"sites that are occupied in part ({name} below 1)")


def check_claims(path: Path, name: str) -> None:
    """Refuse numbers of atoms that a file of this size cannot hold, before memory is asked for."""
    size = compressed_size(path, MOST_INFLATED)
    if size is None:
        size = os.path.getsize(path)
    head = first_bytes(path, 1 << 20)

    # ASE makes lists as long as these counts say before it reads the first position.
    if name in ("vasp", "vasp-xdatcar"):
        lines = head.split(b"\n", 8)[5:7]
    elif name == "vasp-out":
        lines = [line for line in head.split(b"\n") if b"ions per type" in line]
    else:
        return
    for line in lines:
        claimed = sum(int(word) for word in line.split() if word.isdigit() and len(word) < 4000)
        if claimed > size:
            raise DatasetError(f"claims {claimed:.3g} atoms in {size} bytes", path=path)
