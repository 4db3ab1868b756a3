"""Extended XYZ: the raw OC20 downloads, relaxation trajectories, and anybody's frames.

Beside ``N.extxyz(.xz)`` a file ``N.txt(.xz)`` with lines ``system_id,frame_number,reference``
gives ``info["sid"]``, ``["system_id"]``, ``["fid"]`` and ``["reference_energy"]``; beside
``random<sid>.extxyz(.xz)`` a ``system.txt`` does. Energies are total energies. Atoms whose
``move_mask`` is F become ``fixed``.

Labels under MACE's names (``REF_energy``, ``REF_forces``, ``REF_stress``) are taken, and then all
of them from there: ``energy`` beside ``REF_energy`` stays in ``info``. Without a stress, ``virial``
or ``virials`` become one, -W / V. Other names are given with ``keys={"energy": "my_energy"}``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.formats.framefile import FrameFile, first_bytes, read_text
from ase_nnp.datasets.formats.oc20_lmdb import OC20_REFERENCE
from ase_nnp.datasets.formats.xyztext import parse_frame
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.shard import KINDS, DatasetWarning, SpeakingShard, check_kind
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "ExtxyzShard", "open_extxyz"]

_LINE = re.compile(r"([^,\s]+),frame(-?\d+),([-+.\deE]+)$")
_KIND_NAME = b"energy_kind"
_KIND = re.compile(rb'(?<!\S)energy_kind="?([a-z]+)"?(?!\S)')
_COMPRESSED = ("", ".xz", ".gz", ".bz2")


def _stem(path: Path) -> str:
    name = path.name
    for ending in _COMPRESSED[1:]:
        name = name.removesuffix(ending)
    return name.removesuffix(".extxyz").removesuffix(".xyz")


def _beside(path: Path, name: str) -> Path | None:
    for ending in _COMPRESSED:
        candidate = path.parent / (name + ending)
        if candidate.is_file():
            return candidate
    return None


def system_number(system_id: str) -> int | str:
    """Return 123 for ``random123``; other ids as they are."""
    digits = system_id.removeprefix("random")
    return int(digits) if digits.isdigit() and len(digits) < 18 else system_id


class _Lines:
    """The ``.txt`` of a raw pair: one line a frame. The text of a few files is held at a time."""

    _holders: ClassVar[list[_Lines]] = []

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] | None = None
        self.count = len(self.lines)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "count": self.count, "_lines": None}

    @property
    def lines(self) -> list[str]:
        lines = self._lines
        if lines is None:
            lines = read_text(self.path).split("\n")
            while lines and not lines[-1].strip():
                lines.pop()
            self._lines = lines
            self._holders.append(self)
            while len(self._holders) > 4:
                self._holders.pop(0)._lines = None
        return lines

    def apply(self, index: int, info: dict[str, Any]) -> None:
        line = self.lines[index].strip()
        match = _LINE.match(line)
        try:
            reference = float(match[3]) if match else np.nan
        except ValueError:
            reference = np.nan
        if match is None or not np.isfinite(reference):
            raise DatasetError(
                f"{line[:60]!r} is not 'system_id,frame<number>,reference energy'",
                path=self.path,
                key=f"line {index + 1}",
            )
        info["system_id"], info["fid"] = match[1], int(match[2])
        info["sid"], info["reference_energy"] = system_number(match[1]), reference


class ExtxyzShard(SpeakingShard):
    """One extended XYZ file, with what lies beside it.

    Parameters
    ----------
    path
        The file; ``.xz``, ``.gz`` and ``.bz2`` are inflated.
    strict
        False shows the whole frames of a damaged file, with a warning, and leaves out a ``.txt``
        with another number of lines than frames.
    systems
        Reference energies of ``system.txt``.
    stored_energy_kind
        What the file holds, if not total energies.
    """

    format = "extxyz"

    def __init__(
        self,
        path: str | Path,
        *,
        strict: bool = True,
        systems: Mapping[str, float] | None = None,
        stored_energy_kind: str | None = None,
    ) -> None:
        self.path = Path(path)
        self._declared = check_kind(stored_energy_kind)
        self.options = (strict, stored_energy_kind)
        self._strict = strict
        self._file = FrameFile(self.path, word=_KIND_NAME)
        self._name = _stem(self.path)
        self._reference = None if systems is None else systems.get(self._name)

        text = _beside(self.path, self._name + ".txt")
        self._lines = _Lines(text) if text is not None and _is_list(text) else None
        if self._lines is not None or self._reference is not None:
            self.energy_reference = OC20_REFERENCE

        if self._lines is not None and strict:
            self._length = self._lines.count  # the frames are counted on first use
        else:
            self._length = len(self._file)
            self._report(strict)

        if self._length == 0:
            raise DatasetError(self._file.problem or "no frames", path=self.path)

    def _report(self, strict: bool) -> None:
        problem, lines = self._file.problem, self._lines
        if strict and problem is not None:
            self._length += 1  # the broken frame is there, and raises
        if strict:
            return

        if lines is not None and lines.count != self._length:
            said = f"{lines.count} lines in {lines.path.name}"
            if problem is None:  # which line belongs to which frame is not known
                said += ", which is left out"
                self._lines = None
            problem = f"{said}; {problem}" if problem else said
            self._length = min(self._length, lines.count) if self._lines else self._length
        if problem is not None:
            warnings.warn(
                f"{self.path}: {problem}; {self._length} frames are shown",
                DatasetWarning,
                stacklevel=4,
            )

    def __len__(self) -> int:
        return self._length

    def _kinds(self) -> set[str]:
        """Return the kinds of energy in all frames: most files name none at all."""
        if not self._file.has_word:
            return set()
        kinds: set[str] = set()
        for index in range(min(len(self), len(self._file))):
            comment = self._file.frame(index).split(b"\n", 2)[1]
            if "total" in kinds and _KIND_NAME not in comment:
                continue
            # A frame that names none may have no energy.
            said = _named_kind(comment) or self._said_by(index)
            if said is not None:
                kinds.add(said)
            if len(kinds) > 1:
                break
        return kinds

    def read(self, index: int) -> Sample:
        """Decode one frame."""
        frames = len(self._file)
        if self._strict and self._lines is not None and self._file.problem is None:
            lines = self._lines.count
            if frames != lines:
                raise DatasetError(
                    f"{frames} frames, but {lines} lines in {self._lines.path.name}: "
                    "which belongs to which is not certain (strict=False goes on without it)"
                )
        if index >= frames:
            raise DatasetError(
                f"{self._file.problem or 'no such frame'} (strict=False shows the {frames} whole "
                "frames)"
            )

        sample = parse_frame(self._file.frame(index))
        info = sample["info"]
        if self._lines is not None:
            self._lines.apply(index, info)
        elif self._reference is not None:
            info["system_id"], info["sid"] = self._name, system_number(self._name)
            info["reference_energy"] = self._reference
            info.setdefault("fid", index)
        elif "ref_energy" in info:
            info.setdefault("reference_energy", info["ref_energy"])
        return sample

    def files(self) -> list[Path]:
        """Return the file and those beside it that give ids and reference energies."""
        beside = [] if self._lines is None else [self._lines.path]
        if self._reference is not None:
            beside.append(self.path.parent / "system.txt")
        return [self.path, *beside]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _named_kind(comment: bytes) -> str | None:
    """Return the kind that a comment line names; None where that is not plain to see."""
    match = _KIND.search(comment)
    before = b"" if match is None else comment[: match.start()]
    # It may stand inside of a text.
    if match is None or before.count(b'"') % 2 or any(sign in before for sign in b"\\'{["):
        return None
    return match[1].decode() if match[1].decode() in KINDS else None


def _is_list(path: Path) -> bool:
    """Whether a ``.txt`` is the list of a raw pair, and not somebody's notes."""
    head = first_bytes(path, 4096).decode("utf-8", "replace").split("\n")[:5]
    return any(_LINE.match(line.strip()) for line in head)


