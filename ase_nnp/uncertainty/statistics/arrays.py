"""What every function on arrays checks before it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_nnp.errors import UncertaintyError

__all__ = ["Array", "as_finite", "as_members", "as_predictions", "as_probability", "as_std"]

Array = NDArray[np.float64]


def as_finite(name: str, values: ArrayLike) -> Array:
    """Return ``values`` as float64; refuse NaN, infinities and nothing at all."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise UncertaintyError(f"{name} is empty; at least one value is needed.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise UncertaintyError(f"{name} has {bad} values that are not finite; remove them first.")
    return array


def as_std(name: str, values: ArrayLike) -> Array:
    """Return standard deviations as float64; refuse what is not positive."""
    array = as_finite(name, values)
    if not (array > 0).all():
        raise UncertaintyError(
            f"{name} has {int((array <= 0).sum())} values that are zero or negative; a standard "
            "deviation must be positive (members that agree exactly carry no information)."
        )
    return array


def as_predictions(
    y_true: ArrayLike, y_pred: ArrayLike, y_std: ArrayLike
) -> tuple[Array, Array, Array]:
    """Return the three flattened, after checking that they belong together."""
    true, pred = as_finite("y_true", y_true), as_finite("y_pred", y_pred)
    std = as_std("y_std", y_std)
    if not true.shape == pred.shape == std.shape:
        raise UncertaintyError(
            "y_true, y_pred and y_std must have one shape; "
            f"found {true.shape}, {pred.shape} and {std.shape}."
        )
    return true.ravel(), pred.ravel(), std.ravel()


def as_members(name: str, values: ArrayLike, ddof: int = 1, ndim: int | None = None) -> Array:
    """Return values of members along axis 0; refuse fewer members than ``ddof + 1``."""
    array = as_finite(name, values)
    if array.ndim == 0 or array.shape[0] < ddof + 1:
        count = array.shape[0] if array.ndim else 0
        raise UncertaintyError(
            f"{name} holds {count} members along its first axis; "
            f"a spread with ddof={ddof} needs at least {ddof + 1}."
        )
    if ndim is not None and array.ndim != ndim:
        raise UncertaintyError(f"{name} must have {ndim} axes; found shape {array.shape}.")
    return array


def as_probability(name: str, value: Any) -> float:
    """Return a number strictly between 0 and 1."""
    number = float(value)
    if not 0.0 < number < 1.0:
        raise UncertaintyError(f"{name} must lie strictly between 0 and 1; found {number}.")
    return number
