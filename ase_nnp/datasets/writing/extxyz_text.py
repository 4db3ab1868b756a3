"""Atoms as extended XYZ with every digit, so that a round trip loses nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.labels import is_label_name
from ase_nnp.datasets.writing.encode import ARRAYS, REST, _plain, row_of, to_json

if TYPE_CHECKING:
    from ase_nnp.datasets.sample import Sample

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_./:*+-]*")
_RESERVED = {"t", "f", "true", "false", "nan", "inf", "infinity", "none"}
_COLUMN = {"f": "R", "i": "I", "u": "I", "b": "L"}
_PER_ATOM = ("forces", "charges", "magmoms")
#: Columns and comment keys that readers take for something of their own, in any case.
_STRUCTURE = frozenset(
    [
        *("lattice", "cell", "properties", "pbc", "uid", REST),
        *("species", "symbols", "numbers", "z", "pos", "positions", "move_mask", "tags"),
    ]
)


def _is_plain(key: str, value: Any) -> bool:
    """Whether any reader of extended XYZ gives back this key and value unchanged."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", key):
        return False
    if isinstance(value, bool):
        return True
    if type(value) is int:
        return -(2**63) <= value < 2**63
    if type(value) is float:
        return bool(np.isfinite(value))
    return (
        isinstance(value, str)
        and _WORD.fullmatch(value) is not None
        and value.lower() not in _RESERVED
    )


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    return repr(value) if isinstance(value, float) else str(value)


def _numbers(array: Any) -> str:
    return " ".join(map(repr, np.asarray(array, dtype=float).ravel().tolist()))


def _columns(name: str, array: Any, rest: dict[str, Any]) -> tuple[str, list[list[str]]] | None:
    values = np.asarray(array)
    kind = _COLUMN.get(values.dtype.kind)
    wide = int(np.prod(values.shape[1:]))
    if kind is None or values.ndim > 2 or wide == 0 or not re.fullmatch(r"\w+", name):
        rest.setdefault(ARRAYS, {})[name] = values
        return None
    flat = values.reshape(len(values), wide)
    if kind == "L":
        cells = [["T" if v else "F" for v in line] for line in flat.tolist()]
    else:
        cells = [[repr(v) for v in line] for line in flat.tolist()]
    return f"{name}:{kind}:{wide}", cells


def extxyz_frame(sample: Sample) -> bytes:
    """Encode one frame of extended XYZ.

    ``move_mask`` is F for atoms held by FixAtoms, as in the OC20 download; other constraints and
    information that is no plain word or number go into one JSON value, :data:`REST`.
    """
    from ase.data import chemical_symbols

    row = row_of(sample)
    natoms = len(row["numbers"])
    data = row.pop("data")
    rest: dict[str, Any] = data.pop(REST, {})
    comment: list[str] = []
    if np.any(row["cell"]):
        comment.append(f'Lattice="{_numbers(row["cell"])}"')

    columns = [("species:S:1", [[chemical_symbols[z]] for z in row["numbers"]])]
    constraints = row.pop("constraints", [])
    fixed = [c for c in constraints if c["name"] == "FixAtoms"]
    if fixed:
        free = np.ones(natoms, dtype=bool)
        for constraint in fixed:
            free[np.asarray(constraint["kwargs"]["indices"], dtype=int)] = False
        row["move_mask"] = free
    others = [c for c in constraints if c["name"] != "FixAtoms"]
    if others:
        rest["constraints"] = others

    per_atom = {"pos": row.pop("positions")}
    for name in ("move_mask", "tags", "momenta", "masses", "initial_magmoms", "initial_charges"):
        if name in row:
            per_atom[name] = row.pop(name)
    # What is not one row an atom would be cut to fit; it goes with the other results.
    fits = [n for n in _PER_ATOM if n in row and np.shape(row[n])[:1] == (natoms,)]
    per_atom |= {name: row.pop(name) for name in fits}
    for name, value in data.pop(ARRAYS, {}).items():
        # ASE and MACE read the columns charge and magmom as results.
        odd = is_label_name(name) or name in ("charge", "magmom") or name.lower() in _STRUCTURE
        if odd or name in per_atom:
            rest.setdefault(ARRAYS, {})[name] = value
        else:
            per_atom[name] = value
    columns += [c for n, v in per_atom.items() if (c := _columns(n, v, rest)) is not None]
    comment.append("Properties=" + ":".join(name for name, _ in columns))

    for name in ("energy", "free_energy"):
        if name in row:
            comment.append(f"{name}={float(row.pop(name))!r}")
    if "stress" in row:
        comment.append(f'stress="{_numbers(_full_stress(row.pop("stress")))}"')
    if "dipole" in row and np.size(row["dipole"]) == 3:
        comment.append(f'dipole="{_numbers(row.pop("dipole"))}"')
    comment.append('pbc="' + " ".join("T" if p else "F" for p in row["pbc"]) + '"')
    done = {"numbers", "cell", "pbc", "calculator", "calculator_parameters"}
    results = {name: value for name, value in row.items() if name not in done}
    if results:
        rest["results"] = {**results, **rest.get("results", {})}

    info: list[list[Any]] = rest.pop("info", [])
    for key, value in data.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if _is_plain(key, plain) and key.lower() not in _STRUCTURE:
            comment.append(f"{key}={_word(plain)}")
        else:
            info.append([key, value])
    if info:
        rest["info"] = info
    if rest:
        text = to_json(_plain(rest, "info")).decode()
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        comment.append(f'{REST}="_JSON {quoted}"')
    lines = [str(natoms), " ".join(comment)]
    lines += [" ".join(cell for _, cells in columns for cell in cells[k]) for k in range(natoms)]
    return ("\n".join(lines) + "\n").encode()


def _full_stress(stress: Any) -> Any:
    s = np.asarray(stress, dtype=float)
    if s.shape != (6,):
        return s.reshape(3, 3)
    xx, yy, zz, yz, xz, xy = s
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
