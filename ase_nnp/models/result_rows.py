"""Results of a batch, array by array, to one dictionary a structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.datasets.labels import may_be_infinite
from ase_nnp.errors import PredictionError
from ase_nnp.models.potential import Potential
from ase_nnp.models.structures import has_volume, name_of
from ase_nnp.models.sums import Sum

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["split_rows"]


def split_rows(
    arrays: dict[str, np.ndarray], atoms: Sequence[Atoms], model: Potential, first: int
) -> list[dict[str, Any]]:
    """Return each structure's share of every array, checked to be finite numbers.

    Parameters
    ----------
    arrays
        By property: one row an atom or one a structure.
    atoms
        The structures of the batch, in order.
    model
        Says which properties are by atom, and along which axis.
    first
        Number of the first structure, for errors.

    Raises
    ------
    PredictionError
        An array of another length, or a value that is not finite.
    """
    sizes = [len(a) for a in atoms]
    ends = np.cumsum([0, *sizes])
    rows: list[dict[str, Any]] = [{} for _ in atoms]

    for name, array in arrays.items():
        axis = model.row_axis.get(name, 0)
        want = ends[-1] if name in model.per_atom else len(atoms)
        if array.shape[axis : axis + 1] != (want,):
            raise PredictionError(
                f"'{name}' has shape {array.shape}; its axis {axis} should be {want} "
                f"({len(atoms)} structures with {ends[-1]} atoms)."
            )
        for k, one in enumerate(atoms):
            # With take, rows of any axis come out the same way: members of an ensemble stand first.
            rows_of_one = np.arange(ends[k], ends[k + 1]) if name in model.per_atom else k
            value = array.take(rows_of_one, axis=axis)
            if name.startswith("stress") and not has_volume(one):
                continue

            # Some may be infinite, none may be NaN.
            unbounded = may_be_infinite(name)
            if np.isnan(value).any() or not (unbounded or np.isfinite(value).all()):
                raise PredictionError(
                    f"'{name}' of structure {first + k} ({name_of(one)}) is not "
                    f"finite{_in_which_term(model, one)}. Are atoms on top of each other, or "
                    "positions very large?"
                )
            rows[k][name] = value.item() if value.ndim == 0 else value.copy()
    return rows


def _in_which_term(model: Potential, atoms: Atoms) -> str:
    """Name the first term of a sum that is not finite by itself; nothing for other potentials."""
    if not isinstance(model, Sum):
        return ""
    for _, name, _, term in model.terms():
        wanted = {"energy", "forces"} & set(term.outputs)
        results = term.compute(term.make_graph([atoms]), wanted)
        if not all(bool(results[key].isfinite().all()) for key in wanted):
            return f" in the term '{name}'"
    return ""
