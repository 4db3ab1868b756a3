"""Checks of what is handed to a metric; numbers that are no numbers never enter a sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import DatasetError, PredictionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def numbers(name: str, values: Any, shape: tuple[int, ...], error: type[Exception]) -> Floats:
    """Return ``values`` as float64 of ``shape`` (-1 is any length); refuse NaN and infinity."""
    array = np.asarray(values, dtype=np.float64)
    if shape == (-1,) and array.ndim == 0:
        array = array.reshape(1)
    fits = array.ndim == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join("any" if n < 0 else str(n) for n in shape) + ")"
        raise error(f"{name} has shape {array.shape}, wanted {wanted}")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
        raise error(f"{name}[{bad}] is not finite")
    return array


def pair(name: str, pred: Any, target: Any, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return prediction and target of one shape, both finite."""
    true = numbers(f"{name}_target", target, shape, DatasetError)
    return numbers(f"{name}_pred", pred, true.shape, PredictionError), true


def counts(natoms: Any, total: int | None = None) -> NDArray[np.int64]:
    """Return the atom counts (S,); their sum must be ``total``."""
    array = np.atleast_1d(np.asarray(natoms))
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise DatasetError(f"natoms must be a list of integers, not {array.dtype} {array.shape}")
    if (array < 0).any():
        raise DatasetError(f"natoms holds {array.min()}; a count is never negative")
    if total is not None and int(array.sum()) != total:
        raise DatasetError(f"natoms sums to {int(array.sum())}, but there are {total} atoms")
    return array.astype(np.int64)


def free_mask(fixed: Any, natoms: int) -> NDArray[np.bool_]:
    """Return True where an atom may move; ``fixed`` (N,) is 0/1 or None for all free."""
    if fixed is None:
        return np.ones(natoms, dtype=bool)
    array = np.asarray(fixed)
    if array.shape != (natoms,):
        raise DatasetError(f"fixed has shape {array.shape}, wanted ({natoms},)")
    return np.asarray(array == 0)


def ratio(total: float, count: float) -> float:
    """Return ``total / count``; NaN when nothing was counted."""
    return total / count if count else float("nan")