def sniff(path: Path) -> bool:
    """Whether a file begins like extended XYZ (or, called .xyz, like plain XYZ)."""
    if path.is_dir():
        return False
    lines = first_bytes(path).split(b"\n", 2)
    if len(lines) < 3 or not lines[0].strip().isdigit():
        return False
    named = ".xyz" in path.name.lower()
    return named or b"Properties=" in lines[1] or b"Lattice=" in lines[1]


def open_extxyz(
    files: Sequence[Path],
    *,
    strict: bool = True,
    stored_energy_kind: str | None = None,
    energy_kind: str | None = None,
) -> AtomsDataset:
    """Open extended XYZ files as one dataset.

    Parameters
    ----------
    files
        The files; numbered ones (``0.extxyz``, ``10.extxyz``) come in the order of their numbers.
    strict
        True: a damaged frame, and all frames of a file that does not fit its ``.txt``, raise when
        they are read. False: the whole frames are shown and a warning names the file.
    stored_energy_kind
        What the files hold, if not total energies.
    energy_kind
        Convert to this kind on reading.
    """
    # OC20's chunks are numbered without leading zeros: 10 sorts before 2.
    if files and all(_stem(path).isdigit() for path in files):
        files = sorted(files, key=lambda path: int(_stem(path)))

    systems: dict[Path, Mapping[str, float] | None] = {}
    shards = []
    for path in files:
        folder = path.parent
        if folder not in systems:
            systems[folder] = _systems(folder)
        shards.append(
            ExtxyzShard(
                path,
                strict=strict,
                systems=systems[folder],
                stored_energy_kind=stored_energy_kind,
            )
        )
    return AtomsDataset(shards, energy_kind=energy_kind)


def _systems(folder: Path) -> Mapping[str, float] | None:
    from ase_nnp.datasets.formats.oc20_mapping import load_references

    file = folder / "system.txt"
    return load_references(file) if file.is_file() else None


FORMAT = DatasetFormat(
    name="extxyz",
    summary="extended XYZ, also OC20's raw pairs with .txt and relaxation trajectories (.xz too)",
    sniff=sniff,
    open=open_extxyz,
    suffixes=(".extxyz", ".xyz"),
)
