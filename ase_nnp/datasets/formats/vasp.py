"""VASP's files through ASE's readers: POSCAR and CONTCAR, XDATCAR, OUTCAR, vasprun.xml.

Any name will do where the content tells, also with ``.gz``, ``.bz2`` or ``.xz``. ``energy`` is the
energy extrapolated to zero smearing (VASP's ``E0``), the result ``free_energy`` the one that the
forces belong to. Selective dynamics becomes FixAtoms and FixScaled; an OUTCAR takes it from the
CONTCAR or POSCAR beside it. Stress has ASE's sign, in eV/Angstrom^3.
"""

from __future__ import annotations

import re
from pathlib import Path

from ase_nnp.datasets.formats.ase_structures import open_named
from ase_nnp.datasets.formats.framefile import first_bytes
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMATS"]

# Each repetition ends where the next begins, so that no text makes the match try twice.
_NUMBER = rb"[ \t]*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_ROW = _NUMBER + rb"[ \t]+" + _NUMBER + rb"[ \t]+" + _NUMBER
#: Comment, scale (one number or three), three vectors, elements (not in VASP 4), counts.
_HEADER = re.compile(
    rb"[^\n]*\n(?:%b|%b)[ \t]*(?:[!#][^\n]*)?\r?\n(?:%b[^\n]*\n){3}"
    rb"(?:[ \t]*[A-Za-z][^\n]*\n)?[ \t]*\d[^\n]*\n" % (_ROW, _NUMBER, _ROW)
)
_COORDINATES = re.compile(rb"[ \t]*(?:[sS][^\n]*\n[ \t]*)?[cCkKdD]")
#: Grids of numbers that begin like a POSCAR.
_GRIDS = ("CHG", "AECCAR", "LOCPOT", "PARCHG", "ELFCAR")


def _header_end(head: bytes) -> int | None:
    match = _HEADER.match(head)
    return None if match is None else match.end()


def is_poscar(path: Path) -> bool:
    """Whether a file begins like a POSCAR, and holds one structure."""
    if path.is_dir() or path.name.upper().startswith(_GRIDS):
        return False
    head = first_bytes(path)
    end = _header_end(head)
    if end is None or b"onfiguration=" in head[end : end + 80]:
        return False
    return _COORDINATES.match(head, end) is not None


def is_xdatcar(path: Path) -> bool:
    """Whether a file begins like a POSCAR and goes on in configurations."""
    if path.is_dir():
        return False
    head = first_bytes(path)
    end = _header_end(head)
    return end is not None and b"onfiguration=" in head[end : end + 80]


def is_outcar(path: Path) -> bool:
    """Whether a file begins with the version line of VASP's log."""
    return not path.is_dir() and first_bytes(path, 4096).lstrip().startswith(b"vasp.")


def is_vasprun(path: Path) -> bool:
    """Whether a file is XML with VASP's root element."""
    head = b"" if path.is_dir() else first_bytes(path, 4096).lstrip()
    return head.startswith(b"<") and b"<modeling>" in head


_KINDS = (
    ("vasp", "VASP's POSCAR and CONTCAR", is_poscar),
    ("vasp-xdatcar", "VASP's XDATCAR", is_xdatcar),
    ("vasp-out", "VASP's OUTCAR", is_outcar),
    ("vasp-xml", "VASP's vasprun.xml", is_vasprun),
)

#: One format a file, so that a folder of a whole calculation is not read as one dataset.
FORMATS = tuple(
    DatasetFormat(name=name, summary=summary, sniff=sniff, open=open_named(name))
    for name, summary, sniff in _KINDS
)
