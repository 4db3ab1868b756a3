r"""Error bars that grow with novelty: widths as a monotone function of several signs.

.. math:: \log \sigma = c_g + \sum_j p_j \log x_j, \qquad p_j \ge 0

for signs such as the distance from the training atoms, a committee's spread and the size of the
force. With one sign, a power law of the distance; beyond the data it goes on growing. Fitted by the
Gaussian likelihood (a standard deviation) or the pinball loss (a quantile of the error, the half
width of an interval); both are convex here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import Array, as_finite, as_probability

__all__ = ["LogLinearWidth", "fit_log_linear"]

#: Weight of squared differences between groups, in units of one observation a value.
SHRINK = 1e-3
#: Observations that the prior on the powers is worth; it decides only where data do not.
PRIOR = 5.0
#: The corner of the pinball loss is rounded over this much of a factor e.
ROUND = 0.05


@dataclass(frozen=True)
class LogLinearWidth:
    """A width that rises with every sign.

    Attributes
    ----------
    slopes
        (d,) powers of the signs, none negative.
    intercept
        Of the logarithm, for groups without one of their own.
    groups
        Differences from ``intercept`` by group, such as the atomic number.
    sources
        Differences of the level in observations of other sources, as fitted; not used for widths.
    """

    slopes: Array
    intercept: float
    groups: Mapping[int, float] = field(default_factory=dict)
    sources: Mapping[int, float] = field(default_factory=dict)

    def __call__(self, signs: ArrayLike, groups: ArrayLike | None = None) -> Array:
        """Widths (n,) for logarithms of signs (n, d)."""
        value = self.intercept + np.asarray(signs, dtype=np.float64) @ self.slopes
        if groups is not None:
            value = value + np.array([self.groups.get(int(g), 0.0) for g in np.asarray(groups)])
        return np.exp(value)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "slopes": self.slopes.tolist(),
            "intercept": self.intercept,
            "groups": {str(k): v for k, v in self.groups.items()},
            "sources": {str(k): v for k, v in self.sources.items()},
        }

    def scaled(self, factor: float) -> LogLinearWidth:
        """All widths times ``factor``."""
        return replace(self, intercept=self.intercept + float(np.log(max(factor, 1e-12))))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LogLinearWidth:
        """Read what :meth:`to_json` wrote."""
        tables = ({int(k): float(v) for k, v in data[t].items()} for t in ("groups", "sources"))
        return cls(np.asarray(data["slopes"], dtype=np.float64), data["intercept"], *tables)


def fit_log_linear(
    errors: ArrayLike,
    signs: ArrayLike,
    groups: ArrayLike | None = None,
    sources: ArrayLike | None = None,
    *,
    loss: Literal["likelihood", "quantile"] = "likelihood",
    coverage: float = 0.9,
    prior: float | Sequence[float] = 0.0,
    strength: float | None = None,
) -> LogLinearWidth:
    """Fit powers that are common to all, and a level for each group and source.

    Parameters
    ----------
    errors
        (n,) or (n, c) errors; the c components of a row share their width.
    signs
        (n, d) logarithms of signs.
    groups
        (n,) integers, such as atomic numbers.
    sources
        (n,) integers. Source 0 sets the level; others (errors of a cheap refit, which knows more
        than a model that never saw the kind) have a level of their own and teach the powers.
    loss
        ``"likelihood"``: the width is a standard deviation. ``"quantile"``: it holds the part
        ``coverage`` of |errors|, at every value of the signs.
    coverage
        Of a quantile.
    prior
        Power that few observations are drawn to, with the weight of ``PRIOR`` of them; or (d,)
        one for each sign.
    strength
        Weight of the prior for each observation, instead of ``PRIOR`` in all: however many there
        are, they move a power from it only as far as their signs vary, by a factor e or more.

    Raises
    ------
    UncertaintyError
        No observation of source 0, or all errors are zero.
    """
    error = np.abs(as_finite("errors", errors))
    error = error.reshape(len(error), -1)
    rows = as_finite("signs", signs)
    if rows.ndim != 2 or len(rows) != len(error):
        raise UncertaintyError(f"{len(error)} errors for signs of shape {rows.shape}.")
    if not error.any():
        raise UncertaintyError("All errors are zero; there is no width to fit.")
    source = np.zeros(len(rows), int) if sources is None else np.asarray(sources).astype(int)
    if not (source == 0).any():
        raise UncertaintyError("No observation is of source 0, which sets the level.")

    # Columns of about unit size, so that one penalty suits all.
    middle, spread = rows.mean(axis=0), rows.std(axis=0)
    moving = spread > 1e-9
    scaled = np.where(moving, (rows - middle) / np.where(moving, spread, 1.0), 0.0)
    group_names, group_rows = _columns(groups, len(rows), skip=None)
    source_names, source_rows = _columns(source, len(rows), skip=0)
    design = np.hstack([scaled, np.ones((len(rows), 1)), group_rows, source_rows])

    # A few exact predictions must not drag the logarithm.
    floor = 1e-3 * float(np.sqrt((error**2).mean()))
    log_error = np.log(np.maximum(error, floor))
    value = _likelihood if loss == "likelihood" else _pinball(as_probability("coverage", coverage))

    width = rows.shape[1]
    penalty = np.zeros(design.shape[1])
    penalty[width + 1 : width + 1 + len(group_names)] = SHRINK
    weight = PRIOR / len(rows) if strength is None else strength
    penalty[:width] = weight / np.where(moving, spread, 1.0) ** 2
    aim = np.zeros(design.shape[1])
    aim[:width] = np.asarray(prior) * spread

    def objective(theta: Array) -> tuple[float, Array]:
        cost, slope = value(log_error, design @ theta)
        gap = theta - aim
        total = float(cost.mean() + (penalty * gap**2).sum())
        return total, design.T @ slope / len(rows) + 2 * penalty * gap

    start = np.zeros(design.shape[1])
    start[:width] = aim[:width]
    start[width] = float(log_error.mean())
    bounds = [(0, None)] * width + [(None, None)] * (design.shape[1] - width)
    settings = {"maxiter": 2000, "ftol": 1e-13, "gtol": 1e-9}

    # Convex, so that one start is enough.
    theta = optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=settings
    ).x

    slopes = np.where(moving, theta[:width] / np.where(moving, spread, 1.0), 0.0)
    first = width + 1
    return LogLinearWidth(
        slopes,
        float(theta[width] - slopes @ middle),
        dict(zip(group_names, theta[first:].tolist(), strict=False)),
        dict(zip(source_names, theta[first + len(group_names) :].tolist(), strict=True)),
    )


def _columns(labels: ArrayLike | None, count: int, skip: int | None) -> tuple[list[int], Array]:
    """Names of groups, and a column (n,) of zeros and ones for each."""
    if labels is None:
        return [], np.zeros((count, 0))
    label = np.asarray(labels).astype(int)
    names = [int(k) for k in np.unique(label) if k != skip]
    return names, np.array([label == k for k in names], dtype=float).reshape(-1, count).T


def _likelihood(log_error: Array, log_width: Array) -> tuple[Array, Array]:
    """Negative Gaussian log likelihood of rows, and its slope in the log width."""
    gap = np.clip(2 * (log_error - log_width[:, None]), None, 60)
    square = np.exp(gap)
    return log_width + square.mean(axis=1) / 2, 1 - square.mean(axis=1)


def _pinball(coverage: float) -> Any:
    """Pinball loss of the logarithm: quantiles are kept by any rising map."""

    def value(log_error: Array, log_width: Array) -> tuple[Array, Array]:
        gap = log_error - log_width[:, None]
        soft = ROUND * np.logaddexp(0, gap / ROUND)
        above: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(gap / ROUND, -60, 60)))
        cost = (soft - (1 - coverage) * gap).mean(axis=1)
        return cost, ((1 - coverage) - above).mean(axis=1)

    return value
