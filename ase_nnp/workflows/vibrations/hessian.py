"""The Hessian of some atoms: exact rows by automatic differentiation, or batched displacements."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from ase_nnp.calculator.derivatives import hessian as differentiated_hessian
from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.files import load_model
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["METHODS", "double_precision", "free_atoms", "hessian"]

METHODS = ("auto", "exact", "displacements")
#: Displaced structures that are held in memory at a time.
HELD = 512


def hessian(
    atoms: Atoms,
    model: Any = None,
    *,
    free: Sequence[int] | None = None,
    method: str = "auto",
    displacement: float = 0.01,
) -> NDArray[np.float64]:
    """Return the second derivatives of the energy in the positions of the free atoms.

    Evaluated in float64 whatever the model's precision, as a difference of forces keeps three
    digits in float32.

    Parameters
    ----------
    atoms
        One structure at rest; left as it is.
    model
        Anything that :func:`~ase_nnp.load_model` takes; :func:`ase_nnp.from_ase` makes it of any
        ASE calculator.
    free
        Atoms that may move; by default all that no FixAtoms holds.
    method
        ``"exact"``: automatic differentiation of the forces, for models whose forces are the
        gradient of the energy. ``"displacements"``: central differences of the forces, two
        structures for each coordinate, evaluated in batches; any model. ``"auto"``: the first
        where the model can, else the second.
    displacement
        Angstrom, of the central differences.

    Returns
    -------
    numpy.ndarray
        (n, 3, n, 3) eV/Angstrom^2, symmetric, in the order of ``free``.

    Raises
    ------
    ConfigError
        Settings that cannot be meant.
    StructureError
        No atom is free, or a constraint holds atoms in part.
    PropertyNotImplementedError
        ``"exact"`` was asked of a model that cannot.
    """
    if method not in METHODS or not displacement > 0:
        raise ConfigError(
            f"method = {method!r}, displacement = {displacement}: one of {', '.join(METHODS)}, and "
            "a positive length in Angstrom."
        )
    potential, moving = load_model(model), free_atoms(atoms, free)

    if method != "displacements":
        try:
            rows = differentiated_hessian(potential, atoms, moving)
            square = rows.reshape(-1, len(atoms), 3)[:, moving].reshape(3 * len(moving), -1)
            return _symmetric(square, len(moving))
        except PropertyNotImplementedError:
            if method == "exact":
                raise
    return _symmetric(_by_displacements(atoms, potential, moving, displacement), len(moving))


def free_atoms(atoms: Atoms, free: Sequence[int] | None = None) -> list[int]:
    """Return the indices of the atoms that may move.

    Raises
    ------
    StructureError
        There is none, one is no atom of this structure, or atoms are held in part.
    """
    from ase.constraints import FixAtoms

    if free is not None:
        chosen = np.asarray(free)
        indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(int)
        indices = np.where(indices < 0, indices + len(atoms), indices)
        if chosen.dtype == bool and len(chosen) != len(atoms):
            raise StructureError(f"free has {len(chosen)} entries for {len(atoms)} atoms.")
    else:
        # A mode of an atom held along a line is no mode of these coordinates; ASE ignores it.
        partly = [type(c).__name__ for c in atoms.constraints if not isinstance(c, FixAtoms)]
        if partly:
            raise StructureError(
                f"{', '.join(partly)} holds atoms in part. Name the atoms that move: free=[...]."
            )
        held = [c.index for c in atoms.constraints]
        indices = np.setdiff1d(np.arange(len(atoms)), np.concatenate(held) if held else [])
    inside = (indices >= 0) & (indices < len(atoms))
    if not len(indices) or not inside.all() or len(np.unique(indices)) < len(indices):
        raise StructureError(
            f"free = {indices.tolist()} of {len(atoms)} atoms: each at most once, and at least one."
        )
    return [int(k) for k in indices]


def double_precision(model: Potential) -> Potential:
    """Return the model in float64: itself, or a copy."""
    if model.dtype == torch.float64:
        return model
    return copy.deepcopy(model).to(torch.float64)


def _by_displacements(
    atoms: Atoms, model: Potential, moving: Sequence[int], step: float
) -> NDArray[np.float64]:
    """Return central differences of the forces, (3 n, 3 n)."""
    predictor = Predictor(double_precision(model))
    rows: list[NDArray[np.float64]] = []
    displaced = _displaced(atoms, moving, step)
    while part := [one for one, _ in zip(displaced, range(HELD), strict=False)]:
        results = predictor(part, ("energy", "forces"), progress=False)
        rows += [np.asarray(r["forces"])[list(moving)].ravel() for r in results]
    forces = np.stack(rows).reshape(-1, 2, rows[0].size)
    return np.asarray((forces[:, 0] - forces[:, 1]) / (2 * step))


def _displaced(atoms: Atoms, moving: Sequence[int], step: float) -> Iterator[Atoms]:
    """Yield each coordinate moved down, then up."""
    for index in moving:
        for axis in range(3):
            for sign in (-1, 1):
                moved: Atoms = atoms.copy()
                moved.positions[index, axis] += sign * step
                yield moved


def _symmetric(square: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.asarray((square + square.T) / 2).reshape(count, 3, count, 3)
