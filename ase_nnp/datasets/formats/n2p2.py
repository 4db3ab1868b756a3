"""``input.data`` of RuNNer and n2p2: ``begin``, ``lattice``, ``atom``, ``energy``, ``end``.

RuNNer's units are Hartree and Bohr; n2p2 takes any, so ``energy_unit=`` and ``length_unit=`` may
say others. Charges of atoms that are not all zero become a result, the total charge goes to
``info``; energies of atoms are unused by both programs and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.framefile import first_bytes
from ase_nnp.datasets.formats.text_blocks import BlockShard, numbers_table
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.symbols import atomic_numbers_of
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "InputDataShard", "open_input_data"]

_HARTREE, _BOHR = 27.211386245988, 0.529177210903  # CODATA 2018
_ENERGY = {"Hartree": _HARTREE, "eV": 1.0}
_LENGTH = {"Bohr": _BOHR, "Angstrom": 1.0}


class InputDataShard(BlockShard):
    """One ``input.data``.

    Parameters
    ----------
    path
        The file; ``.gz``, ``.bz2`` and ``.xz`` are inflated.
    energy_unit, length_unit
        Hartree or eV, Bohr or Angstrom; forces are energy over length.
    """

    format = "n2p2"
    marker = b"begin"

    def __init__(self, path: str | Path, energy_unit: str, length_unit: str) -> None:
        super().__init__(path)
        if energy_unit not in _ENERGY or length_unit not in _LENGTH:
            known = ", ".join((*_ENERGY, *_LENGTH))
            raise DatasetError(
                f"units {energy_unit!r} and {length_unit!r}; known are {known}", path=path
            )
        self._energy, self._length = _ENERGY[energy_unit], _LENGTH[length_unit]
        self.options = (energy_unit, length_unit)

    def read(self, index: int) -> Sample:
        """Return one structure, in eV and Angstrom."""
        words: dict[str, list[list[str]]] = {}
        comments = []
        first, *lines = self.text(index).split("\n")
        if first.split() != ["begin"]:
            raise DatasetError(
                "columns of RuNNer 2 stand behind 'begin'; open it with format='runnerdata'"
            )
        for line in lines:
            keyword, *values = line.split() or [""]
            if keyword == "end":
                break
            if keyword == "comment":
                comments.append(line.split("comment", 1)[1].strip())
            elif keyword and not keyword.startswith("#"):
                words.setdefault(keyword, []).append(values)
        else:
            raise DatasetError("no 'end'; the structure is cut off")

        sample = self._sample(words)
        sample["info"] |= {"comment": " ".join(comments)} if comments else {}
        sample["info"]["sid"] = index
        return sample

    def _sample(self, words: dict[str, list[list[str]]]) -> Sample:
        rows = words.get("atom", [])
        symbols = [row[3] if len(row) == 9 else "" for row in rows]
        table = numbers_table([row[:3] + row[4:] for row in rows], 8, "atom")
        lattice = numbers_table(words.get("lattice", []), 3, "lattice")
        if len(lattice) not in (0, 3):
            raise DatasetError(f"{len(lattice)} lattice vectors; 3 or none are wanted")

        # Both programs take a structure as periodic in all directions or in none.
        periodic = len(lattice) == 3
        sample: Sample = {
            "atomic_numbers": atomic_numbers_of(symbols),
            "positions": table[:, :3] * self._length,
            "cell": lattice * self._length if periodic else np.zeros((3, 3)),
            "pbc": np.full(3, periodic),
            "forces": table[:, 5:] * (self._energy / self._length),
            "info": {},
        }
        if (energy := _one(words, "energy")) is not None:
            sample["energy"] = energy * self._energy
        if (charge := _one(words, "charge")) is not None:
            sample["info"]["charge"] = int(charge) if charge.is_integer() else charge
        # The column of charges must be there; zeros say that none were computed.
        if table[:, 3].any():
            sample["results"] = {"charges": table[:, 3]}
        return sample


def _one(words: dict[str, list[list[str]]], name: str) -> float | None:
    rows = words.get(name)
    if rows is None:
        return None
    table = numbers_table(rows, 1, name)
    if len(table) != 1:
        raise DatasetError(f"{len(table)} values of {name} in one structure")
    return float(table[0, 0])


def sniff(path: Path) -> bool:
    """Whether a file begins with a structure of RuNNer's form."""
    if path.is_dir():
        return False
    lines = first_bytes(path, 8192).decode("utf-8", "replace").lstrip().split("\n")
    known = {"comment", "lattice", "atom", "energy", "charge"}
    heads = [(line.split() or [""])[0] for line in lines[1:20]]
    return lines[0].strip() == "begin" and "atom" in heads and set(heads[:2]) <= known


def open_input_data(
    files: Sequence[Path],
    *,
    energy_unit: str = "Hartree",
    length_unit: str = "Bohr",
    energy_kind: str | None = None,
) -> AtomsDataset:
    """Open ``input.data`` files of RuNNer or n2p2 as one dataset.

    Parameters
    ----------
    files
        The files; several are shards, read in this order.
    energy_unit, length_unit
        Hartree or eV, Bohr or Angstrom: what the data were written in.
    energy_kind
        Convert to this kind on reading.
    """
    shards = [InputDataShard(path, energy_unit, length_unit) for path in files]
    return AtomsDataset(shards, energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="n2p2",
    summary="input.data of n2p2 and RuNNer",
    sniff=sniff,
    open=open_input_data,
)
