"""One structure with its labels as plain arrays, its checks, and the way to ``ase.Atoms``.

A *sample* is a dict. Always there: ``atomic_numbers`` (N,) int64, ``positions`` (N, 3) Angstrom,
``cell`` (3, 3) with lattice vectors in rows, ``pbc`` (3,) bool and ``info`` (a dict). Where known:

=============================  ==================================================================
``tags``                       (N,) int64: 0 slab below, 1 surface, 2 adsorbate, 3 solvent
``fixed``                      (N,) bool, atoms held by FixAtoms
``energy``                     float, eV; what it is stands in ``info["energy_kind"]``
``forces``                     (N, 3) eV/Angstrom, raw: not projected by constraints
``stress``                     (3, 3) eV/Angstrom^3, ASE's sign
``results``                    further results of ASE's list (dipole, magmoms, charges, free_energy)
``edge_index``                 (2, E) int64, [source j, target i]
``edge_shift``                 (E, 3) int64 lattice shifts S: r_ij = r_j + S @ cell - r_i
``edge_distance``              (E,) Angstrom
``arrays``                     further per-atom arrays of ``ase.Atoms`` (momenta, initial_magmoms)
``constraints``                other constraints, as ASE dicts
``remarks``                    what became of fields that are not kept, by name
=============================  ==================================================================

``info`` holds ``sid``, ``fid``, ``y_init``, ``y_relaxed``, ``pos_relaxed`` (N, 3),
``reference_energy``, ``charge``, ``spin`` and whatever else the file says of the structure.
Arrays may be read-only views in the precision of the file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets import fast_atoms
from ase_nnp.datasets.constraints import describe, rebuild
from ase_nnp.datasets.labels import may_be_infinite
from ase_nnp.errors import DatasetError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Sample", "check_sample", "from_atoms", "refuse_shared_sites", "to_atoms"]

Sample = dict[str, Any]
Array = np.ndarray[Any, Any]

_PARTIAL = 1e-3  # off a whole occupancy
_FLATNESS = 1e-5  # volume of the periodic vectors over the product of their lengths


def _finite(values: Array) -> bool:
    if values.dtype.kind != "f":
        return values.dtype.kind in "iu"
    # Half the time of isfinite().all(), which counts for records of few atoms.
    return bool(np.count_nonzero(np.isfinite(values)) == values.size)


def _vectors(sample: Sample, name: str, n: int) -> None:
    values = sample[name]
    if values.shape != (n, 3):
        raise DatasetError(f"{name} of shape {values.shape} for {n} atoms")
    if not _finite(values):
        raise DatasetError(f"{name} with values that are not finite numbers")


def _numbers(values: Array) -> Array:
    if values.ndim != 1 or not values.size:
        raise DatasetError(
            "no atoms" if not values.size else f"atomic numbers of shape {values.shape}"
        )
    if values.dtype.kind not in "iuf":
        raise DatasetError(f"atomic numbers of type {values.dtype}")

    low, high = np.minimum.reduce(values), np.maximum.reduce(values)
    if not (low >= 1 and high <= 118):
        raise DatasetError(f"atomic numbers from {low:g} to {high:g}; they must be 1 to 118")
    if values.dtype == np.int64:
        return values
    whole = values.astype(np.int64)
    if values.dtype.kind == "f" and np.count_nonzero(whole != values):
        raise DatasetError("atomic numbers that are no whole numbers")
    return whole


def _cell(cell: Array, pbc: list[bool]) -> None:
    if cell.shape != (3, 3):
        raise DatasetError(f"a cell of shape {cell.shape}")
    a, b, c = rows = cell.tolist()
    if not math.isfinite(sum(a) + sum(b) + sum(c)):
        raise DatasetError("a cell with values that are not finite numbers")

    periodic = rows if all(pbc) else [row for row, on in zip(rows, pbc, strict=True) if on]
    lengths = [math.hypot(*row) for row in periodic]
    if periodic and min(lengths) < 1e-6:
        raise DatasetError("a periodic direction without a lattice vector")

    if len(periodic) > 1:
        (a1, a2, a3), (b1, b2, b3) = periodic[:2]
        n1, n2, n3 = a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1
        if len(periodic) == 3:
            volume = abs(n1 * c[0] + n2 * c[1] + n3 * c[2])
        else:
            volume = math.hypot(n1, n2, n3)
        if not volume > _FLATNESS * math.prod(lengths):
            raise DatasetError("a singular cell: its periodic vectors span no volume")


def check_sample(sample: Sample) -> Sample:
    """Refuse what cannot be meant; returns the sample with checked, usual types.

    Raises
    ------
    DatasetError
        Without file and record, which the dataset adds.
    """
    sample["atomic_numbers"] = _numbers(sample["atomic_numbers"])
    n = len(sample["atomic_numbers"])
    _vectors(sample, "positions", n)
    _cell(sample["cell"], sample["pbc"].tolist())
    if "forces" in sample:
        _vectors(sample, "forces", n)

    for name in ("tags", "fixed"):
        if name in sample and sample[name].shape != (n,):
            raise DatasetError(f"{name} of shape {sample[name].shape} for {n} atoms")
    if "energy" in sample and not math.isfinite(sample["energy"]):
        raise DatasetError(f"an energy of {sample['energy']}")
    if "stress" in sample and not _finite(sample["stress"]):
        raise DatasetError("stress with values that are not finite numbers")
    for name, value in sample["results"].items() if "results" in sample else ():
        _result(name, value)
    if "edge_index" in sample:
        _edges(sample, n)
    if "occupancy" in sample["info"]:
        refuse_shared_sites(sample["info"])
    return sample


def _result(name: str, value: Any) -> None:
    """Refuse a further label that is not finite; what is no number is no label."""
    if not isinstance(value, (np.ndarray, np.generic)):
        try:
            value = np.asarray(value)
        except ValueError:  # a ragged list
            return
    if value.dtype.kind not in "fc" or np.isfinite(value).all():
        return
    if not may_be_infinite(name) or np.isnan(value).any():
        if value.ndim == 0:
            raise DatasetError(f"{name} is {value}, no finite number")
        raise DatasetError(f"{name} with values that are not finite numbers")


def refuse_shared_sites(info: dict[Any, Any]) -> None:
    """Refuse what ASE says of a disordered crystal in ``info``, whatever file it travels in.

    Raises
    ------
    DatasetError
        Naming the first site that is empty in part or shared by elements.
    """
    described = info.get("occupancy")
    for site, shares in described.items() if isinstance(described, dict) else ():
        if isinstance(shares, dict) and (
            len(shares) > 1 or any(abs(float(share) - 1) > _PARTIAL for share in shares.values())
        ):
            raise DatasetError(f"a disordered site {site} ({shares}); whole atoms are wanted")


def _edges(sample: Sample, n: int) -> None:
    edges = sample["edge_index"]
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "iu":
        raise DatasetError(f"edge_index of shape {edges.shape} and type {edges.dtype}")
    if edges.size and not (edges.min() >= 0 and edges.max() < n):
        raise DatasetError(f"edge_index refers to atoms that {n} atoms do not have")
    for name, shape in (("edge_shift", (edges.shape[1], 3)), ("edge_distance", edges.shape[1:])):
        if name in sample and sample[name].shape != shape:
            raise DatasetError(f"{name} of shape {sample[name].shape} for {edges.shape[1]} edges")


def to_atoms(sample: Sample) -> Atoms:
    """Build ``ase.Atoms`` with labels in a SinglePointCalculator; copies all arrays."""
    kinds = fast_atoms.classes()
    results = dict(sample["results"]) if "results" in sample else {}
    for name in ("energy", "forces"):
        if name in sample:
            results[name] = sample[name]
    if "stress" in sample:
        results["stress"] = fast_atoms.voigt(sample["stress"])

    constraints = list(rebuild(sample["constraints"])) if "constraints" in sample else []
    make = _known_atoms if kinds.known else _any_atoms
    atoms = make(kinds, sample, results)
    fixed = sample.get("fixed")
    held = fixed.nonzero()[0] if fixed is not None else None
    if held is not None and held.size:
        constraints.insert(0, fast_atoms.fixed_atoms(kinds, held))
    if constraints:
        atoms.set_constraint(constraints)
    atoms.info = dict(sample["info"])
    return atoms  # type: ignore[no-any-return]


def _known_atoms(kinds: Any, sample: Sample, results: dict[str, Any]) -> Any:
    numbers = sample["atomic_numbers"]
    arrays = {"numbers": numbers, "positions": sample["positions"].astype(np.float64, copy=False)}
    tags = sample.get("tags")
    if tags is not None:
        arrays["tags"] = tags
    for name, values in sample["arrays"].items() if "arrays" in sample else ():
        if len(values) != len(numbers):
            raise DatasetError(f"{name} of shape {values.shape} for {len(numbers)} atoms")
        arrays[name] = np.asarray(values)
    atoms = fast_atoms.bare_atoms(kinds, arrays, sample["cell"], sample["pbc"])
    if results:
        atoms._calc = fast_atoms.stored_results(kinds, atoms, results)
    return atoms


def _any_atoms(kinds: Any, sample: Sample, results: dict[str, Any]) -> Any:
    atoms = kinds.atoms(
        numbers=sample["atomic_numbers"],
        positions=sample["positions"],
        cell=sample["cell"],
        pbc=sample["pbc"],
        tags=sample.get("tags"),
    )
    for name, values in sample.get("arrays", {}).items():
        atoms.set_array(name, values)
    if results:
        atoms.calc = kinds.calculator(atoms, **results)
    return atoms


def from_atoms(atoms: Atoms) -> Sample:
    """Return the sample of an ``Atoms``, as it would come from a file."""
    from ase.constraints import FixAtoms
    from ase.stress import voigt_6_to_full_3x3_stress

    sample: Sample = {
        "atomic_numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": np.asarray(atoms.cell),
        "pbc": np.asarray(atoms.pbc, bool),
        "info": dict(atoms.info),
    }
    arrays = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    if "tags" in arrays:
        sample["tags"] = arrays.pop("tags")
    if arrays:
        sample["arrays"] = arrays
    fixed = np.zeros(len(atoms), bool)
    others, remarks = [], {}
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
        elif (described := describe(constraint)) is not None:
            others.append(described)
        else:
            name = f"constraint {type(constraint).__name__}"
            remarks[name] = "is left out (no file can describe it)"
    if fixed.any():
        sample["fixed"] = fixed
    if others:
        sample["constraints"] = others
    if remarks:
        sample["remarks"] = remarks
    results = dict(getattr(atoms.calc, "results", None) or {})
    for name in ("energy", "forces"):
        if results.get(name) is not None:
            sample[name] = float(results[name]) if name == "energy" else np.asarray(results[name])
        results.pop(name, None)
    stress = results.pop("stress", None)
    if stress is not None:
        stress = np.asarray(stress, float)
        sample["stress"] = stress if stress.size == 9 else voigt_6_to_full_3x3_stress(stress)
    results = {name: value for name, value in results.items() if value is not None}
    if results:
        sample["results"] = results
    return sample
