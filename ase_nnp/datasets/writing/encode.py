"""Samples to bytes: the JSON rows of aselmdb, and flat binary records without pickles.

Nothing here depends on the time, the user or chance, so converting twice gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.labels import RESULTS, is_label_name
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from ase_nnp.datasets.sample import Sample

#: Key under ``data`` (and in JSON headers) for per-atom arrays that ASE rows have no place for.
ARRAYS = "atoms_arrays"
#: Key under ``data`` (and in JSON headers) for what a reader would take for something else:
#: ``{"info": [[key, value], ...], "results": {...}}``.
REST = "ase_nnp_rest"
#: A dictionary that JSON has no words for, as a list of keys and values.
PAIRS = "__ase_nnp_pairs__"
#: Of an integer: Python reads no more than 4300 digits.
MOST_BITS = 14_000
#: Arrays with a place of their own in a row.
_ROW_ARRAYS = ("momenta", "masses", "initial_magmoms", "initial_charges")


def row_of(sample: Sample) -> dict[str, Any]:
    """Return a sample under the names of an ASE database row; ``data`` holds its ``info``.

    Real numbers become float64, in which every stored precision is exact. Stored edges have no
    place in a row.
    """
    row: dict[str, Any] = {
        "numbers": sample["atomic_numbers"],
        "positions": _double(sample["positions"]),
        "cell": _double(sample["cell"]),
        "pbc": sample["pbc"],
    }
    if "tags" in sample:
        row["tags"] = sample["tags"]

    data, aside = split_info(sample["info"])
    further: dict[str, Any] = {"info": aside} if aside else {}
    more_arrays: dict[str, Any] = {}
    for name, value in sample.get("arrays", {}).items():
        (row if name in _ROW_ARRAYS else more_arrays)[name] = value
    if more_arrays:
        data[ARRAYS] = more_arrays

    # ASE keeps no mask of fixed atoms: they are a constraint as any other.
    constraints = list(sample.get("constraints", ()))
    if "fixed" in sample and sample["fixed"].any():
        indices = np.flatnonzero(sample["fixed"]).tolist()
        constraints.insert(0, {"name": "FixAtoms", "kwargs": {"indices": indices}})
    if constraints:
        row["constraints"] = constraints

    results, unknown = _results(sample)
    if unknown:
        further["results"] = unknown
    if results:
        row |= {"calculator": "unknown", "calculator_parameters": {}, **results}
    row["data"] = {**data, REST: further} if further else data
    return row


def split_info(info: dict[Any, Any]) -> tuple[dict[str, Any], list[list[Any]]]:
    """Part ``info`` into what any reader gives back, and pairs that one would misread.

    Aside goes a name that some reader takes for a label, and a key that is no text.
    """
    plain: dict[str, Any] = {}
    aside: list[list[Any]] = []
    for key, value in info.items():
        if type(key) is str and key and not is_label_name(key) and key not in (ARRAYS, REST):
            plain[key] = value
        else:
            aside.append([key, value])
    return plain, aside


def put_back(sample: Sample, further: Any) -> None:
    """Return to a sample what :func:`row_of` put aside under :data:`REST`."""
    if not isinstance(further, dict):
        raise DatasetError(f"{REST} is no JSON object")
    pairs = further.get("info") or []
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        sample["info"][_hashable(key)] = value
    if further.get("results"):
        sample["results"] = {**sample.get("results", {}), **further["results"]}


def _hashable(key: Any) -> Any:
    return tuple(map(_hashable, key)) if isinstance(key, list) else key


def _double(values: Any) -> Any:
    return np.asarray(values, dtype=np.float64)


def _results(sample: Sample) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the results that ASE has names for, and the others."""
    from ase.calculators.calculator import all_properties

    results: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    for name, value in sample.get("results", {}).items():
        (results if name in all_properties else unknown)[name] = value
    if "energy" in sample:
        results["energy"] = float(sample["energy"])
    if "forces" in sample:
        results["forces"] = _double(sample["forces"])
    if "stress" in sample:
        results["stress"] = _double(sample["stress"]).ravel()[[0, 4, 8, 5, 2, 1]]
    return results, unknown


def add_row_fields(sample: Sample, row: dict[str, Any], arrays: dict[str, Any]) -> Sample:
    """Put back into a sample what :func:`row_of` wrote under other names."""
    n = len(sample["atomic_numbers"])
    if "tags" in row:
        sample["tags"] = np.asarray(row["tags"])

    constraints = []
    for entry in row.get("constraints", []):
        if entry.get("name") == "FixAtoms":
            fixed = sample.setdefault("fixed", np.zeros(n, dtype=bool))
            fixed[np.asarray(entry["kwargs"]["indices"], dtype=np.int64)] = True
        else:
            constraints.append(entry)
    if constraints:
        sample["constraints"] = constraints

    own = {name: np.asarray(row[name]) for name in _ROW_ARRAYS if name in row}
    own |= {name: np.asarray(value) for name, value in arrays.items()}
    if own:
        sample["arrays"] = {**sample.get("arrays", {}), **own}
    for name in RESULTS:
        if name in row:
            sample.setdefault("results", {})[name] = row[name]
    return sample


