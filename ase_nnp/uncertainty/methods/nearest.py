"""Distance to the nearest training atoms of the same element, by matrix products on any device.

The values are those of :class:`~ase_nnp.uncertainty.statistics.ood.KNNDistance`, which walks a tree
on the host. A tree visits most points in 32 dimensions or more, and each of them by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ase_nnp.uncertainty.statistics.ood import KNNDistance

__all__ = ["NearestAtoms"]

#: Numbers of a table of distances held at once.
BLOCK = 1 << 24
#: Candidates beyond the k nearest: single precision finds these, double precision orders them.
SPARE = 6


class _Tables(NamedTuple):
    """Training atoms of all elements, one after another, as distances want them."""

    rows: Tensor  # (n, d) float64, from the middle of all
    columns: dict[int, Tensor]  # (d, n_z) float32 of each element
    squares: dict[int, Tensor]  # (n_z,) float32
    first: dict[int, int]
    middle: Tensor  # (d,) float64
    unit: Tensor  # (d,) float64


class NearestAtoms:
    """Mean distances to the k nearest training atoms of the same element.

    Parameters
    ----------
    known
        The training atoms.
    """

    def __init__(self, known: KNNDistance) -> None:
        self.known = known
        self._tables: dict[torch.device, _Tables] = {}
        # Molecular dynamics asks for the same atoms again and again.
        self._last: tuple[bytes, Tensor, list[tuple[int, int]]] | None = None

    def __call__(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Features (N, d) and atomic numbers (N,) to distances (N,), float64.

        Infinite for elements that were not seen.
        """
        t = self._tables_on(features.device)
        order, parts = self._by_element(numbers)
        x = features.index_select(0, order).double() / t.unit - t.middle
        counts = [count for _, count in parts]
        rough = x.float().split(counts)
        places = [self._candidates(r, z, t) for r, (z, _) in zip(rough, parts, strict=True)]

        # Together, unless an element has hardly any training atoms.
        if len({p.shape[1] for p in places}) == 1:
            near = self._exact(x, torch.cat(places), t)
        else:
            pairs = zip(x.split(counts), places, strict=True)
            near = torch.cat([x.new_empty(0), *(self._exact(r, p, t) for r, p in pairs)])
        return x.new_full((len(numbers),), torch.inf).index_copy_(0, order, near)

    def _candidates(self, rows: Tensor, element: int, t: _Tables) -> Tensor:
        """Places (n, m) in the joint table of the atoms that can be the nearest."""
        columns, squares = t.columns[element], t.squares[element]
        keep = min(self.known.k + SPARE, len(squares))
        step = max(1, BLOCK // len(squares))
        places = [
            torch.addmm(squares, part, columns, alpha=-2)
            .topk(keep, dim=1, largest=False, sorted=False)
            .indices
            for part in rows.split(step)
        ]
        return (places[0] if len(places) == 1 else torch.cat(places)) + t.first[element]

    def _exact(self, rows: Tensor, places: Tensor, t: _Tables) -> Tensor:
        """Mean of the k least distances (n,) to the atoms at ``places``."""
        found = t.rows.index_select(0, places.reshape(-1)).view(*places.shape, -1)
        far = torch.linalg.vector_norm(found - rows[:, None], dim=2)
        least = far.topk(min(self.known.k, far.shape[1]), dim=1, largest=False, sorted=False)
        mean: Tensor = least.values.mean(dim=1)
        return mean

    def _by_element(self, numbers: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
        """Atoms of known elements in the order of these, and each element with its count."""
        host = numbers.cpu().numpy()
        key = host.tobytes()
        if self._last is None or self._last[0] != key or self._last[1].device != numbers.device:
            seen = np.flatnonzero(np.isin(host, list(self.known.training)))
            elements, counts = np.unique(host[seen], return_counts=True)
            order = seen[host[seen].argsort(kind="stable")]
            pairs = list(zip(elements.tolist(), counts.tolist(), strict=True))
            self._last = key, torch.as_tensor(order, device=numbers.device), pairs
        return self._last[1], self._last[2]

    def _tables_on(self, device: torch.device) -> _Tables:
        if device not in self._tables:
            self._tables[device] = _tables(self.known, sorted(self.known.training), device)
        return self._tables[device]


def _tables(known: KNNDistance, elements: Sequence[int], device: torch.device) -> _Tables:
    every = np.concatenate([known.training[z] for z in elements])
    # Around the middle the differences of squares lose least of single precision.
    middle = every.mean(axis=0)
    rows = torch.as_tensor(every - middle, device=device)

    counts = [len(known.training[z]) for z in elements]
    own = dict(zip(elements, rows.float().split(counts), strict=True))
    first = np.cumsum([0, *counts]).tolist()
    return _Tables(
        rows,
        {z: part.T.contiguous() for z, part in own.items()},
        {z: part.square().sum(dim=1) for z, part in own.items()},
        dict(zip(elements, first, strict=False)),
        torch.as_tensor(middle, device=device),
        torch.as_tensor(known.scale, device=device),
    )
