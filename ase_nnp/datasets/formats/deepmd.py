"""DeePMD's folders: ``type.raw``, ``type_map.raw`` and arrays in ``set.000``, ``set.001``, ...

A folder is one system (atoms of the same kinds in every frame) or holds such folders. Units are eV
and Angstrom; the stress is ``-virial / V``. Systems of mixed type (``real_atom_types.npy``) may
have fewer atoms than columns: places of type -1 are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.array_files import npy_array
from ase_nnp.datasets.formats.framefile import read_text
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import Shard
from ase_nnp.datasets.symbols import atomic_number
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "DeepmdShard", "open_deepmd"]

_MANY = 10_000  # entries of a folder that are looked at to know its kind
_FILES = ("coord", "box", "energy", "force", "virial", "real_atom_types")


class DeepmdShard(Shard):
    """One ``set.*`` folder of a system.

    Parameters
    ----------
    path
        The folder of the set; ``type.raw`` lies above it.
    elements
        Symbols of the types 0, 1, ... where no ``type_map.raw`` says them.
    """

    format = "deepmd"

    def __init__(self, path: Path, elements: Sequence[str] | None = None) -> None:
        self.path = path
        self.options = (tuple(elements or ()),)
        self._periodic = not (path.parent / "nopbc").exists()
        self._types, self._numbers = _types(path.parent, elements)
        self._arrays: dict[str, Any] = {}

        coord = self._array("coord")
        if coord is None or coord.ndim != 2 or not len(coord):
            shape = None if coord is None else coord.shape
            raise DatasetError(f"coord.npy has shape {shape}, wanted (frames, 3 N)", path=path)
        self._frames = len(coord)
        self._check_shapes(3 * len(self._types))
        self.energy_kind = "total" if self._array("energy") is not None else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}

    def __len__(self) -> int:
        return self._frames

    def files(self) -> list[Path]:
        """Return the arrays of the set and what stands beside it for all sets."""
        names = ("type.raw", "type_map.raw", "nopbc")
        beside = [self.path.parent / name for name in names]
        return [*super().files(), *(file for file in beside if file.is_file())]

    def _array(self, name: str) -> Any:
        """Return an array of the set, mapped into memory; None if it is not there."""
        if name not in self._arrays:
            file = self.path / f"{name}.npy"
            self._arrays[name] = npy_array(file) if file.is_file() else None
        return self._arrays[name]

    def _check_shapes(self, width: int) -> None:
        widths = {"coord": width, "force": width, "box": 9, "virial": 9}
        widths |= {"real_atom_types": width // 3}
        for name in _FILES:
            array = self._array(name)
            wanted: list[tuple[int, ...]] = [(self._frames, widths.get(name, 1))]
            if name == "energy":
                wanted.append((self._frames,))
            if array is not None and array.shape not in wanted:
                raise DatasetError(
                    f"{name}.npy has shape {array.shape}, wanted {wanted[0]}", path=self.path
                )
        if self._periodic and self._array("box") is None:
            raise DatasetError("no box.npy, and no file 'nopbc' beside the sets", path=self.path)

    def read(self, index: int) -> Sample:
        """Return one frame."""
        # In systems of mixed type `type.raw` is all zeros, and -1 marks a place without an atom.
        mixed = self._array("real_atom_types")
        types = self._types if mixed is None else np.array(mixed[index], np.int64)
        real = types >= 0
        if (types >= len(self._numbers)).any():
            raise DatasetError(f"type {types.max()}; the map has {len(self._numbers)} elements")

        box = self._array("box")
        cell = np.zeros((3, 3)) if box is None else np.array(box[index], float).reshape(3, 3)
        sample: Sample = {
            "atomic_numbers": self._numbers[types[real]],
            "positions": np.array(self._array("coord")[index], float).reshape(-1, 3)[real],
            "cell": cell if self._periodic else np.zeros((3, 3)),
            "pbc": np.full(3, self._periodic),
            "info": {"sid": f"{self.path.parent.name}/{self.path.name}/{index}"},
        }

        if (energy := self._array("energy")) is not None:
            sample["energy"] = float(np.reshape(energy[index], ())[()])
        if (force := self._array("force")) is not None:
            sample["forces"] = np.array(force[index], float).reshape(-1, 3)[real]
        # DeePMD's virial is -dE/d strain; the stress is its negative over the volume.
        volume = abs(float(np.linalg.det(cell)))
        if (virial := self._array("virial")) is not None and self._periodic and volume > 0:
            tensor = np.array(virial[index], float).reshape(3, 3) / -volume
            sample["stress"] = (tensor + tensor.T) / 2
        return sample

    def close(self) -> None:
        """Drop the mapped arrays."""
        self._arrays = {}


def _types(system: Path, elements: Sequence[str] | None) -> tuple[Any, Any]:
    """Return the type of each atom, and the atomic number of each type."""
    try:
        types = np.array(read_text(system / "type.raw", 1 << 26).split(), np.int64)
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"type.raw is no list of numbers ({error})", path=system) from None
    if not len(types) or types.min() < 0:
        raise DatasetError("type.raw without types from 0", path=system)

    names = system / "type_map.raw"
    if elements is None:
        if not names.is_file():
            raise DatasetError(
                "no type_map.raw; name the elements of types 0, 1, ... with elements=", path=system
            )
        elements = read_text(names, 1 << 20).split()
    numbers = np.array([atomic_number(symbol) for symbol in elements], np.int64)
    if types.max() >= len(numbers):
        raise DatasetError(f"type {types.max()} of {len(numbers)} elements", path=system)
    return types, numbers


def sets(path: Path) -> list[Path]:
    """Return the sets of a system, or of the systems in a folder, in order of their names."""
    if (path / "type.raw").is_file():
        # One without coordinates is a damaged copy, and no set to be passed over.
        return sorted(entry for entry in path.glob("set.*") if entry.is_dir())
    return [part for system in _systems(sorted(path.iterdir())) for part in sets(system)]


def _systems(entries: Iterable[Path]) -> Iterator[Path]:
    return (entry for entry in entries if (entry / "type.raw").is_file())


def sniff(path: Path) -> bool:
    """Whether a folder is a system of DeePMD, or holds some."""
    try:
        return path.is_dir() and (
            (path / "type.raw").is_file()
            or next(_systems(islice(path.iterdir(), _MANY)), None) is not None
        )
    except OSError:
        return False


def open_deepmd(
    files: Sequence[Path],
    *,
    elements: Sequence[str] | None = None,
    energy_kind: str | None = None,
) -> AtomsDataset:
    """Open DeePMD's folders as one dataset.

    Parameters
    ----------
    files
        Folders.
    elements
        Symbols of the types 0, 1, ... where no ``type_map.raw`` says them.
    energy_kind
        Convert to this kind on reading.
    """
    shards: list[Shard] = []
    for path in files:
        parts = sets(path)
        if not parts:
            raise DatasetError("no set.*/coord.npy in this folder of DeePMD", path=path)
        shards += [DeepmdShard(part, elements) for part in parts]
    return AtomsDataset(shards, energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="deepmd",
    summary="DeePMD's folders of .npy arrays",
    sniff=sniff,
    open=open_deepmd,
)
