"""The text of one extended XYZ frame, to a sample."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ase_nnp.datasets.formats.rows import full_stress, parse_json, plain, scalar
from ase_nnp.datasets.sample import Sample
from ase_nnp.errors import DatasetError

__all__ = ["parse_frame"]

Array = np.ndarray[Any, Any]

_TOKEN = re.compile(
    r"""\s*(?:"((?:[^"\\]|\\.)*)"|([^\s="]+))\s*(?:=\s*
    (?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|\{([^{}]*)\}|(\[[^\]]*\])|([^\s"]+)))?""",
    re.VERBOSE | re.DOTALL,
)
_INT = re.compile(r"[-+]?\d{1,18}$")
_TRUE, _FALSE = {"T", "True", "true", "TRUE"}, {"F", "False", "false", "FALSE"}
#: Where writers of this package keep what has no words in extended XYZ.
_REST = "ase_nnp_rest"
_ATOM_RESULTS = ("charges", "magmoms", "energies", "stresses")
_RESULTS = ("free_energy", "dipole", "magmom")
_DEFAULT = "species:S:1:pos:R:3"


def parse_comment(text: str) -> dict[str, Any]:
    """Return the key=value pairs of a comment line; a key alone is True."""
    found: dict[str, Any] = {}
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None or match.end() == position:
            raise DatasetError(f"the comment line is damaged at {text[position : position + 30]!r}")
        position = match.end()
        key = match[1] if match[1] is not None else match[2]
        quoted = next((group for group in match.groups()[2:5] if group is not None), None)
        if quoted is not None:
            found[key] = _value(re.sub(r"\\(.)", r"\1", quoted))
        elif match[6] is not None:
            found[key] = _value(match[6].strip("[]").replace(",", " "))
        elif match[7] is not None:
            found[key] = _value(match[7])
        else:
            found[key] = True
    return found


def _value(text: str) -> Any:
    """Return a bool, number, array or string, as ASE reads them."""
    if text.startswith("_JSON"):
        return plain(parse_json(text[5:].strip().encode()), "JSON value")
    words = text.split()
    if not words:
        return text
    values: list[Any]
    if all(word in _TRUE or word in _FALSE for word in words):
        values = [word in _TRUE for word in words]
    elif all(_INT.match(word) for word in words):
        values = [int(word) for word in words]
    else:
        try:
            values = [float(word) for word in words]
        except ValueError:
            return text
    if len(values) == 1:
        return values[0]
    array = np.array(values)
    return array.reshape(3, 3).T if len(values) == 9 else array


def parse_frame(data: bytes, keys: Mapping[str, str]) -> Sample:
    """Parse one frame.

    Parameters
    ----------
    data
        Its text: number of atoms, comment, one line an atom.
    keys
        Names of labels in the file by our names (``{"energy": "REF_energy"}``).
    """
    first, _, rest = data.partition(b"\n")
    comment, _, body = rest.partition(b"\n")
    n = int(first)
    pairs = parse_comment(comment.decode())
    columns = _columns(str(pairs.pop("Properties", _DEFAULT)), body.split(), n)
    sample: Sample = {"info": {}}
    sample["atomic_numbers"] = _numbers(columns)
    for name in ("pos", "positions"):
        if name in columns:
            sample["positions"] = columns.pop(name)
    if "positions" not in sample:
        raise DatasetError("no column of positions")
    _box(pairs, sample)
    kept = pairs.pop(_REST, None)
    _labels(pairs, columns, keys, sample)
    _atoms(columns, sample)
    sample["info"] |= pairs
    if kept is not None:
        _restore(kept, sample)
    return sample


def _columns(properties: str, words: list[bytes], n: int) -> dict[str, Array]:
    parts = properties.split(":")
    if len(parts) % 3 or not all(width.isdigit() for width in parts[2::3]):
        raise DatasetError(f"Properties={properties!r} is damaged")
    width = sum(int(w) for w in parts[2::3])
    if len(words) != n * width:
        raise DatasetError(
            f"{len(words)} words for {n} atoms with {width} columns; the frame is damaged"
        )
    table = np.array(words).reshape(n, width)
    columns: dict[str, Array] = {}
    start = 0
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        block = table[:, start : start + int(count)]
        start += int(count)
        block = block[:, 0] if int(count) == 1 else block
        try:
            columns[name] = _column(kind, block)
        except ValueError as error:
            raise DatasetError(f"column {name}: {error}") from None
    return columns


def _column(kind: str, block: Array) -> Array:
    if kind == "R":
        return block.astype(np.float64)
    if kind == "I":
        return block.astype(np.int64)
    if kind == "L":
        words = block.astype(str)
        true, false = np.isin(words, list(_TRUE)), np.isin(words, list(_FALSE))
        if not (true | false).all():
            raise ValueError("words that are neither T nor F")
        return true
    if kind == "S":
        return block.astype(str)
    raise ValueError(f"of kind {kind!r}, not R, I, L or S")


def _numbers(columns: dict[str, Array]) -> Array:
    from ase.data import atomic_numbers

    species = columns.pop("species", None)
    numbers = columns.pop("Z", None)
    if species is None:
        numbers = columns.pop("numbers", numbers)
        if numbers is None:
            raise DatasetError("no column of species")
        return numbers
    if species.ndim != 1 or species.dtype.kind != "U":
        raise DatasetError("species are no column of symbols")
    try:
        return np.array([atomic_numbers[symbol] for symbol in species.tolist()], np.int64)
    except KeyError as error:
        raise DatasetError(f"{error.args[0]!r} is no chemical symbol") from None


def _box(pairs: dict[str, Any], sample: Sample) -> None:
    lattice, pbc = pairs.pop("Lattice", None), pairs.pop("pbc", None)
    if lattice is None:
        sample["cell"] = np.zeros((3, 3))
    elif isinstance(lattice, np.ndarray) and lattice.shape == (3, 3):
        sample["cell"] = lattice.T.astype(np.float64)  # undo ASE's column order
    else:
        raise DatasetError("Lattice is not nine numbers")
    if pbc is None:
        pbc = np.full(3, lattice is not None)
    sample["pbc"] = np.atleast_1d(np.asarray(pbc)).astype(bool)
    if sample["pbc"].shape == (1,):
        sample["pbc"] = np.repeat(sample["pbc"], 3)
    if sample["pbc"].shape != (3,):
        raise DatasetError(f"pbc has {sample['pbc'].size} values, not 3")


def _labels(
    pairs: dict[str, Any], columns: dict[str, Array], keys: Mapping[str, str], sample: Sample
) -> None:
    def find(name: str, place: dict[str, Any]) -> Any:
        """Take the usual name; copy one that the user or MACE chose."""
        if name in keys:
            if keys[name] not in place:
                raise DatasetError(f"no {keys[name]!r}, which keys= names for {name}")
            return place[keys[name]]
        return place.pop(name) if name in place else place.get("REF_" + name)

    energy = find("energy", pairs)
    if energy is not None:
        sample["energy"] = scalar(energy, "energy")
    forces = find("forces", columns)
    if forces is None:
        forces = columns.pop("force", None)
    if forces is not None:
        sample["forces"] = forces
    stress = find("stress", pairs)
    if stress is None and isinstance(pairs.get("virial"), np.ndarray):
        volume = abs(np.linalg.det(sample["cell"]))
        stress = -full_stress(pairs["virial"]) / volume if volume > 0 else None
    if stress is not None:
        full = full_stress(np.asarray(stress, float))
        sample["stress"] = (full + full.T) / 2
    results = {}
    for name in _RESULTS:
        if name in pairs:
            value = pairs.pop(name)
            results[name] = np.asarray(value, float) if name == "dipole" else scalar(value, name)
    for name in _ATOM_RESULTS:
        if name in columns:
            results[name] = columns.pop(name)
    if results:
        sample["results"] = results


def _atoms(columns: dict[str, Array], sample: Sample) -> None:
    """Take tags and the mask of free atoms; keep all other columns as arrays of the atoms."""
    if "tags" in columns:
        sample["tags"] = columns.pop("tags").astype(np.int64)
    mask = columns.pop("move_mask", None)
    if mask is not None:
        mask = mask.astype(bool)
        if mask.ndim == 1:
            sample["fixed"] = ~mask
        else:
            sample["fixed"] = ~mask.any(axis=1)
            partly = np.flatnonzero(mask.any(axis=1) & ~mask.all(axis=1))
            if len(partly):
                sample["constraints"] = [
                    {"name": "FixCartesian", "kwargs": {"a": [k], "mask": (~mask[k]).tolist()}}
                    for k in partly.tolist()
                ]
    if columns:
        sample["arrays"] = columns


def _restore(kept: Any, sample: Sample) -> None:
    if not isinstance(kept, dict):
        raise DatasetError(f"{_REST} is no JSON object")
    sample["info"] |= kept.get("info", {})
    if kept.get("atoms_arrays"):
        arrays = {name: np.asarray(value) for name, value in kept["atoms_arrays"].items()}
        sample["arrays"] = sample.get("arrays", {}) | arrays
    if kept.get("constraints"):
        sample["constraints"] = [*sample.get("constraints", []), *kept["constraints"]]
    if kept.get("results"):
        sample["results"] = sample.get("results", {}) | kept["results"]
