"""Statistics of numbers that come one batch at a time, in fixed memory and mergeable."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ElementFit", "Histogram", "Moments"]

Array = np.ndarray[Any, Any]


@dataclass
class Moments:
    """Count, mean, variance and range by the parallel form of Welford's update.

    Chan, Golub, LeVeque (1983), doi:10.1080/00031305.1983.10483115. Stable for numbers far from
    zero with a small spread, such as total energies.
    """

    count: int = 0
    mean: float = 0.0
    square: float = 0.0
    """Sum of squared deviations from the mean."""
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: Any) -> None:
        """Add numbers of any shape."""
        array = np.asarray(values, dtype=np.float64).ravel()
        if array.size:
            mean = float(array.mean())
            square = float(((array - mean) ** 2).sum())
            self.merge(Moments(array.size, mean, square, float(array.min()), float(array.max())))

    def merge(self, other: Moments) -> Moments:
        """Add what another stream saw; returns self."""
        count = self.count + other.count
        if other.count:
            # Means of parts, not sums of squares: those cancel where energies are large and close.
            step = other.mean - self.mean
            self.mean += step * (other.count / count)
            self.square += other.square + step * step * (self.count * other.count / count)
            self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.count = count
        return self

    @property
    def std(self) -> float:
        """Standard deviation of the numbers seen (divided by the count, not count - 1)."""
        return math.sqrt(self.square / self.count) if self.count else math.nan

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return math.hypot(self.std, self.mean) if self.count else math.nan

    def as_dict(self) -> dict[str, float | int | None]:
        """Return count, mean, std, rms, min and max; None where nothing was seen."""
        if not self.count:
            return {"count": 0, "mean": None, "std": None, "rms": None, "min": None, "max": None}
        return {
            "count": self.count,
            "mean": self.mean,
            "std": self.std,
            "rms": self.rms,
            "min": self.low,
            "max": self.high,
        }


@dataclass
class Histogram:
    """Exact counts in bins whose width doubles when the range outgrows ``limit`` bins.

    Bins are ``[k w, (k + 1) w)`` for whole k, so histograms of parts add up to that of the whole.
    """

    width: float = 2.0**-10
    limit: int = 400
    bins: dict[int, int] = field(default_factory=dict)

    def add(self, values: Any) -> None:
        """Count numbers of any shape."""
        array = np.asarray(values, dtype=np.float64).ravel()
        if not array.size:
            return
        span = max(float(np.ptp(array)), 1e-300)
        while span / self.width > 4 * self.limit:  # before numbers become too many bins
            self._double()
        keys, counts = np.unique(np.floor(array / self.width).astype(np.int64), return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            self.bins[key] = self.bins.get(key, 0) + count
        self._shrink()

    def _double(self) -> None:
        merged: dict[int, int] = {}
        # Floor division also pairs negative bins as their edges lie.
        for key, count in self.bins.items():
            merged[key // 2] = merged.get(key // 2, 0) + count
        self.bins, self.width = merged, 2 * self.width

    def _shrink(self) -> None:
        while self.bins and max(self.bins) - min(self.bins) >= self.limit:
            self._double()

    def merge(self, other: Histogram) -> Histogram:
        """Add another histogram (of widths that differ by powers of two); returns self."""
        theirs = Histogram(other.width, other.limit, dict(other.bins))
        while theirs.width < self.width:
            theirs._double()
        while self.width < theirs.width:
            self._double()
        for key, count in theirs.bins.items():
            self.bins[key] = self.bins.get(key, 0) + count
        self._shrink()
        return self

    def table(self) -> tuple[Array, Array]:
        """Return edges (n + 1,) and counts (n,) over the whole range, empty bins included."""
        if not self.bins:
            return np.zeros(1), np.zeros(0, dtype=np.int64)
        first, last = min(self.bins), max(self.bins)
        counts = np.array([self.bins.get(k, 0) for k in range(first, last + 1)], dtype=np.int64)
        return np.arange(first, last + 2) * self.width, counts


def _triangle(above: Array, below: Array) -> Array:
    """Return R of the QR factorisation of two blocks of rows."""
    return np.asarray(np.linalg.qr(np.vstack([above, below]), mode="r"))


class ElementFit:
    """Least squares of energies by the number of atoms of each element, one batch at a time.

    Solves ``min_e sum_i (E_i - sum_Z n_iZ e_Z)^2`` from a running QR factorisation, which keeps
    twice the digits of normal equations. Where compositions cannot tell elements apart, the
    solution of least norm is taken and ``rank`` says so.
    """

    _BATCH = 512
    _SIZE = 119

    def __init__(self) -> None:
        self.count = 0
        self._triangle = np.zeros((0, self._SIZE + 1))
        self._rows: list[tuple[Array, float]] = []
        self._seen = np.zeros(self._SIZE, dtype=bool)

    def add(self, atomic_numbers: Any, energy: float) -> None:
        """Add one structure: (N,) atomic numbers and its energy in eV."""
        composition = np.bincount(atomic_numbers, minlength=self._SIZE)[: self._SIZE]
        self._seen |= composition > 0
        self._rows.append((composition, energy))
        self.count += 1
        if len(self._rows) >= self._BATCH:
            self._fold()

    def _fold(self) -> None:
        if self._rows:
            block = np.column_stack(
                [np.array([c for c, _ in self._rows]), np.array([e for _, e in self._rows])]
            )
            self._rows = []
            self._triangle = _triangle(self._triangle, block)

    def merge(self, other: ElementFit) -> ElementFit:
        """Add what another stream saw; returns self."""
        self._fold()
        other._fold()
        self._triangle = _triangle(self._triangle, other._triangle)
        self._seen |= other._seen
        self.count += other.count
        return self

    def solve(self) -> dict[str, Any]:
        """Return ``references`` (eV by symbol), ``rmse`` (eV), ``rank`` and counts."""
        from ase.data import chemical_symbols

        self._fold()
        numbers = np.flatnonzero(self._seen)
        if not self.count:
            return {"references": {}, "rmse": None, "rank": 0, "elements": 0, "count": 0}
        matrix, right = self._triangle[:, numbers], self._triangle[:, -1]
        values, _, rank, _ = np.linalg.lstsq(matrix, right, rcond=None)
        residual = float(np.linalg.norm(matrix @ values - right))
        return {
            "references": {
                chemical_symbols[z]: float(v) for z, v in zip(numbers, values, strict=True)
            },
            "rmse": residual / math.sqrt(self.count),
            "rank": int(rank),
            "elements": len(numbers),
            "count": self.count,
        }
