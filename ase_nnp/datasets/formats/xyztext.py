"""The text of one extended XYZ frame, to a sample."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ase_nnp.datasets.formats.rows import parse_json, plain, scalar
from ase_nnp.datasets.labels import full_stress, stress_of_virial
from ase_nnp.datasets.sample import Sample
from ase_nnp.datasets.symbols import atomic_numbers_of
from ase_nnp.datasets.writing.encode import ARRAYS, REST, put_back
from ase_nnp.errors import DatasetError

__all__ = ["parse_frame"]

Array = np.ndarray[Any, Any]

_TOKEN = re.compile(
    r"""\s*(?:"((?:[^"\\]|\\.)*)"|([^\s="]+))\s*(?:=\s*
    (?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|\{([^{}]*)\}
    |(\[(?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*\])|([^\s"]+)))?""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = re.compile(r"[^\s,]+")  # ASE parts values at commas too
_INT = re.compile(r"[-+]?\d+$")
_LONGEST = 4000  # digits of an integer: Python reads few more
_INT64 = 2**63 - 1
_TRUE, _FALSE = {"T", "True", "true", "TRUE"}, {"F", "False", "false", "FALSE"}
_FLAG = re.compile(r"(?<![A-Za-z])(true|false)(?![A-Za-z])", re.IGNORECASE)
_PBC = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
#: Nine numbers under these names are a matrix, for ASE as well; any other nine stay as they are.
_MATRICES = {"lattice", "virial", "stress"}
_ATOM_RESULTS = ("charges", "magmoms", "energies", "stresses", "born_effective_charges")
_RESULTS = ("free_energy", "dipole", "magmom", "polarization", "dielectric_tensor")
#: ASE writes the results ``charges`` under this name of a column.
_COLUMN_NAMES = {"charge": "charges", "magmom": "magmoms"}
_DEFAULT = "species:S:1:pos:R:3"
_REF = "REF_"


def parse_comment(text: str) -> dict[str, Any]:
    """Return the key=value pairs of a comment line; a key alone is True."""
    pairs: dict[str, Any] = {}
    position, end = 0, len(text.rstrip())

    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.end() == position:
            raise DatasetError(f"the comment line is damaged at {text[position : position + 30]!r}")
        position = match.end()
        key = match[1] if match[1] is not None else match[2]

        quoted = next((group for group in match.groups()[2:5] if group is not None), None)
        if quoted is not None:
            pairs[key] = _value(key, re.sub(r"\\(.)", r"\1", quoted))
        elif match[6] is not None:
            pairs[key] = _bracketed(key, match[6])
        elif match[7] is not None:
            pairs[key] = _value(key, match[7])
        else:
            pairs[key] = True
    return pairs


def _bracketed(key: str, text: str) -> Any:
    """Return ``[1, 2]`` as :func:`_value` does, and ``[[1, 2], [3, 4]]`` as the matrix it is."""
    if "[" not in text[1:]:
        return _value(key, text[1:-1])
    try:
        array = np.array(parse_json(text.encode()))
    except (DatasetError, ValueError):  # words without quotes, or rows of unequal length
        return text
    return array if array.dtype.kind in "biuf" else text


def _value(key: str, text: str) -> Any:
    """Return a bool, number, array or string, as ASE reads them."""
    if text.startswith("_JSON"):
        return plain(parse_json(text[5:].strip().encode()), "JSON value")
    words = _WORDS.findall(text)
    if not words or key.lower() == "uid" or max(map(len, words)) > _LONGEST:
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
    if type(values[0]) is int and max(map(abs, values)) > _INT64:
        return values  # an array would make floats of them
    array = np.array(values)
    return array.reshape(3, 3).T if len(values) == 9 and key.lower() in _MATRICES else array


def parse_frame(data: bytes) -> Sample:
    """Parse the text of one frame: number of atoms, comment, one line an atom."""
    first, _, rest = data.partition(b"\n")
    comment, _, body = rest.partition(b"\n")
    n = int(first)
    pairs = _pairs(comment.decode())
    properties = _take_any_case(pairs, "Properties", _DEFAULT)
    columns = _columns(str(properties), body, n)

    sample: Sample = {"info": {}}
    sample["atomic_numbers"] = _numbers(columns)
    for name in ("pos", "positions"):
        if name in columns:
            sample["positions"] = columns.pop(name)
    if "positions" not in sample:
        raise DatasetError("no column of positions")

    _box(pairs, sample)
    kept = pairs.pop(REST, None)
    _labels(pairs, columns, sample)
    _atoms(columns, sample)
    sample["info"] |= pairs
    if kept is not None:
        _restore(kept, sample)
    return sample


def _pairs(comment: str) -> dict[str, Any]:
    try:
        return parse_comment(comment)
    except DatasetError:
        if re.search(r"(properties|lattice)\s*=", comment, re.IGNORECASE):
            raise
        return {"comment": comment.strip()}  # plain XYZ: any sentence may stand here


def _take(pairs: dict[str, Any], *names: str, default: Any = None) -> Any:
    """Take the first of these names that is there."""
    for name in names:
        if name in pairs:
            return pairs.pop(name)
    return default


def _take_any_case(pairs: dict[str, Any], name: str, default: Any = None) -> Any:
    """Take a name as ASE writes it, or in other letters (GPUMD's lower case, KLIFF's capitals)."""
    if name in pairs:
        return pairs.pop(name)
    others = [key for key in pairs if key.lower() == name.lower()]
    return pairs.pop(others[0]) if others else default


def _columns(properties: str, body: bytes, n: int) -> dict[str, Array]:
    parts = properties.split(":")
    if len(parts) % 3 or not all(width.isdigit() for width in parts[2::3]):
        raise DatasetError(f"Properties={properties!r} is damaged")
    width = sum(int(w) for w in parts[2::3])

    words = body.split()
    if len(words) != n * width:
        words = _leading_words(body, n, width)
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


def _leading_words(body: bytes, n: int, width: int) -> list[bytes]:
    """Return the declared columns of lines that hold more, as CP2K writes them."""
    lines = [line.split() for line in body.split(b"\n")[:n]]
    for number, line in enumerate(lines):
        if len(line) < width:
            raise DatasetError(
                f"{len(line)} words for atom {number} with {width} columns; the frame is damaged"
            )
    return [word for line in lines for word in line[:width]]


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
        ascii = b"".join(block.flat).isascii()
        return block.astype(str) if ascii else np.char.decode(block, "utf-8")
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
    symbols = species.tolist()
    if not all(symbol in atomic_numbers for symbol in symbols):
        symbols = [symbol.capitalize() for symbol in symbols]  # CREST and CP2K write CU
    return atomic_numbers_of(symbols)


def _box(pairs: dict[str, Any], sample: Sample) -> None:
    lattice = _take_any_case(pairs, "Lattice")
    cell = _vectors(lattice)
    if lattice is not None and cell is None:
        raise DatasetError("Lattice is not nine numbers")
    if cell is None:
        cell = _other_box(pairs, sample)
    sample["cell"] = np.zeros((3, 3)) if cell is None else cell
    pbc = _take_any_case(pairs, "pbc")
    sample["pbc"] = np.full(3, cell is not None) if pbc is None else _periodicity(pbc)


def _vectors(value: Any) -> Array | None:
    """Return nine numbers, row after row, as (3, 3); None of anything else."""
    if isinstance(value, str) and value.startswith("[["):
        value = _bracketed("Lattice", value)
    if not isinstance(value, np.ndarray) or value.size != 9 or value.dtype.kind not in "if":
        return None
    if value.shape == (3, 3) and value.flags.f_contiguous:
        value = value.T  # undo ASE's column order
    vectors: Array = value.reshape(3, 3).astype(np.float64)
    return vectors


def _other_box(pairs: dict[str, Any], sample: Sample) -> Array | None:
    """Return the box of ``cell=``, in any of the forms that ``ase.Atoms(cell=)`` takes.

    ASE itself writes and reads ``Lattice`` only, so the reader says what it did.
    """
    from ase.cell import Cell

    name = next((key for key in pairs if key.lower() == "cell"), None)
    if name is None:
        return None
    cell = _vectors(pairs[name])
    if cell is None and isinstance(pairs[name], np.ndarray) and pairs[name].size in (3, 6):
        cell = np.array(Cell.new(pairs[name].astype(float)))
    if cell is None:
        sample["remarks"] = {name: "is no box that is understood; without Lattice there is none"}
        return None
    del pairs[name]
    sample["remarks"] = {name: "is read as the box: there is no Lattice"}
    return cell


def _periodicity(value: Any) -> Array:
    """Return pbc of ``T T F``, ``t t f``, ``TTF``, ``1 1 0``, ``[ True True False]``, ..."""
    words = _WORDS.findall(value.strip("[](){} \t")) if isinstance(value, str) else None
    if words is not None and len(flags := _FLAG.findall(value)) == 3:
        words = flags  # "[np.True_, np.True_, np.False_]", "tensor([ True,  True, False])"
    if words is None:
        words = [str(item) for item in np.ravel(value).tolist()]
    if len(words) == 1 and len(words[0]) == 3:
        words = list(words[0])
    try:
        flags = [_PBC[word.lower().strip("'\"").removesuffix(".0")] for word in words]
    except KeyError as error:
        raise DatasetError(f"pbc={value!r}: {error.args[0]!r} is neither T nor F") from None
    if len(flags) not in (1, 3):
        raise DatasetError(f"pbc has {len(flags)} values, not 3")
    return np.array(flags if len(flags) == 3 else flags * 3)


def _labels(pairs: dict[str, Any], columns: dict[str, Array], sample: Sample) -> None:
    """Take all labels from one source: the names of MACE if they are there, else ASE's."""
    for theirs, ours in _COLUMN_NAMES.items():
        if theirs in columns and ours not in columns:
            columns[ours] = columns.pop(theirs)
    # Both stand there where a model's energy was written over DFT labels: those are REF_.
    named = ("energy", "stress", "virial", "virials")
    ref = any(_REF + name in pairs for name in named) or _REF + "forces" in columns

    def find(place: dict[str, Any], *names: str) -> Any:
        if ref:
            return next((place[_REF + name] for name in names if _REF + name in place), None)
        return _take(place, *names)

    if (energy := find(pairs, "energy")) is not None:
        sample["energy"] = scalar(energy, "energy")
    if (forces := find(columns, "forces", "force")) is not None:
        sample["forces"] = forces
    if (stress := find(pairs, "stress")) is not None:
        full = full_stress(np.asarray(stress, float))
        sample["stress"] = (full + full.T) / 2
    elif (stress := _virial(pairs, _REF if ref else "", sample["cell"])) is not None:
        sample["stress"] = stress

    results: dict[str, Any] = {}
    for name in _RESULTS:
        if (value := find(pairs, name)) is not None:
            number = name in ("free_energy", "magmom")
            results[name] = scalar(value, name) if number else np.asarray(value, float)
    for name in _ATOM_RESULTS:
        if (value := find(columns, name)) is not None:
            results[name] = value
    if results:
        sample["results"] = results


def _virial(pairs: dict[str, Any], prefix: str, cell: Array) -> Array | None:
    for name in ("virial", "virials"):
        value = pairs.get(prefix + name)
        if isinstance(value, np.ndarray) and value.size in (6, 9):
            return stress_of_virial(value, cell)
    return None


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
    put_back(sample, kept)
    if kept.get(ARRAYS):
        arrays = {name: np.asarray(value) for name, value in kept[ARRAYS].items()}
        sample["arrays"] = sample.get("arrays", {}) | arrays
    if kept.get("constraints"):
        sample["constraints"] = [*sample.get("constraints", []), *kept["constraints"]]
