"""Chemical symbols to atomic numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ase_nnp.errors import DatasetError

__all__ = ["atomic_number", "atomic_numbers_of"]


def atomic_numbers_of(symbols: Iterable[str]) -> np.ndarray[Any, Any]:
    """Return the atomic numbers of symbols, (n,) int64."""
    from ase.data import atomic_numbers

    try:
        return np.array([atomic_numbers[symbol] for symbol in symbols], np.int64)
    except KeyError as error:
        raise DatasetError(f"{error.args[0]!r} is no chemical symbol") from None


def atomic_number(element: int | str) -> int:
    """Return the atomic number of a symbol or number."""
    return int(atomic_numbers_of([element])[0]) if isinstance(element, str) else int(element)
