"""Flagged structures that a number rests on, through sums, differences and functions.

A structure that is taken away again counts no longer, as its error does not: flags carry the
factor with which the structure's energy stands in the number.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Flag", "Flags", "added", "flag_of", "scaled", "through_a_function"]

#: Factors below this are what rounding leaves of zero.
NOTHING = 1e-9


@dataclass(frozen=True)
class Flag:
    """One model's flag on one structure.

    Attributes
    ----------
    name
        The structure's formula.
    key
        Tells models and structures apart, also those of another process.
    """

    name: str
    key: str = field(repr=False)


#: By flag, the factor of the structure's energy.
Flags = Mapping[Flag, float]


def flag_of(model: str, atoms: Atoms) -> Flag:
    """Return the flag that a model, known by a key, raises on a structure."""
    content = hashlib.sha256(model.encode())
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
        content.update(np.ascontiguousarray(array).tobytes())
    return Flag(str(atoms.get_chemical_formula()), content.hexdigest())


def added(one: Flags, other: Flags) -> Flags:
    """Return the flags of a sum."""
    if not one or not other:
        return one or other
    total = {flag: one.get(flag, 0.0) + other.get(flag, 0.0) for flag in {**one, **other}}
    # Not "above": what stands in a function counts without end, and less itself is NaN.
    return {flag: factor for flag, factor in total.items() if not abs(factor) < NOTHING}


def scaled(flags: Flags, factor: float) -> Flags:
    """Return the flags of a multiple."""
    return {flag: factor * own for flag, own in flags.items()} if flags and factor else {}


def through_a_function(flags: Iterable[Flags]) -> Flags:
    """Return the flags of any function: those of all its arguments, which no sum takes away.

    Of a maximum too: had a flagged argument another value, another one might be the largest.
    """
    return {flag: math.inf for one in flags for flag in one}
