"""Rows of ASE databases as JSON (aselmdb, ASE's json): to samples, without ASE's object hooks.

Arrays are tagged (``{"__ndarray__": [shape, dtype, values]}``); shape, type and length are
checked before anything is allocated. Of a row's ``data`` every entry goes to ``info``, as do the
``key_value_pairs``, which also stay together under ``info["key_value_pairs"]``.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from ase_nnp.datasets.constraints import check_indices
from ase_nnp.datasets.labels import RESULTS, full_stress
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.writing.encode import ARRAYS, PAIRS, REST, put_back
from ase_nnp.errors import DatasetError

__all__ = ["parse_json", "row_to_sample"]

Array = np.ndarray[Any, Any]

_DTYPES = frozenset(
    ["bool", "str"]
    + [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    + ["float16", "float32", "float64", "complex128"]
)
_SCALARS = frozenset(["energy", "free_energy", "magmom"])
_ARRAYS = ("momenta", "masses", "initial_magmoms", "initial_charges")
_LARGE = 2.0**63
_REAL = frozenset([float, int])
_ALL_PERIODIC = {"__ndarray__": [[3], "bool", [True, True, True]]}
_PERIODIC = np.ones(3, bool)
_PERIODIC.flags.writeable = False


def parse_json(text: bytes, *, row: bool = False) -> Any:
    """Parse JSON; NaN and Infinity as ASE writes them are read too, and integers of any length.

    Of a ``row`` only what is free information keeps integers beyond 64 bits.
    """
    import orjson

    try:
        value = orjson.loads(text)
        looked_at = value
        if row and type(value) is dict:
            looked_at = (value.get("data"), value.get("key_value_pairs"))
        # orjson makes floats of integers beyond 64 bits; these are rare, and a look is cheap.
        if not _beyond_64_bits(looked_at):
            return value
    except orjson.JSONDecodeError as error:
        # It has no NaN, and takes an integer beyond the largest float for infinity.
        other = b"NaN" in text or b"Infinity" in text or "infinity" in str(error)
        if not other:
            raise DatasetError(f"not JSON: {error}") from None
    try:
        return json.loads(text, parse_float=_finite_float)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"not JSON: {error}") from None


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond the largest float")
    return value


def _beyond_64_bits(value: Any) -> bool:
    """Whether a float so large occurs that it may have been an integer, tagged arrays apart."""
    waiting: list[Any] = [[value]]
    for items in waiting:  # grows
        # Rows of coordinates, in one step.
        if type(items) is list and {*map(type, items)} <= _REAL:
            if items and (max(items) >= _LARGE or min(items) <= -_LARGE):
                return True
            continue

        for item in items:
            kind = type(item)
            if kind is float:
                if not -_LARGE < item < _LARGE:
                    return True
            elif kind is list or kind is tuple:
                waiting.append(item)
            elif kind is dict and "__ndarray__" not in item:
                waiting.append(item.values())
    return False


def to_array(value: Any, name: str) -> Array:
    """Return a tagged or plain list as an array."""
    if type(value) is dict:
        tagged = value.get("__ndarray__")
        if tagged is None:
            if "array" in value:  # ASE's Cell object
                return to_array(value["array"], name)
            raise DatasetError(f"{name} is no array")
        shape, kind, values = tagged
        if type(kind) is str and kind[:3] == "str":  # ASE writes the length too: str96
            kind = "str"
        if type(kind) is not str or kind not in _DTYPES:
            raise DatasetError(f"{name} is an array of {kind!r}; numbers are wanted")

        count = 1
        for size in shape:
            if type(size) is not int or size < 0 or len(shape) > 8:
                raise DatasetError(f"{name} has the shape {shape}")
            count *= size

        parts = 2 if kind == "complex128" else 1
        if type(values) is not list or len(values) != count * parts:
            raise DatasetError(f"{name} of shape {shape} with {len(values)} values")
        array = np.array(values, float).view(kind) if parts == 2 else np.array(values, kind)
        return array if array.shape == (*shape,) else array.reshape(shape)
    if type(value) is list:
        array = np.array(value)
        if array.dtype.kind in "biufU":
            return array
    raise DatasetError(f"{name} is no array of numbers")


def plain(value: Any, name: str) -> Any:
    """Return free data with tagged arrays and complex numbers decoded, other tags as dicts."""
    if type(value) is dict:
        if "__ndarray__" in value:
            return to_array(value, name)
        if "__complex__" in value:
            return complex(*value["__complex__"])
        if PAIRS in value:
            return {_key(k): plain(entry, name) for k, entry in value[PAIRS]}
        return {key: plain(entry, key) for key, entry in value.items()}
    if type(value) is list:
        return [plain(entry, name) for entry in value]
    return value


def _key(value: Any) -> Any:
    return tuple(map(_key, value)) if type(value) is list else value


def row_to_sample(row: Any) -> Sample:
    """Turn one row into an unchecked sample.

    Raises
    ------
    DatasetError
        Something that every row has is missing, or of the wrong kind.
    """
    if type(row) is not dict:
        raise DatasetError(f"holds {type(row).__name__}, not a row")
    for name in ("numbers", "positions", "cell", "pbc"):
        if name not in row:
            raise DatasetError(f"a row without {name}")

    numbers = to_array(row["numbers"], "numbers")
    info: dict[str, Any] = {}
    sample: Sample = {
        "atomic_numbers": numbers,
        "positions": to_array(row["positions"], "positions"),
        "cell": to_array(row["cell"], "cell"),
        "pbc": _periodicity(row["pbc"]),
        "info": info,
    }
    n = len(numbers)

    if "tags" in row:
        sample["tags"] = to_array(row["tags"], "tags").astype(np.int64, copy=False)
    if "constraints" in row:
        _constraints(row["constraints"], n, sample)

    further = _free_data(row, sample)
    # Labels are those of the row's calculator, as for ASE; ``data`` is free information.
    if row.get("energy") is not None:
        sample["energy"] = scalar(row["energy"], "energy")

    for name in ("forces", "stress"):
        if row.get(name) is not None:
            array = to_array(row[name], name)
            sample[name] = array if name == "forces" else full_stress(array)

    _rest(row, n, sample)
    if further is not None:
        put_back(sample, further)
    return sample


def _periodicity(value: Any) -> Array:
    if value == _ALL_PERIODIC:
        return _PERIODIC
    pbc = to_array(value, "pbc")
    if pbc.shape != (3,):
        raise DatasetError(f"pbc of shape {pbc.shape}, not (3,)")
    return pbc.astype(bool, copy=False)


def _free_data(row: dict[str, Any], sample: Sample) -> Any:
    """Take ``key_value_pairs`` and ``data``; return what our writer put aside."""
    info: dict[str, Any] = sample["info"]
    pairs = row.get("key_value_pairs")
    if pairs:
        if type(pairs) is not dict:
            raise DatasetError("key_value_pairs is no dict")
        info.update(pairs)
        info["key_value_pairs"] = dict(pairs)

    data = row.get("data")
    if data:
        if type(data) is not dict:
            raise DatasetError("data is no dict")
        if PAIRS in data:  # a name of the whole begins like a tag of ASE
            data = {_key(name): value for name, value in data[PAIRS]}
        for name, value in data.items():
            simple = type(value) is not dict and type(value) is not list
            try:
                info[name] = value if simple else plain(value, name)
            except (DatasetError, TypeError, ValueError) as error:
                if name in (ARRAYS, REST):
                    raise
                sample.setdefault("remarks", {})[name] = f"is left out ({error})"
        arrays = info.pop(ARRAYS, None)
        if arrays:
            sample["arrays"] = {name: np.asarray(value) for name, value in arrays.items()}

    if "ref_energy" in info:
        info.setdefault("reference_energy", info["ref_energy"])
    return info.pop(REST, None)


def _rest(row: dict[str, Any], n: int, sample: Sample) -> None:
    """Collect what few rows have."""
    results = {}
    for name in RESULTS:
        if row.get(name) is not None:
            value = row[name]
            number = name in _SCALARS and not isinstance(value, (dict, list))
            results[name] = scalar(value, name) if number else to_array(value, name)
    if results:
        sample["results"] = results
    for name in _ARRAYS:
        if row.get(name) is not None:
            array = to_array(row[name], name)
            if array.shape[:1] != (n,):
                raise DatasetError(f"{name} of shape {array.shape} for {n} atoms")
            sample.setdefault("arrays", {})[name] = array


def scalar(value: Any, name: str) -> float:
    """Return a label as float."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, np.ndarray) and value.size == 1:
        return float(value.item())
    if type(value) in (dict, list):
        return scalar(to_array(value, name), name)
    raise DatasetError(f"{name} is {type(value).__name__}, not a number")


def _constraints(described: Any, n: int, sample: Sample) -> None:
    if isinstance(described, (str, bytes)):  # older ASE keeps them as JSON text
        described = parse_json(described.encode() if isinstance(described, str) else described)
    if type(described) is not list:
        raise DatasetError("constraints is no list")

    fixed, others, held = np.zeros(n, bool), [], False
    for entry in described:
        name, kwargs = entry["name"], entry.get("kwargs", {})
        if name == "FixAtoms":
            indices = kwargs["indices"]
            indices = np.array(plain(indices, "indices") if type(indices) is dict else indices)
            if indices.size and indices.dtype.kind not in "iub":
                raise DatasetError(f"FixAtoms on {indices.dtype} instead of numbers of atoms")
            try:
                fixed[indices if indices.size else []] = True
            except IndexError:
                raise DatasetError(f"FixAtoms on atoms that {n} atoms do not have") from None
            held = True
        else:
            others.append(check_indices(name, plain(kwargs, name), n))
    if held:
        sample["fixed"] = fixed
    if others:
        sample["constraints"] = others