def _plain(value: Any, where: str) -> Any:
    """Return ``value`` as what ASE's JSON reader turns back into it."""
    if isinstance(value, np.ndarray):
        # A matrix has no flat form, and JSON takes the processor's own order of bytes only.
        value = np.asarray(value, value.dtype.newbyteorder("="))
        if value.dtype.kind not in "biufcUS" or value.dtype.char in "gG":
            raise DatasetError(f"{where} is an array of {value.dtype}, which cannot be stored")
        if value.dtype.kind in "US":
            try:
                return value.astype(str).tolist()
            except UnicodeDecodeError as error:
                raise DatasetError(f"{where} is an array of bytes and no text ({error})") from None
        if value.dtype.kind == "c":  # as ASE: real and imaginary parts in turns
            halves = np.ascontiguousarray(value.ravel(), np.complex128).view(np.float64)
            return {"__ndarray__": [list(value.shape), "complex128", halves]}
        # orjson has no float16 and wants contiguous memory; the name in the tag keeps the type.
        flat = value.ravel() if value.dtype != np.float16 else value.ravel().astype(float)
        return {"__ndarray__": [list(value.shape), value.dtype.name, np.ascontiguousarray(flat)]}

    if isinstance(value, np.generic):
        value = value.item()  # maybe a complex number
    if isinstance(value, complex):
        return {"__complex__": [value.real, value.imag]}
    if isinstance(value, dict):
        entries = [(k, _plain(v, f"{where}[{k!r}]")) for k, v in value.items()]
        # A key like "__ndarray__" would be taken for ASE's tag, whatever it holds.
        if all(type(k) is str and not k.startswith("__") for k, _ in entries):
            return dict(entries)
        return {PAIRS: [[_plain(k, where), v] for k, v in entries]}

    if isinstance(value, (list, tuple)):
        return [_plain(v, where) for v in value]
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise DatasetError(
            f"{where} is an integer of {value.bit_length()} bits; up to {MOST_BITS} can be stored"
        )
    if value is None or isinstance(value, (bool, int, float, str)):
        return value

    if hasattr(value, "todict"):
        return _plain(value.todict(), where)
    raise DatasetError(f"{where} is a {type(value).__name__}, which cannot be stored")


def _finite(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    if isinstance(value, float):
        return bool(np.isfinite(value))
    if isinstance(value, dict):
        return all(_finite(v) for v in value.values())
    if isinstance(value, list):
        return all(_finite(v) for v in value)
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def to_json(value: Any) -> bytes:
    """Encode plain values and arrays; NaN and infinity appear as ASE writes them."""
    import orjson

    if _finite(value):
        try:
            return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:  # half a character, as in names of files in another encoding
            raise DatasetError(f"something cannot be stored ({error})") from None
    return json.dumps(value, default=lambda array: array.tolist()).encode()


def ase_row(sample: Sample) -> bytes:
    """Encode one row of an aselmdb file (JSON as ASE writes it, zlib)."""
    body = to_json({name: _plain(value, name) for name, value in row_of(sample).items()})
    # Identity from content: the same structure always gets the same row.
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
    tail = f',"unique_id":"{digest}","ctime":0.0,"mtime":0.0,"user":""}}'
    return zlib.compress(body[:-1] + tail.encode())


def check_info(info: dict[Any, Any]) -> None:
    """Refuse an entry that cannot be stored, by its name.

    Raises
    ------
    DatasetError
        For the first such entry.
    """
    for key, value in info.items():
        where = f"info[{key!a}]"
        plain = _plain([key, value], where)
        try:
            to_json(plain)
        except DatasetError as error:
            raise DatasetError(f"{where}: {error}") from None


def _long(values: Any) -> bool:
    return bool(values.dtype.char == "g")  # NumPy's long double, which no other reader has


#: Parts of a sample that are dictionaries; their entries are named ``part.name``.
NESTED = ("info", "arrays", "results")


def flat_record(sample: Sample) -> bytes:
    """Encode one binary record in the layout of a safetensors file.

    Eight bytes with the length of a JSON header, the header (name to dtype, shape, byte range, and
    ``__metadata__`` with everything that is no array), then the raw little-endian arrays. Nothing
    is converted: float32 stays float32, and stored edges are kept.
    """
    from safetensors.numpy import save

    arrays: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    odd: list[list[Any]] = []
    for name, value in sample.items():
        entries: Any = value.items() if name in NESTED else [(None, value)]
        for key, entry in entries:
            if name == "info" and not (type(key) is str and key):
                odd.append([key, entry])
                continue
            full = name if key is None else f"{name}.{key}"
            if isinstance(entry, np.ndarray) and entry.dtype.kind in "biuf" and not _long(entry):
                arrays[full] = np.asarray(entry, order="C")
            else:
                rest[full] = _plain(entry, full)
    if odd:
        rest[REST] = _plain({"info": odd}, "info")
    return save(arrays, metadata={"rest": to_json(rest).decode()})
