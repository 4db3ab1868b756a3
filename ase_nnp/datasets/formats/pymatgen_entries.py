"""Structures of pymatgen with what stands beside them, in parsed JSON: to samples.

``energy`` (also ``uncorrected_total_energy``, ``e_0_energy``; ``energy_per_atom`` times the number
of atoms), in eV, and ``forces`` or ``force``, in eV/Angstrom, become labels, be they plain numbers,
lists of one or monty's arrays. Other numbers, words and lists of numbers go to ``info``,
unconverted: a ``stress`` there has its author's unit and sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ase_nnp.datasets.sample import Sample
from ase_nnp.errors import DatasetError

__all__ = ["entries", "entry_to_sample", "is_structure"]

_KINDS = ("Structure", "Molecule", "IStructure", "IMolecule")
#: Tried in this order.
_ENERGY = ("energy", "energies", "uncorrected_total_energy", "e_0_energy")
_ENERGY_PER_ATOM = ("uncorrected_energy_per_atom", "energy_per_atom", "energies_per_atom")
_FORCES = ("forces", "force")
_STRUCTURE = ("structure", "structures")
#: Lists under these names are columns, where a list of structures stands beside them.
_COLUMNS = (*_ENERGY, *_ENERGY_PER_ATOM, *_FORCES)
#: Objects in which some writers put the labels of an entry.
_HOLDERS = ("results", "output", "outputs", "labels", "targets", "properties", "data")
_MAX_DEPTH = 12


def is_structure(value: Any) -> bool:
    """Whether a parsed value is a structure or molecule of pymatgen."""
    return isinstance(value, dict) and (
        value.get("@class") in _KINDS or ("sites" in value and "lattice" in value)
    )


def entries(value: Any, key: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every structure below ``value``, as an entry with what stands beside it."""
    if is_structure(value):
        yield key, {"structure": value}
    elif depth < _MAX_DEPTH and isinstance(value, dict):
        if isinstance(value.get("calcs_reversed"), list):
            yield from _task(value, key)
        elif any(is_structure(value.get(name)) for name in _STRUCTURE):
            yield key, value
        elif (count := _table_length(value)) is not None:
            yield from _rows(value, count, key)
        elif is_structure(_beneath(value, "output")) and is_structure(_beneath(value, "input")):
            # A task without its steps: labels belong to what came out.
            yield key, {**value["output"], "task_id": value.get("task_id")}
        else:
            for name, item in value.items():
                yield from entries(item, f"{key}/{name}" if key else str(name), depth + 1)
    elif depth < _MAX_DEPTH and isinstance(value, list):
        for number, item in enumerate(value):
            yield from entries(item, f"{key}/{number}" if key else str(number), depth + 1)


def _table_length(value: dict[str, Any]) -> int | None:
    """Return the number of structures of a table by columns inside other values; None of others."""
    for name in _STRUCTURE:
        column = value.get(name)
        if isinstance(column, list) and column and all(map(is_structure, column)):
            labeled = any(isinstance(value.get(one), list) for one in _COLUMNS)
            return len(column) if labeled else None
    return None


