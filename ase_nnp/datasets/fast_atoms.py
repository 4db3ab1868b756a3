"""``ase.Atoms`` with a calculator of stored results, built without the general constructors.

The constructors spend most of their time on forms of input that a sample does not have. Where the
attributes of ASE's objects are the known ones, they are set directly; any other ASE gets the
constructors. A test compares the two.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

_ATOMS = {"_cellobj", "_pbc", "arrays", "_celldisp", "_constraints", "info", "_calc"}
_CALCULATOR = {"atoms", "results", "parameters", "_directory", "prefix", "use_cache"}
_NUMBERS = frozenset(["energy", "magmom", "free_energy"])
_IDENTITY = np.arange(9).reshape(3, 3)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]  # Voigt in (3, 3)


class _Classes(NamedTuple):
    atoms: Any
    cell: Any
    calculator: Any
    fix: Any
    known: bool  # whether the attributes are those we set


@cache
def classes() -> _Classes:
    """Return ASE's classes, and whether we know how they look inside."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.cell import Cell
    from ase.constraints import FixAtoms

    atoms = Atoms("H")
    inside = set(vars(SinglePointCalculator(atoms)))
    known = (
        set(vars(atoms)) == _ATOMS
        and inside - {"get_spin_polarized"} == _CALCULATOR
        and set(vars(FixAtoms([0]))) == {"index"}
        and set(vars(Cell(np.eye(3)))) == {"array"}
    )
    return _Classes(Atoms, Cell, SinglePointCalculator, FixAtoms, known)


def voigt(stress: Array) -> Array:
    """Return xx, yy, zz, yz, xz, xy of a symmetric (3, 3) tensor."""
    return stress.ravel()[_IDENTITY]


def bare_atoms(kinds: _Classes, arrays: dict[str, Array], cell: Array, pbc: Array) -> Any:
    """Build Atoms that own copies of these arrays."""
    atoms = kinds.atoms.__new__(kinds.atoms)
    box = kinds.cell.__new__(kinds.cell)
    box.array = np.array(cell, np.float64)
    atoms.__dict__.update(
        _cellobj=box,
        _pbc=np.array(pbc),
        arrays={name: values.copy() for name, values in arrays.items()},
        _celldisp=np.zeros((3, 1)),
        _constraints=[],
        info={},
        _calc=None,
    )
    return atoms


def stored_results(kinds: _Classes, atoms: Any, results: dict[str, Any]) -> Any:
    """Build the SinglePointCalculator of ``atoms``, with a copy of it inside.

    The deprecated ``get_spin_polarized``, a method bound to the object it hangs on, is left out:
    that ring keeps each structure in memory until the garbage collector comes round.
    """
    calculator = kinds.calculator.__new__(kinds.calculator)
    calculator.__dict__.update(
        atoms=bare_atoms(kinds, atoms.arrays, atoms._cellobj.array, atoms._pbc),
        results={
            name: value if name in _NUMBERS else np.array(value, np.float64)
            for name, value in results.items()
        },
        parameters=_no_parameters(),
        _directory=".",
        prefix=None,
        use_cache=False,
    )
    return calculator


def _no_parameters() -> Any:
    from ase.calculators.calculator import Parameters

    return Parameters()


def fixed_atoms(kinds: _Classes, index: Array) -> Any:
    """Build FixAtoms for the atoms of these numbers."""
    if not kinds.known:
        return kinds.fix(indices=index)
    constraint = kinds.fix.__new__(kinds.fix)
    constraint.index = index
    return constraint
