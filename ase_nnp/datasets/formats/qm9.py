"""QM9 as published: ``dsgdb9nsd_*.xyz``, one molecule a file with 15 properties in its comment.

``energy`` is U0, the internal energy at 0 K, which includes the zero-point energy ``zpve``.
Energies, orbital energies too, become eV; other properties stay in the units of the publication
(Ramakrishnan et al., Sci. Data 1, 140022 (2014), table 3): rotational constants A, B, C in GHz,
mu in Debye, alpha in Bohr^3, r2 in Bohr^2, Cv in cal/(mol K). Mulliken charges are a result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.framefile import first_bytes, read_text
from ase_nnp.datasets.formats.text_blocks import numbers_table
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import Shard
from ase_nnp.datasets.symbols import atomic_numbers_of
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "QM9Shard", "open_qm9"]

_HARTREE = 27.211386245988  # CODATA 2018
_NAMES = (
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2"),
    *("zpve", "U0", "U", "H", "G", "Cv"),
)
_ENERGIES = frozenset(["homo", "lumo", "gap", "zpve", "U0", "U", "H", "G"])
_HEAD = re.compile(rb"\s*\d{1,3}\s*\n(?:gdb|gdb9)[ \t]+\d+[ \t]")


class QM9Shard(Shard):
    """One file, one molecule."""

    format = "qm9"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Sample:
        """Return the molecule."""
        # Mathematica wrote some exponents: 9.06*^-1 is 0.906.
        lines = read_text(self.path, 1 << 20).replace("*^", "e").split("\n")
        count = int(lines[0])
        head = lines[1].split()
        if len(head) != 2 + len(_NAMES):
            raise DatasetError(f"{len(head)} words in the comment, wanted 2 and 15 properties")
        properties = numbers_table([head[2:]], len(_NAMES), "properties")[0].tolist()
        info: dict[str, Any] = {
            name: value * _HARTREE if name in _ENERGIES else value
            for name, value in zip(_NAMES, properties, strict=True)
        }
        info["sid"] = int(head[1])

        rows = [line.split() for line in lines[2 : 2 + count]]
        table = numbers_table([row[1:] for row in rows], 4, "atoms")
        if len(table) != count:
            raise DatasetError(f"{len(table)} atoms, and {count} are announced")
        # Frequencies, then SMILES and InChI of the molecule before and after relaxation.
        names = lines[3 + count].split() if len(lines) > 3 + count else []
        if names:
            info["smiles"] = names[-1]
        return {
            "atomic_numbers": atomic_numbers_of([row[0] for row in rows]),
            "positions": table[:, :3],
            "cell": np.zeros((3, 3)),
            "pbc": np.zeros(3, bool),
            "energy": info["U0"],
            "results": {"charges": table[:, 3]},
            "info": info,
        }


def sniff(path: Path) -> bool:
    """Whether a file is one molecule in QM9's own form."""
    return not path.is_dir() and _HEAD.match(first_bytes(path, 512)) is not None


def open_qm9(files: Sequence[Path], *, energy_kind: str | None = None) -> AtomsDataset:
    """Open raw files of QM9 as one dataset.

    Parameters
    ----------
    files
        ``dsgdb9nsd_*.xyz``.
    energy_kind
        Convert to this kind on reading.
    """
    return AtomsDataset([QM9Shard(path) for path in files], energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="qm9",
    summary="QM9's raw .xyz files",
    sniff=sniff,
    open=open_qm9,
)
