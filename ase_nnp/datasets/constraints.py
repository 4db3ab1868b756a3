"""Constraints beside FixAtoms, as the dictionaries that files keep of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ase_nnp.errors import DatasetError

__all__ = ["check_indices", "describe", "rebuild"]

_CLASSES = ("Fix", "Hook", "External", "Mirror")
_INDICES = ("indices", "index", "a", "a1", "a2", "a3", "a4", "pairs", "pair")


def _is_known(name: Any) -> bool:
    import ase.constraints

    return name in ase.constraints.__all__ and str(name).startswith(_CLASSES)


def describe(constraint: Any) -> dict[str, Any] | None:
    """Return a constraint as ASE's dictionary; None for a class that ASE could not make again."""
    described = constraint.todict() if hasattr(constraint, "todict") else None
    # A class of the user's own inherits a todict() that returns nothing, or names itself.
    if not isinstance(described, dict) or not _is_known(described.get("name")):
        return None
    return described


def rebuild(described: Iterable[dict[str, Any]]) -> Iterator[Any]:
    """Make constraints from their dictionaries."""
    from ase import Atoms
    from ase.constraints import dict2constraint

    for entry in described:
        try:
            kwargs = dict(entry["kwargs"])
            # FixSymmetry keeps the structure whose symmetry it holds, a dictionary in a file.
            kept = kwargs.get("atoms")
            if isinstance(kept, dict):
                names = ("numbers", "positions", "cell", "pbc")
                kwargs["atoms"] = Atoms(**{name: np.asarray(kept[name]) for name in names})
            yield dict2constraint({**entry, "kwargs": kwargs})
        except Exception as error:
            raise DatasetError(
                f"constraint {entry.get('name')!r} cannot be made: {error}"
            ) from None


def check_indices(name: Any, kwargs: dict[str, Any], n: int) -> dict[str, Any]:
    """Return the dictionary of a constraint on ``n`` atoms.

    Raises
    ------
    DatasetError
        ASE has no such constraint, or it is on atoms that there are not.
    """
    if not _is_known(name):
        raise DatasetError(f"an unknown constraint {name!r}")
    for key in _INDICES:
        if kwargs.get(key) is None:
            continue
        indices = np.array(kwargs[key])
        if name == "Hookean" and indices.ndim:  # a point or a plane that the atom is tied to
            continue
        inside = indices.dtype.kind not in "iu" or np.all((indices >= -n) & (indices < n))
        if not inside:
            raise DatasetError(f"{name} on atoms that {n} atoms do not have")
    return {"name": name, "kwargs": kwargs}
