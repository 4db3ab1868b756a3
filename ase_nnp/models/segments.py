"""Rows that belong together and follow each other: the atoms of each structure of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Segments"]


class Segments:
    """Sums and largest values over the rows of each structure, where the rows are.

    Sizes are known on the host too, so that nothing here makes it wait for a device. Sums run in a
    fixed order, on a GPU too: a structure moves the same in any company.

    Parameters
    ----------
    sizes
        (B,) rows of each segment, at least one.
    device
        Where the rows are.
    """

    def __init__(self, sizes: Any, device: torch.device | str = "cpu") -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.device = torch.device(device)
        bounds = np.concatenate([[0], np.cumsum(self.sizes)])
        self.starts = bounds[:-1]
        self._bounds = torch.from_numpy(bounds).to(device)
        self._flat = 3 * self._bounds
        self.owner = torch.from_numpy(self._each(np.arange(len(self.sizes)))).to(device)
        self.counts = torch.from_numpy(self.sizes.astype(np.float64)).to(device)

    def _each(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.repeat(values, self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def rows(self) -> int:
        """Rows of all segments together."""
        return int(self.sizes.sum())

    def slice(self, k: int) -> slice:
        """Return the rows of segment ``k``."""
        first = int(self.starts[k])
        return slice(first, first + int(self.sizes[k]))

    def keep(self, mask: np.ndarray[Any, Any]) -> Segments:
        """Return the segments where ``mask`` (B,) is true."""
        return Segments(self.sizes[mask], self.device)

    def join(self, other: Segments) -> Segments:
        """Return both, ``other`` last and where that is."""
        return Segments(np.concatenate([self.sizes, other.sizes]), other.device)

    def places(self, mask: np.ndarray[Any, Any]) -> Tensor:
        """Return the numbers of the segments where ``mask`` (B,) is true, on the device."""
        return torch.from_numpy(np.flatnonzero(mask)).to(self.device)

    def rows_of(self, mask: np.ndarray[Any, Any]) -> Tensor:
        """Return the numbers of the rows of these segments, on the device."""
        return torch.from_numpy(np.flatnonzero(self._each(mask))).to(self.device)

    def spread(self, values: Tensor) -> Tensor:
        """Repeat a value for each row: (B, ...) to (R, ...)."""
        return values.index_select(0, self.owner)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the rows of each segment: (R,) to (B,)."""
        return torch.segment_reduce(values, "sum", offsets=self._bounds, unsafe=True)

    def max(self, values: Tensor) -> Tensor:
        """Return the largest value of each segment, (R,) or (R, 3) to (B,); NaN is larger."""
        offsets = self._bounds if values.ndim == 1 else self._flat
        flat = values.reshape(-1)
        return torch.segment_reduce(flat, "max", offsets=offsets, unsafe=True)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Scalar product over all components of each segment: twice (R, 3) to (B,)."""
        # In one piece: sums of three numbers at a time are slow.
        products = (a * b).reshape(-1)
        return torch.segment_reduce(products, "sum", offsets=self._flat, unsafe=True)

    def longest(self, vectors: Tensor) -> Tensor:
        """Return the length of the longest row of each segment: (R, 3) to (B,)."""
        return self.max((vectors * vectors) @ vectors.new_ones(3)).sqrt()
