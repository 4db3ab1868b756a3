"""One record to one row of an index: composition, role, energies, forces, metadata."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.catalog.conditions import bare_sid
from ase_nnp.datasets.catalog.mapping import Mappings, columns_from
from ase_nnp.datasets.sample import Sample

__all__ = ["describe", "facts_of_file"]

Array = np.ndarray[Any, Any]
_SPLIT = re.compile(r"(train|val|test)(_?(id|is|ood|oos)(_(ads|cat|bulk|both|ads_bulk))?)?")
#: OC20NEB's trajectories: desorption_id_83_2409_9_111-4_neb1.0.traj
_NEB = re.compile(
    r"(?P<reaction>desorption|dissociation|transfer)_(?P<split>id|ood)_(?P<task>\d+)_(?P<bulk>\d+)"
    r"_(?P<index>\d+)_(?P<miller>-?\d-?\d-?\d)-(?P<shift>\d+)_neb(?P<k>[\d.]+)\.traj"
)
#: Elements that adsorbates are made of as a rule.
NONMETALS = frozenset([1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 52, 53])


def facts_of_file(path: Path) -> dict[str, Any]:
    """Return what the name of a file says: its split by the folder, a reaction path's reaction."""
    match = _NEB.fullmatch(path.name)
    if match:
        indices = tuple(map(int, re.findall(r"-?\d", match["miller"])))
        return {
            "reaction": match["reaction"],
            "split": f"val_{match['split']}",
            "bulk_id": match["bulk"],
            "miller": str(indices),
            "shift": float(match["shift"]),
            "system": path.stem,
            "role": "path",
        }

    for name in (path.stem, *(folder.name for folder in list(path.parents)[:3])):
        if _SPLIT.fullmatch(name):
            return {"split": name}
    return {}


def describe(
    sample: Sample, facts: dict[str, Any], mappings: Mappings
) -> tuple[dict[str, Any], list[tuple[int, int, int, int]]]:
    """Return the columns of a record, and ``(z, n, in adsorbates, in solvent)`` of each element.

    Parameters
    ----------
    sample
        The record (:mod:`ase_nnp.datasets.sample`).
    facts
        What is known of its file; the record itself and ``mappings`` count more.
    mappings
        Tables by system id.
    """
    numbers, info = sample["atomic_numbers"], sample["info"]
    sid = _sid(info)
    row: dict[str, Any] = {**facts, **mappings.of(sid), **columns_from(info)}

    tags = sample.get("tags")
    counts = _counts(numbers, tags)
    row |= {
        "sid": sid,
        "fid": _frame(info.get("fid")),
        "formula": hill(tuple((z, n) for z, n, _, _ in counts)),
        "natoms": len(numbers),
        "nelements": len(counts),
        "tags": _tags(tags),
    }
    if row.get("system") is None and sid is not None:
        row["system"] = sid

    inside = tuple((z, n) for z, _, n, _ in counts if n)
    if row.get("adsorbate") is None and inside:
        row["adsorbate"] = adsorbate_name(inside)
    row.setdefault("role", _role(row, sample, bool(inside)))
    _forces(row, sample)
    _energies(row, sample)
    return row, counts


def _sid(info: dict[str, Any]) -> str | None:
    value = info.get("sid", info.get("system_id"))
    if isinstance(value, (str, int, np.integer)) and not isinstance(value, bool):
        return bare_sid(str(value))
    return None


def _frame(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, np.integer)) and abs(int(value)) < 2**63 else None


def _counts(numbers: Array, tags: Array | None) -> list[tuple[int, int, int, int]]:
    every = np.bincount(numbers)
    present = np.flatnonzero(every).tolist()
    if tags is None:
        return [(z, int(every[z]), 0, 0) for z in present]
    in_adsorbates = np.bincount(numbers[tags == 2], minlength=len(every))
    in_solvent = np.bincount(numbers[tags == 3], minlength=len(every))
    # ASE's builders number the layers of a slab: metal with tag 2 that the slab consists of too.
    layers = [z for z in present if 0 < in_adsorbates[z] < every[z] and z not in NONMETALS]
    if layers:
        in_adsorbates[layers] = 0
        in_solvent[layers] = 0
    return [(z, int(every[z]), int(in_adsorbates[z]), int(in_solvent[z])) for z in present]


def _tags(tags: Array | None) -> str | None:
    return None if tags is None else "".join(str(tag) for tag in np.unique(tags).tolist())


@lru_cache(maxsize=65536)
def hill(counts: tuple[tuple[int, int], ...]) -> str:
    """Return a formula as ``Atoms.get_chemical_formula()``: carbon, hydrogen, then by symbol."""
    from ase.data import chemical_symbols

    by_symbol = {chemical_symbols[z]: n for z, n in counts}
    first = [s for s in ("C", "H") if s in by_symbol]
    order = first + sorted(s for s in by_symbol if s not in first)
    return "".join(f"{s}{by_symbol[s] if by_symbol[s] > 1 else ''}" for s in order)


@lru_cache(maxsize=4096)
def adsorbate_name(counts: tuple[tuple[int, int], ...]) -> str:
    """Return ``*OH2`` for a molecule of unknown name: carbon first, hydrogen last, as in OC20."""
    from ase.data import chemical_symbols

    def place(entry: tuple[int, int]) -> tuple[int, str]:
        symbol = chemical_symbols[entry[0]]
        return ({"C": 0, "H": 2}.get(symbol, 1), symbol)

    ordered = sorted(counts, key=place)
    return "*" + "".join(f"{chemical_symbols[z]}{n if n > 1 else ''}" for z, n in ordered)


def _role(row: dict[str, Any], sample: Sample, adsorbed: bool) -> str | None:
    tags = row["tags"] or ""
    if "3" in tags and (adsorbed or "2" not in tags):
        return "interface"
    if adsorbed and tags != "2":
        return "adslab"
    if not sample["pbc"].any() or tags == "2":
        return "gas"
    return "slab" if tags in ("01", "1") else None


def _forces(row: dict[str, Any], sample: Sample) -> None:
    forces = sample.get("forces")
    if forces is None or not len(forces):
        return
    total = forces.sum(axis=0, dtype=np.float64)
    row["force_sum"] = float(np.sqrt(total @ total))

    fixed = sample.get("fixed")
    free = forces if fixed is None else forces[~fixed.astype(bool)]
    squares = np.einsum("ij,ij->i", free, free, dtype=np.float64)
    row["fmax"] = float(np.sqrt(squares.max())) if len(squares) else 0.0


def _energies(row: dict[str, Any], sample: Sample) -> None:
    info = sample["info"]
    relaxed = info.get("y_relaxed")
    if isinstance(relaxed, (int, float)) and np.isfinite(relaxed):
        row["energy_relaxed"] = float(relaxed)
    energy = sample.get("energy")
    kind = str(info.get("energy_kind", "total")) if energy is not None else None
    if energy is not None:
        row |= {"energy": float(energy), "energy_kind": kind}
        row["energy_per_atom"] = float(energy) / row["natoms"]

    # A record of IS2RE is asked about by the energy it relaxes to, not by that of the start.
    if row.get("adsorption_energy") is not None:
        return
    if kind == "adsorption":
        row["adsorption_energy"] = row.get("energy_relaxed", row["energy"])
    elif kind == "total" and row.get("reference_energy") is not None:
        row["adsorption_energy"] = (
            row.get("energy_relaxed", row["energy"]) - row["reference_energy"]
        )
