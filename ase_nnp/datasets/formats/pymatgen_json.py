"""Structures of pymatgen as JSON, read without pymatgen.

A file holds one ``Structure`` or ``Molecule`` (``as_dict``), a list of them, a dict of them by id,
or entries around them (``ComputedStructureEntry``, and dicts with a ``structure`` and labels beside
it, nested by id as in MPtrj). ``energy`` or ``uncorrected_total_energy`` (eV) and ``forces`` or
``force`` (eV/Angstrom) become labels; everything else that is a number or a word goes to ``info``,
unconverted: a ``stress`` there has its author's unit and sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.base import AtomsDataset, Shard
from ase_nnp.datasets.formats.framefile import first_bytes, read_text
from ase_nnp.datasets.formats.rows import parse_json
from ase_nnp.datasets.sample import Sample
from ase_nnp.errors import DatasetError
from ase_nnp.registry.family import DatasetFormat

__all__ = ["FORMAT", "PymatgenShard", "open_pymatgen"]

_KINDS = ("Structure", "Molecule", "IStructure", "IMolecule")
_ENERGY = ("energy", "uncorrected_total_energy")
_FORCES = ("forces", "force")
_MAX_DEPTH = 5


def _is_structure(value: Any) -> bool:
    return isinstance(value, dict) and (
        value.get("@class") in _KINDS or ("sites" in value and "lattice" in value)
    )


def _entries(value: Any, key: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every structure below ``value``, as an entry with what stands beside it."""
    if _is_structure(value):
        yield key, {"structure": value}
    elif depth < _MAX_DEPTH and isinstance(value, dict):
        if _is_structure(value.get("structure")):
            yield key, value
        else:
            for name, item in value.items():
                yield from _entries(item, f"{key}/{name}" if key else str(name), depth + 1)
    elif depth < _MAX_DEPTH and isinstance(value, list):
        for number, item in enumerate(value):
            yield from _entries(item, f"{key}/{number}" if key else str(number), depth + 1)


def _element(site: dict[str, Any]) -> int:
    from ase.data import atomic_numbers

    species = site["species"]
    if len(species) != 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-6:
        raise DatasetError(f"a disordered site ({species}); whole atoms are wanted")
    symbol = str(species[0]["element"]).rstrip("+-0123456789.")
    if symbol not in atomic_numbers:
        raise DatasetError(f"{symbol!r} is no chemical symbol")
    return int(atomic_numbers[symbol])


def _structure(value: dict[str, Any]) -> Sample:
    sites, lattice = value["sites"], value.get("lattice")
    sample: Sample = {
        "atomic_numbers": np.array([_element(site) for site in sites], np.int64),
        "cell": np.zeros((3, 3)),
        "pbc": np.zeros(3, bool),
        "info": {},
    }
    if lattice is None:
        sample["positions"] = np.array([site["xyz"] for site in sites], float)
    else:
        cell = np.array(lattice["matrix"], float)
        sample["cell"] = cell
        sample["pbc"] = np.array(lattice.get("pbc", [True] * 3), bool)
        sample["positions"] = np.array([site["abc"] for site in sites], float).reshape(-1, 3) @ cell
    if value.get("charge"):
        sample["info"]["charge"] = value["charge"]
    if value.get("spin_multiplicity"):
        sample["info"]["spin"] = value["spin_multiplicity"]
    _site_properties(sites, sample)
    return sample


def _site_properties(sites: list[dict[str, Any]], sample: Sample) -> None:
    tables = [site.get("properties") or {} for site in sites]
    for name in set(tables[0]).intersection(*tables[1:]) if tables else ():
        column = [table[name] for table in tables]
        if any(entry is None for entry in column):
            continue
        if name == "selective_dynamics":
            free = np.array(column, bool)
            sample["fixed"] = ~free.any(axis=1)
        elif name == "forces":
            sample["forces"] = np.array(column, float)
        elif name == "tags":
            sample["tags"] = np.array(column, np.int64)
        else:
            array = np.array(column)
            if array.dtype.kind in "biuf":
                target = "initial_magmoms" if name == "magmom" else name
                sample.setdefault("arrays", {})[target] = array


class PymatgenShard(Shard):
    """One JSON file (``.gz`` and ``.xz`` too), parsed as a whole on first use."""

    format = "pymatgen"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._entries: list[tuple[str, dict[str, Any]]] | None = None
        self._length = len(self._loaded())
        if self._length == 0:
            raise DatasetError("no structures in this JSON", path=self.path)

    def _loaded(self) -> list[tuple[str, dict[str, Any]]]:
        if self._entries is None:
            try:
                text = read_text(self.path, 8 << 30)
                self._entries = list(_entries(parse_json(text.encode()), ""))
            except DatasetError as error:
                raise DatasetError(str(error), path=self.path) from None
        return self._entries

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_entries": None}

    def __len__(self) -> int:
        return self._length

    def key(self, index: int) -> object:
        """Return the path of a structure inside the JSON."""
        return self._loaded()[index][0] or 0

    def read(self, index: int) -> Sample:
        """Decode one structure."""
        key, entry = self._loaded()[index]
        sample = _structure(entry["structure"])
        info = sample["info"]
        for name, value in entry.items():
            if name in _ENERGY and isinstance(value, (int, float)):
                sample["energy"] = float(value)
            elif name in _FORCES and isinstance(value, list):
                sample["forces"] = np.array(value, float)
            elif name == "entry_id" and value is not None:
                info["sid"] = value
            elif not name.startswith("@") and (
                isinstance(value, (str, int, float)) or name in ("stress", "magmom")
            ):
                info[name] = value
        info.setdefault("sid", key or index)
        return sample

    def close(self) -> None:
        """Drop what is held of the file."""
        self._entries = None


def sniff(path: Path) -> bool:
    """Whether a file is JSON with a structure of pymatgen near its beginning."""
    if path.is_dir():
        return False
    head = first_bytes(path).lstrip()
    if head[:1] not in (b"{", b"["):
        return False
    return (
        b'"sites"' in head and b'"species"' in head and (b'"lattice"' in head or b'"xyz"' in head)
    )


def open_pymatgen(files: Sequence[Path], *, energy_kind: str | None = None) -> AtomsDataset:
    """Open JSON files of pymatgen structures as one dataset.

    Parameters
    ----------
    files
        JSON files.
    energy_kind
        Convert to this kind on reading.
    """
    return AtomsDataset([PymatgenShard(path) for path in files], energy_kind=energy_kind)


FORMAT = DatasetFormat(
    name="pymatgen",
    summary="structures and entries of pymatgen as JSON",
    sniff=sniff,
    open=open_pymatgen,
)
