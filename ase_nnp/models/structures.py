"""ase.Atoms on their way into a model and back: what is taken, refused, named and rebuilt."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import StructureError, UnsupportedElementError
from ase_nnp.models.lattice import is_flat

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.graph import AtomGraph

__all__ = [
    "arrays_of",
    "as_atoms",
    "check_numbers",
    "has_volume",
    "name_of",
    "structures_of",
    "warn_of_charge",
    "with_labels",
]


def as_atoms(structure: Any) -> Atoms:
    """Return ``structure`` as ase.Atoms; a pymatgen Structure or Molecule is converted."""
    if hasattr(structure, "get_positions"):
        return structure  # type: ignore[no-any-return]
    if hasattr(structure, "to_ase_atoms"):
        if not getattr(structure, "is_ordered", True):
            raise StructureError(
                "The pymatgen structure has partly occupied sites. Make an ordered structure of "
                "it first (pymatgen.transformations offers several ways)."
            )
        return structure.to_ase_atoms(msonable=False)  # type: ignore[no-any-return]
    raise StructureError(
        f"An ase.Atoms or a pymatgen structure was expected, not {type(structure).__name__}."
    )


def has_volume(atoms: Atoms) -> bool:
    """Whether a stress has a meaning: three lattice vectors that span a volume, periodic or not.

    So do ASE's own calculators (EMT, LennardJones, Tersoff) for a molecule in a box.
    """
    # ASE's rank counts vectors that are not zero; three of them may still lie in a plane.
    return bool(atoms.cell.rank == 3) and not is_flat(atoms.cell.array)


def symbol_of(number: int) -> str:
    """Return the chemical symbol of an atomic number, or say that there is none."""
    from ase.data import chemical_symbols

    known = 1 <= number < len(chemical_symbols)
    return chemical_symbols[number] if known else f"atomic number {number}"


def name_of(atoms: Atoms) -> str:
    """Return how messages call a structure: its formula, also where a number has no symbol."""
    unknown = sorted({int(z) for z in atoms.numbers if symbol_of(int(z)).startswith("atomic")})
    if unknown:
        return f"{len(atoms)} atoms, among them {', '.join(map(symbol_of, unknown))}"
    return str(atoms.get_chemical_formula())


def check_numbers(
    atoms: Atoms, elements: frozenset[int] | None = None, model: str = "the model"
) -> None:
    """Refuse atomic numbers that name no element, or none of ``elements``.

    Raises
    ------
    UnsupportedElementError
        Naming what the structure contains and what the model knows.
    """
    numbers = atoms.numbers
    if elements is None and numbers.min(initial=1) >= 1 and numbers.max(initial=1) <= 118:
        return

    present = set(np.unique(numbers).tolist())
    allowed = frozenset(range(1, 119)) if elements is None else elements
    strange = sorted(present - allowed)
    if not strange:
        return
    known = "any of H to Og" if elements is None else ", ".join(map(symbol_of, sorted(elements)))
    raise UnsupportedElementError(
        f"{name_of(atoms)} contains {', '.join(map(symbol_of, strange))}, which {model} was not "
        f"made for. It knows: {known}."
    )


def arrays_of(
    atoms: Atoms, inputs: Collection[str], pbc: Sequence[bool] | None = None
) -> dict[str, np.ndarray]:
    """Return what a graph takes of one structure, as arrays in float64 and int64.

    Parameters
    ----------
    atoms
        Left as they are.
    inputs
        Of ``charge`` and ``spin``, those to take from ``atoms.info``; the others are 0, whatever
        stands there.
    pbc
        Instead of the structure's own flags.

    Raises
    ------
    StructureError
        No atoms, positions that are not finite, or an input that is not a number;
        UnsupportedElementError for numbers that name no element.
    """
    from ase.constraints import FixAtoms

    positions = np.array(atoms.positions, dtype=np.float64)
    if len(positions) == 0:
        raise StructureError("The structure has no atoms.")
    check_numbers(atoms)
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise StructureError(
            f"Atom {bad} ({atoms.symbols[bad]}) is at {positions[bad].tolist()}: "
            "positions must be finite numbers."
        )

    fixed = np.zeros(len(positions), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True

    return {
        "atomic_numbers": np.array(atoms.numbers, dtype=np.int64),
        "positions": positions,
        "cell": np.array(atoms.cell, dtype=np.float64),
        "pbc": np.array(atoms.pbc if pbc is None else pbc, dtype=bool),
        "tags": np.array(atoms.get_tags(), dtype=np.int64),
        "fixed": fixed,
        "charge": np.array([_number(atoms.info, "charge") if "charge" in inputs else 0.0]),
        "spin": np.array([_number(atoms.info, "spin") if "spin" in inputs else 0.0]),
    }


def warn_of_charge(atoms: Atoms, inputs: Collection[str]) -> None:
    """Say where a charge counts for nothing: an ion would pass for a neutral molecule.

    Parameters
    ----------
    atoms
        Left as they are.
    inputs
        What the model reads beside geometry, as :attr:`Potential.required_inputs` names it.
    """
    if "charge" in inputs or "initial_charges" in inputs:
        return
    given = atoms.info.get("charge")
    total: Any = atoms.get_initial_charges().sum() if given is None else given
    if not isinstance(total, (int, float, np.number)):
        return  # a graph that reads it says what is wrong
    charge = float(total)
    # Partial charges of atoms need not add up; an ion's do, to a whole number.
    if 0.5 < abs(charge) < 1e6 and abs(charge - round(charge)) < 1e-6:
        # One text for all, so that a set of ions is warned of once.
        warnings.warn(
            "A structure has a charge (atoms.info['charge'], or initial charges of its atoms), and "
            "this model takes none: its results are those without one.",
            stacklevel=2,
        )


def _number(info: Mapping[str, Any], key: str) -> float:
    value = info.get(key)
    try:
        return 0.0 if value is None else float(value)
    except (TypeError, ValueError):
        raise StructureError(f"atoms.info[{key!r}] is {value!r}; it must be a number.") from None


def structures_of(graph: AtomGraph, inputs: Collection[str] | None = None) -> list[Atoms]:
    """Return the batch as fresh ase.Atoms.

    Parameters
    ----------
    graph
        Any batch.
    inputs
        What to hand on beside geometry, of ``charge``, ``spin`` (into ``atoms.info``, whole
        numbers as int), ``tags``, ``fixed`` and the per-atom arrays of ``graph.extra``; by default
        the first four.
    """
    from ase import Atoms
    from ase.constraints import FixAtoms

    wanted = ("tags", "fixed", "charge", "spin") if inputs is None else tuple(inputs)
    ends = np.cumsum(graph.atoms_per_structure().cpu().numpy()).tolist()
    arrays = {
        name: getattr(graph, name).detach().cpu().numpy()
        for name in ("atomic_numbers", "positions", "cell", "pbc", *wanted)
        if getattr(graph, name, None) is not None
    }
    extra = {name: graph.extra[name].cpu().numpy() for name in wanted if name in graph.extra}

    rebuilt = []
    for b, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        own = slice(first, last)
        atoms = Atoms(
            arrays["atomic_numbers"][own],
            arrays["positions"][own].astype(np.float64),
            cell=arrays["cell"][b].astype(np.float64),
            pbc=arrays["pbc"][b],
        )
        if "tags" in arrays:
            atoms.set_tags(arrays["tags"][own])
        if "fixed" in arrays and arrays["fixed"][own].any():
            atoms.set_constraint(FixAtoms(mask=arrays["fixed"][own]))
        for name in ("charge", "spin"):
            if name in arrays:
                number = float(arrays[name][b])
                atoms.info[name] = int(number) if number.is_integer() else number
        for name, values in extra.items():
            atoms.set_array(name, values[own])
        rebuilt.append(atoms)
    return rebuilt


def with_labels(atoms: Atoms, results: Mapping[str, Any]) -> Atoms:
    """Attach the energy, forces and stress among ``results`` as stored labels; returns ``atoms``.

    Other names are left out, which ASE's SinglePointCalculator refuses. The stress may have shape
    (3, 3) or (6,); ASE holds (6,).
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    labels = {k: results[k] for k in ("energy", "forces", "stress") if k in results}
    if "stress" in labels and np.ndim(labels["stress"]) == 2:
        labels["stress"] = full_3x3_to_voigt_6_stress(labels["stress"])
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms
