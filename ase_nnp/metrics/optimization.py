"""How far relaxations went down, in energies of an oracle: pct_T, pct_div, E_res, pct_success.

The scores of Gradual Optimization Learning (Tsypin et al., ICLR 2024, arXiv:2311.06295) for models
that relax structures: all energies are the oracle's, of the first and last structure of a
relaxation by the model and of the minimum that the oracle itself finds from the same start.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ase_nnp.errors import DatasetError
from ase_nnp.metrics._checks import numbers

__all__ = ["CHEMICAL_ACCURACY", "optimization_metrics"]

#: 1 kcal/mol, eV.
CHEMICAL_ACCURACY = 0.0433641153


def optimization_metrics(
    start: Any, end: Any, optimal: Any, within: float = CHEMICAL_ACCURACY
) -> dict[str, float]:
    r"""Return the quality of S relaxations.

    .. math:: \mathrm{pct} = 100 \, \frac{E_{start} - E_{end}}{E_{start} - E_{opt}}, \quad
              E_{res} = E_{end} - E_{opt}

    Parameters
    ----------
    start, end, optimal
        (S,) the oracle's energies of the first and last structure and of its own minimum, eV.
    within
        Of the minimum: what counts as success, eV.

    Returns
    -------
    dict
        ``pct_T``, the mean of pct, ``E_res``, the mean residual energy in eV, and ``pct_success``,
        the part with a residual below ``within``, in per cent, all three over relaxations that did
        not diverge; ``pct_div``, the part that did: it ended higher than it began. NaN for a mean
        over none.

    Raises
    ------
    DatasetError
        Shapes that differ, numbers that are not finite, or a minimum above its start.

    Examples
    --------
    >>> optimization_metrics([2.0, 1.0], [1.0, 1.5], [0.0, 0.0])["pct_T"]
    50.0
    """
    first = numbers("start", start, (-1,), DatasetError)
    last = numbers("end", end, first.shape, DatasetError)
    best = numbers("optimal", optimal, first.shape, DatasetError)
    if (best >= first).any():
        number = int(np.flatnonzero(best >= first)[0])
        raise DatasetError(
            f"optimal[{number}] is {best[number]:.6g} eV and the start {first[number]:.6g} eV: the "
            "minimum that the oracle finds must be below."
        )

    # A diverged relaxation has no meaningful part of the way down; it is counted instead.
    diverged = last > first
    kept = ~diverged
    residual = (last - best)[kept]
    part = 100 * ((first - last) / (first - best))[kept]
    return {
        "pct_T": _mean(part),
        "pct_div": 100 * _mean(diverged),
        "E_res": _mean(residual),
        "pct_success": 100 * _mean(residual < within),
    }


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
