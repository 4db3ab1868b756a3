"""``.cfg`` files of moment tensor potentials (MLIP): ``BEGIN_CFG`` to ``END_CFG``.

Units are eV and Angstrom. ``PlusStress`` is the virial as VASP prints it ("FORCE on cell", in eV):
the stress in ASE's sign is ``-PlusStress / V``. Types are numbers from 0; ``elements=`` names them.
A feature goes to ``info`` under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.framefile import first_bytes
from ase_nnp.datasets.formats.text_blocks import BlockShard, numbers_table
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.symbols import atomic_number
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "CfgShard", "open_cfg"]

_TITLES = ("Size", "Supercell", "AtomData:", "Energy", "PlusStress:", "Feature", "END_CFG")
_VOIGT = ["xx", "yy", "zz", "yz", "xz", "xy"]


class CfgShard(BlockShard):
    """One ``.cfg`` file.

    Parameters
    ----------
    path
        The file; ``.gz``, ``.bz2`` and ``.xz`` are inflated.
    elements
        Symbols of the types 0, 1, ...
    """

    format = "mtp-cfg"
    marker = b"BEGIN_CFG"

    def __init__(self, path: str | Path, elements: Sequence[str] | None) -> None:
        super().__init__(path)
        if not elements:
            raise DatasetError(
                "types of atoms are numbers; name the elements of types 0, 1, ... with elements=",
                path=path,
            )
        self._numbers = np.array([atomic_number(symbol) for symbol in elements], np.int64)
        self.options = (tuple(elements),)

    def read(self, index: int) -> Sample:
        """Return one configuration."""
        sections, features = _sections(self.text(index))
        if "AtomData:" not in sections:
            raise DatasetError("no AtomData")
        names = sections["AtomData:"][0]
        table = numbers_table(sections["AtomData:"][1:], len(names), "AtomData")
        columns = {name: table[:, k] for k, name in enumerate(names)}
        size = numbers_table(sections.get("Size", [[], []])[1:2], 1, "Size")
        if size.size != 1 or size[0, 0] != len(table):
            raise DatasetError(f"Size {size.ravel().tolist()} and {len(table)} atoms")
        if "id" in columns:  # written by several processes in any order
            order = np.argsort(columns["id"], kind="stable")
            columns = {name: values[order] for name, values in columns.items()}

        sample = self._structure(columns, sections)
        sample["info"] |= features
        sample["info"].setdefault("sid", index)
        self._labels(columns, sections, sample)
        return sample

    def _structure(self, columns: dict[str, Any], sections: dict[str, list[list[str]]]) -> Sample:
        # One vector is a wire, two are a slab: MLIP leaves out directions without a period.
        vectors = numbers_table(sections.get("Supercell", [[]])[1:], 3, "Supercell")
        if len(vectors) > 3:
            raise DatasetError(f"{len(vectors)} vectors of a cell")
        cell = np.zeros((3, 3))
        cell[: len(vectors)] = vectors

        types = columns.get("type")
        if types is None or not ((types >= 0) & (types < len(self._numbers))).all():
            raise DatasetError(f"types that elements= (of {len(self._numbers)}) does not name")
        if all(f"cartes_{x}" in columns for x in "xyz"):
            positions = np.stack([columns[f"cartes_{x}"] for x in "xyz"], axis=1)
        elif all(f"direct_{x}" in columns for x in "xyz"):
            positions = np.stack([columns[f"direct_{x}"] for x in "xyz"], axis=1) @ cell
        else:
            raise DatasetError(f"no cartes_x or direct_x among {', '.join(columns)}")
        return {
            "atomic_numbers": self._numbers[types.astype(np.int64)],
            "positions": positions,
            "cell": cell,
            "pbc": np.arange(3) < len(vectors),
            "info": {},
        }

    @staticmethod
    def _labels(
        columns: dict[str, Any], sections: dict[str, list[list[str]]], sample: Sample
    ) -> None:
        if "Energy" in sections:
            energy = numbers_table(sections["Energy"][1:], 1, "Energy")
            if energy.size != 1:
                raise DatasetError(f"{energy.size} energies of one configuration")
            sample["energy"] = float(energy[0, 0])
        if all(name in columns for name in ("fx", "fy", "fz")):
            sample["forces"] = np.stack([columns[name] for name in ("fx", "fy", "fz")], axis=1)

        volume = abs(float(np.linalg.det(sample["cell"])))
        if "PlusStress:" in sections and volume > 0:
            names, *rows = sections["PlusStress:"]
            values = numbers_table(rows, 6, "PlusStress")
            if sorted(names) != sorted(_VOIGT) or len(values) != 1:
                raise DatasetError(f"PlusStress with the columns {' '.join(names)}")
            voigt = values[0][[names.index(name) for name in _VOIGT]] / -volume
            sample["stress"] = voigt[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)


def _sections(text: str) -> tuple[dict[str, list[list[str]]], dict[str, str]]:
    """Return the lines of each section, words behind its title first; and the features."""
    sections: dict[str, list[list[str]]] = {}
    features: dict[str, str] = {}
    current: list[list[str]] = []

    # A line that begins with no title belongs to the section above it.
    for line in text.split("\n")[1:]:
        words = line.split()
        if not words:
            continue
        if words[0] not in _TITLES:
            current.append(words)
        elif words[0] == "END_CFG":
            return sections, features
        elif words[0] == "Feature":
            features[words[1] if len(words) > 1 else ""] = " ".join(words[2:])
        else:
            current = sections.setdefault(words[0], [])
            current.append(words[1:])
    raise DatasetError("no END_CFG; the configuration is cut off")


def sniff(path: Path) -> bool:
    """Whether a file begins with a configuration of MLIP."""
    return not path.is_dir() and first_bytes(path, 1024).lstrip().startswith(b"BEGIN_CFG")


def open_cfg(
    files: Sequence[Path],
    *,
    elements: Sequence[str] | None = None,
    energy_kind: str | None = None,
) -> AtomsDataset:
    """Open MLIP's ``.cfg`` files as one dataset.

    Parameters
    ----------
    files
        The files; several are shards, read in this order.
    elements
        Symbols of the types 0, 1, ...
    energy_kind
        Convert to this kind on reading.
    """
    return AtomsDataset([CfgShard(path, elements) for path in files], energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="mtp-cfg",
    summary="configurations of moment tensor potentials (MLIP .cfg)",
    sniff=sniff,
    open=open_cfg,
)
