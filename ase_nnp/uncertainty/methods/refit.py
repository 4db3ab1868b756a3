"""Errors of a model whose last layer has not seen one kind: a linear problem for each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ase_nnp.errors import UncertaintyError
from ase_nnp.models.potential import Potential
from ase_nnp.uncertainty.methods.last_layer import _locate, linear_problem, with_force_rows
from ase_nnp.uncertainty.statistics.arrays import Array

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["left_out_errors"]

RIDGE = 1e-6


def left_out_errors(
    model: Potential,
    train: Sequence[Atoms],
    kinds: NDArray[np.intp],
    noise: Mapping[str, float],
    *,
    structures: int = 32,
    seed: int = 0,
) -> tuple[Array, dict[int, Array]]:
    r"""Refit the last layer without each kind in turn and return its errors on that kind.

    With rows :math:`J` (over their noise) and residuals :math:`r` of the model, the change of the
    weights is :math:`(J^T J + \lambda)^{-1} J^T r` over the rows of the other kinds. The features
    have seen every kind, so that the errors are a lower bound of those on a new one.

    Parameters
    ----------
    model
        A potential with a linear last layer.
    train, kinds
        Labeled structures and the kind of each.
    noise
        ``{"energy": eV, "forces": eV/Angstrom}``: weights of the rows.
    structures, seed
        Structures whose force rows are taken, and the seed of their choice.

    Returns
    -------
    energies, forces
        Errors (B,) of energies, and (N, 3) of forces by number of structure.
    """
    if len(kinds) != len(train):
        raise UncertaintyError(f"{len(kinds)} kinds for {len(train)} structures.")
    layer = _locate(model, train)
    chosen = sorted(with_force_rows(train, structures if "forces" in noise else 1, seed))
    problem = linear_problem(model, layer, train, noise, chosen)

    # The structure of every row, kind by kind of label.
    owner = {"energy": np.arange(len(train))}
    if "forces" in noise:
        owner["forces"] = np.repeat(chosen, [3 * len(train[i]) for i in chosen])
    left = {name: missed.numpy().copy() for name, (_, missed) in problem.items()}
    of_kind = {name: np.asarray(kinds)[owner[name]] for name in problem}

    for kind in np.unique(kinds):
        width = next(iter(problem.values()))[0].shape[1]
        matrix = torch.zeros((width, width), dtype=torch.float64)
        vector = torch.zeros(width, dtype=torch.float64)
        for name, (rows, missed) in problem.items():
            rest = torch.as_tensor(of_kind[name] != kind)
            weight = len(train) / len(chosen) if name == "forces" else 1.0
            scaled = rows[rest] * (weight / noise[name] ** 2)
            matrix = matrix + rows[rest].T @ scaled
            vector = vector + scaled.T @ missed[rest]
        ridge = RIDGE * float(torch.trace(matrix)) / width
        step = torch.linalg.solve(matrix + ridge * torch.eye(width).to(matrix), vector)
        for name, (rows, missed) in problem.items():
            own = of_kind[name] == kind
            left[name][own] = (missed - rows @ step).numpy()[own]

    forces = {}
    if "forces" in left:
        forces = {i: left["forces"][owner["forces"] == i].reshape(-1, 3) for i in chosen}
    return left.get("energy", np.zeros(0)), forces