def _rows(table: dict[str, Any], count: int, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield an entry for each structure; what is no column of that length belongs to all."""
    columns = {n for n, v in table.items() if isinstance(v, list) and len(v) == count}
    short = {n: len(table[n]) for n in _COLUMNS if isinstance(table.get(n), list)}
    if {*short.values()} - {count}:
        raise DatasetError(f"columns of different lengths: {count} structures, {short}")
    for number in range(count):
        row = {n: v[number] if n in columns else v for n, v in table.items()}
        yield f"{key}/{number}" if key else str(number), row


def _beneath(value: dict[str, Any], name: str) -> Any:
    inner = value.get(name)
    return inner.get("structure") if isinstance(inner, dict) else None


def _task(task: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the ionic steps of a task document of the Materials Project, first step first."""
    outputs = [
        calc.get("output") if isinstance(calc, dict) else None
        for calc in reversed(task["calcs_reversed"])
    ]
    frames = []
    for output in outputs:
        if isinstance(output, dict):
            steps = output.get("ionic_steps")
            steps = [step for step in steps or () if is_structure((step or {}).get("structure"))]
            # Without its steps a calculation still tells where it ended.
            frames += steps or ([output] if is_structure(output.get("structure")) else [])
    if not frames and is_structure(_beneath(task, "output")):
        frames = [task["output"]]

    name = task.get("task_id")
    for number, frame in enumerate(frames):
        place = f"{key}/{number}" if key else str(number)
        beside = {} if name is None else {"task_id": name, "entry_id": name}
        yield place, {**frame, **beside, "fid": number}


def entry_to_sample(entry: dict[str, Any]) -> tuple[Sample, list[str]]:
    """Return the sample of an entry, and the names of fields that are no data we can keep."""
    structure = next(entry[name] for name in _STRUCTURE if is_structure(entry.get(name)))
    sample, dropped = structure_to_sample(structure)
    info = sample["info"]
    fields = {}
    for name, value in {**_held_labels(entry), **entry}.items():
        if name in _STRUCTURE or name.startswith("@") or value is None:
            continue
        fields[name], odd = _decoded(value)
        if odd:
            dropped.append(name)
    _labels(fields, sample, entry)

    if fields.get("entry_id") is not None:
        info["sid"] = fields.pop("entry_id")
    for name, value in fields.items():
        if isinstance(value, (str, int, float, np.ndarray)):
            info[name] = value.tolist() if isinstance(value, np.ndarray) else value
    return sample, dropped


def _held_labels(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the labels of an entry that has none itself, from the one object that holds some."""
    if any(entry.get(name) is not None for name in _COLUMNS):
        return {}
    held = [entry[name] for name in _HOLDERS if isinstance(entry.get(name), dict)]
    held = [{n: one[n] for n in _COLUMNS if one.get(n) is not None} for one in held]
    held = [one for one in held if one]
    return held[0] if len(held) == 1 else {}


def _labels(fields: dict[str, Any], sample: Sample, entry: dict[str, Any]) -> None:
    """Move energy and forces of an entry into the sample."""
    # Corrected energies (of the Materials Project) belong to no forces and are left in `info`.
    energy = _first(fields, _ENERGY)
    per_atom = _first(fields, _ENERGY_PER_ATOM)
    if energy is not None:
        sample["energy"] = _number(fields.pop(energy), energy)
    elif per_atom is not None:
        atoms = len(sample["atomic_numbers"])
        sample["energy"] = _number(fields.pop(per_atom), per_atom) * atoms

    free = fields.pop("e_fr_energy", None)
    if free is not None:
        free = _number(free, "e_fr_energy")
        sample["results"] = {"free_energy": free}
        # VASP writes a wrong e_0_energy for whole steps; the difference to the free energy is right
        # in the last electronic step (as ASE's reader of vasprun.xml has it).
        steps = entry.get("electronic_steps")
        last = steps[-1] if isinstance(steps, list) and steps else {}
        if energy == "e_0_energy" and {"e_0_energy", "e_fr_energy"} <= last.keys():
            sample["energy"] = free + float(last["e_0_energy"]) - float(last["e_fr_energy"])

    forces = _first(fields, _FORCES)
    if forces is not None:
        sample["forces"] = np.asarray(fields.pop(forces))
        if sample["forces"].dtype.kind not in "iuf":
            raise DatasetError(f"{forces} is no array of numbers")
        sample["forces"] = sample["forces"].astype(float)


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if fields.get(name) is not None), None)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.ndarray)):
        raise DatasetError(f"{name} is {type(value).__name__}, not a number")
    if np.size(value) != 1:
        raise DatasetError(f"{name} of shape {np.shape(value)}, not a number")
    return float(np.reshape(value, ())[()])


def _decoded(value: Any) -> tuple[Any, bool]:
    """Return numbers, words and arrays of numbers; None of anything else, and whether it is odd.

    Odd is what stands for an object of Python (a datetime, a sparse tensor, complex numbers) and
    what is no table of numbers; plain objects and pymatgen's own are only left out.
    """
    if isinstance(value, (str, int, float)):
        return value, False
    if isinstance(value, list):
        if not value:
            return None, False
        try:
            array = np.array(value)
        except ValueError:  # rows of different lengths
            return None, not _has_objects(value)
        return (array, False) if array.dtype.kind in "biuf" else (None, False)

    if value.get("@module") == "numpy" and value.get("@class") == "array":
        if not str(value.get("dtype")).startswith(("int", "uint", "float", "bool")):
            return None, True
        return _decoded(value.get("data"))
    module = str(value.get("@module", "pymatgen"))
    return None, not module.startswith(("pymatgen", "emmet", "atomate")) or "$date" in value


def _has_objects(value: list[Any]) -> bool:
    return any(isinstance(item, (dict, str)) for item in value)


# ---- one structure


def structure_to_sample(value: dict[str, Any]) -> tuple[Sample, list[str]]:
    """Return the sample of a structure or molecule, and the names of columns left out."""
    from ase.data import atomic_numbers

    sites, lattice = value["sites"], value.get("lattice")
    sample: Sample = {
        "atomic_numbers": np.array([_element(site, atomic_numbers) for site in sites], np.int64),
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

    # Zero is what pymatgen writes of every structure whose charge nobody set.
    if value.get("charge"):
        sample["info"]["charge"] = value["charge"]
    if value.get("spin_multiplicity"):
        sample["info"]["spin"] = value["spin_multiplicity"]
    return sample, _site_properties(sites, sample)


def _element(site: dict[str, Any], atomic_numbers: dict[str, int]) -> int:
    species = site["species"]
    if len(species) != 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-6:
        raise DatasetError(f"a disordered site ({species}); whole atoms are wanted")
    symbol = str(species[0]["element"]).rstrip("+-0123456789.")
    if symbol not in atomic_numbers:
        raise DatasetError(f"{symbol!r} is no chemical symbol")
    return int(atomic_numbers[symbol])


def _site_properties(sites: list[dict[str, Any]], sample: Sample) -> list[str]:
    """Take the properties that all sites have; return the names of those that are no numbers."""
    tables = [site.get("properties") or {} for site in sites]
    dropped = []
    for name in sorted(set(tables[0]).intersection(*tables[1:])) if tables else ():
        column = [table[name] for table in tables]
        # pymatgen fills up with None where one of two joined structures had no such property.
        if any(entry is None for entry in column):
            continue
        if name == "selective_dynamics":
            _hold(np.array(column, bool), sample)
            continue

        try:
            array = np.array(column)
        except ValueError:
            dropped.append(name)
            continue
        if name == "forces":
            sample["forces"] = np.array(column, float)
        elif name == "tags":
            sample["tags"] = np.array(column, np.int64)
        elif array.dtype.kind in "biuf":
            target = "initial_magmoms" if name == "magmom" else name
            sample.setdefault("arrays", {})[target] = array
        elif array.dtype.kind not in "U":
            dropped.append(name)
    return dropped


def _hold(free: Any, sample: Sample) -> None:
    """Make constraints of selective dynamics, whose three flags are for the lattice vectors."""
    if free.shape != (len(sample["atomic_numbers"]), 3):
        raise DatasetError(f"selective_dynamics of shape {free.shape}")
    sample["fixed"] = ~free.any(axis=1)
    partly = np.flatnonzero(free.any(axis=1) & ~free.all(axis=1)).tolist()
    if not partly:
        return

    # Where vectors lie along the axes both constraints hold the same; more programs know the first.
    cell = sample["cell"]
    along_axes = np.count_nonzero(cell - np.diag(np.diag(cell))) == 0
    name = "FixCartesian" if along_axes else "FixScaled"
    sample["constraints"] = [
        {"name": name, "kwargs": {"a": [k], "mask": (~free[k]).tolist()}} for k in partly
    ]
