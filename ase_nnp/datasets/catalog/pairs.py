"""Adslab, clean slab and molecules of an adsorption case, joined by stored identifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ase_nnp.datasets.catalog.index import DatasetIndex
from ase_nnp.datasets.catalog.schema import BY_NAME

__all__ = ["Pair", "join_pairs"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pair:
    """Positions of the records of one case.

    Attributes
    ----------
    adslab
        The slab with the adsorbate.
    slab
        Its clean slab; None if it is not in the dataset.
    gas
        Molecules of the case; empty if there are none.
    by
        What joined adslab and slab: ``slab_sid``, ``system`` or ``material``.
    """

    adslab: int
    slab: int | None
    gas: tuple[int, ...]
    by: str


_LAST = "ORDER BY fid IS NULL, fid DESC, id"


def join_pairs(index: DatasetIndex, positions: Array | None = None) -> list[Pair]:
    """Return one pair for every adslab, the last frame of each system.

    A slab is looked for by the identifier that the mapping gives (``slab_sid``), then among the
    records of the same case (``system``), then by the same bulk, Miller indices, shift, side and
    number of slab atoms.

    Parameters
    ----------
    index
        The index.
    positions
        Adslabs to pair; None for all. Slabs and molecules are looked for in all records.
    """
    chosen = _last_frames(index, positions)
    columns = ("sid", "system", "slab_sid", "bulk_id", "miller", "shift", "top", "formula")
    rows = index.rows(chosen, *columns)
    by_sid = _first(index, "sid", "role IS NOT 'adslab'")
    by_system = _first(index, "system", "role = 'slab'")
    molecules = _molecules(index)
    materials = _materials(index)

    pairs = []
    for number, row in zip(chosen, rows, strict=True):
        slab, by = by_sid.get(row["slab_sid"]), "slab_sid"
        if slab is None:
            slab, by = by_system.get(row["system"]), "system"
        if slab is None:
            key = tuple(row[name] for name in _MATERIAL)
            slab, by = materials.get(key), "material"
        gas = molecules.get(row["system"], ())
        pairs.append(Pair(number, slab, gas, by if slab is not None else ""))
    return pairs


_MATERIAL = ("bulk_id", "miller", "shift", "top")


def _last_frames(index: DatasetIndex, positions: Array | None) -> list[int]:
    """Return adslabs without the earlier frames of their relaxations."""
    allowed = None if positions is None else set(np.asarray(positions).tolist())
    seen: set[Any] = set()
    chosen = []
    text = f"SELECT id, sid, part FROM records WHERE role = 'adslab' AND error IS NULL {_LAST}"
    for number, sid, part in index.execute(text):
        if allowed is not None and number not in allowed:
            continue
        if sid is not None and (sid, part) in seen:
            continue
        seen.add((sid, part))
        chosen.append(int(number))
    return sorted(chosen)


def _first(index: DatasetIndex, column: str, condition: str) -> dict[str, int]:
    assert column in BY_NAME  # both texts are ours
    text = (
        f"SELECT {column}, id FROM records WHERE {column} IS NOT NULL AND error IS NULL "
        f"AND {condition} {_LAST}"
    )
    firsts: dict[str, int] = {}
    for value, number in index.execute(text):
        firsts.setdefault(value, int(number))
    return firsts


def _molecules(index: DatasetIndex) -> dict[str, tuple[int, ...]]:
    molecules: dict[str, tuple[int, ...]] = {}
    text = "SELECT system, id FROM records WHERE role = 'gas' AND system IS NOT NULL ORDER BY id"
    for system, number in index.execute(text):
        molecules[system] = (*molecules.get(system, ()), int(number))
    return molecules


def _materials(index: DatasetIndex) -> dict[tuple[Any, ...], int]:
    """Clean slabs by material and termination, where these are known well enough."""
    materials: dict[tuple[Any, ...], int] = {}
    text = (
        f"SELECT {', '.join(_MATERIAL)}, id FROM records WHERE role = 'slab' "
        f"AND bulk_id IS NOT NULL AND miller IS NOT NULL {_LAST}"
    )
    for *key, number in index.execute(text):
        materials.setdefault(tuple(key), int(number))
    return materials
