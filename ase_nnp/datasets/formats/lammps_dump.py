"""LAMMPS text dumps, a frame at a time, through ASE's reader.

Columns ``fx fy fz`` become forces. There is no energy: a dump has none for the whole. Elements come
from the column ``element``, from ``mass``, or from ``elements=`` for the types 1, 2, ...
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.framefile import first_bytes
from ase_nnp.datasets.formats.text_blocks import BlockShard
from ase_nnp.datasets.sample import Sample, from_atoms
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "DumpShard", "open_dump"]

_UNITS = ("metal", "real", "si", "cgs", "electron")
_COUNT = re.compile(r"ITEM: NUMBER OF ATOMS\s+(\d+)")
_TITLES = re.compile(r"ITEM: ATOMS ([^\n]*)")


class DumpShard(BlockShard):
    """One dump file.

    Parameters
    ----------
    path
        The file; ``.gz``, ``.bz2`` and ``.xz`` are inflated.
    elements
        Symbols of the types 1, 2, ...
    units
        LAMMPS's name of the units, where the file (``dump_modify units yes``) does not say it.
    """

    format = "lammps-dump"
    marker = b"ITEM: TIMESTEP"
    energy_kind = None

    def __init__(
        self, path: str | Path, elements: Sequence[str] | None = None, units: str | None = None
    ) -> None:
        super().__init__(path)
        # `dump_modify units yes` writes the name once, before the first frame.
        said = re.search(r"ITEM: UNITS\s+(\S+)", self.head())
        self._units = units or (said[1] if said else "metal")
        self._elements = list(elements or ())
        self.options = (tuple(self._elements), self._units)
        if self._units not in _UNITS:
            raise DatasetError(
                f"units {self._units!r} are no lengths in Angstrom; known: {', '.join(_UNITS)}",
                path=path,
            )

    def read(self, index: int) -> Sample:
        """Return one frame, its atoms in the order of their ids."""
        from ase.io.lammpsrun import read_lammps_dump_text

        text = self.text(index)
        self._check(text)
        atoms = read_lammps_dump_text(
            io.StringIO(text), index=0, specorder=self._elements or None, units=self._units
        )
        sample = from_atoms(atoms)
        # ASE stores an energy of zero beside forces; a dump has no energy.
        sample.pop("energy", None)
        sample["info"] = {"step": sample["info"].get("timestep"), "sid": index}
        return sample

    def _check(self, text: str) -> None:
        count, titles = _COUNT.search(text), _TITLES.search(text)
        if count is None or titles is None:
            raise DatasetError("no 'ITEM: NUMBER OF ATOMS' or no 'ITEM: ATOMS'; it is cut off")
        lines = text[titles.end() :].strip().count("\n") + 1
        if len(count[1]) > 12 or lines < int(count[1]):
            raise DatasetError(f"claims {count[1]} atoms and has fewer lines")

        # Without elements ASE would take type 1 for hydrogen, 2 for helium.
        names = titles[1].split()
        if not {"element", "mass"} & set(names) and not self._elements:
            raise DatasetError(
                "only types of atoms; name the elements of types 1, 2, ... with elements="
            )


def sniff(path: Path) -> bool:
    """Whether a file begins like a text dump of LAMMPS."""
    if path.is_dir():
        return False
    head = first_bytes(path, 1024).lstrip()
    return head.startswith(b"ITEM: ") and b"ITEM: TIMESTEP" in head


def open_dump(
    files: Sequence[Path],
    *,
    elements: Sequence[str] | None = None,
    units: str | None = None,
    energy_kind: str | None = None,
) -> AtomsDataset:
    """Open LAMMPS dumps as one dataset.

    Parameters
    ----------
    files
        The files; several are shards, read in this order.
    elements
        Symbols of the types 1, 2, ...; needed where there is no column ``element`` or ``mass``.
    units
        ``"metal"`` (default), ``"real"``, ``"si"``, ``"cgs"`` or ``"electron"``.
    energy_kind
        Convert to this kind on reading.
    """
    return AtomsDataset(
        [DumpShard(path, elements, units) for path in files], energy_kind=energy_kind
    )


FORMAT = DatasetFormat(
    name="lammps-dump",
    summary="text dumps of LAMMPS",
    sniff=sniff,
    open=open_dump,
)
