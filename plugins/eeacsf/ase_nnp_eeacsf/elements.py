"""Elements by their places in the periodic table."""

from __future__ import annotations

import numpy as np

__all__ = ["FACTORS", "element_factors"]

#: Names of the factors, in the order of the columns of :func:`element_factors`.
FACTORS = ("1", "n", "m", "n'", "m'", "d", "f")
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
#: Atomic numbers from which the d and f blocks of a period fill, and how many places they have.
_D_BLOCKS = ((21, 10), (39, 10), (71, 10), (103, 10))
_F_BLOCKS = ((57, 14), (89, 14))


def element_factors() -> np.ndarray:
    """Return the factors of the elements, (119, 7), between 0 and 1; row 0 is zero.

    ``n`` is the period and ``m`` the place among the eight columns of the s and p blocks (2 in the
    d and f blocks, whose places are ``d`` and ``f``); ``n'`` and ``m'`` count from the other end.
    No two elements have the same row.
    """
    table = np.zeros((119, len(FACTORS)))
    for z in range(1, 119):
        period = int(np.searchsorted(_NOBLE, z))
        table[z] = (1, period / 7, *_columns(z, period))
    return table


def _columns(z: int, period: int) -> tuple[float, ...]:
    d = next((z - first + 1 for first, count in _D_BLOCKS if 0 <= z - first < count), 0)
    f = next((z - first + 1 for first, count in _F_BLOCKS if 0 <= z - first < count), 0)
    before, after = z - _NOBLE[period - 1], _NOBLE[period] - z
    # From the noble gas backwards there are six columns of the p block, and two of the s block
    # before all others.
    main = 2 if d or f else (8 - after if before > 2 or z == 2 else before)
    return main / 8, (8 - period) / 7, (9 - main) / 8, d / 10, f / 14
