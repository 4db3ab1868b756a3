"""FIRE for many structures at once, and what all optimizers of batches share.

Rows are atoms (or atoms and cell, :mod:`~ase_nnp.workflows.batched.rows`), structures laid end to
end. Every step length, mixing or history is one number or block a structure, so that each moves as
it would alone, whatever shares its batch. The parameters and defaults are ASE's. The state is
float64 where the model is, and no step makes the host wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ase_nnp.models.segments import Segments
from ase_nnp.workflows.batched.state import Array, joined

__all__ = ["FIRE", "Optimizer"]

MAXSTEP = 0.2  # Angstrom


class Optimizer:
    """What the optimizers share: rows of structures that come and go.

    ``per_row`` and ``per_structure`` name the tensors that make up the state.
    """

    per_row: tuple[str, ...] = ()
    per_structure: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.segments = Segments([])
        for name, value in self.blank(self.segments).items():
            setattr(self, name, value)

    def displace(self, x: Tensor, forces: Tensor, free: Tensor) -> Tensor:
        """Return the step (R, 3) from rows ``x`` under ``forces``; ``free`` (R, 3) may move."""
        raise NotImplementedError

    def blank(self, segments: Segments) -> dict[str, Tensor]:
        """Return the state of structures that have not moved yet."""
        raise NotImplementedError

    def add(self, segments: Segments) -> None:
        """Append structures that have not moved yet."""
        for name, value in self.blank(segments).items():
            setattr(self, name, joined(getattr(self, name), value))

        # After the tensors, which were laid out by the old segments.
        self.segments = self.segments.join(segments)

    def keep(self, mask: Array) -> None:
        """Forget the structures where ``mask`` (B,) is false."""
        rows, places = self.segments.rows_of(mask), self.segments.places(mask)
        for name in self.per_row:
            setattr(self, name, getattr(self, name).index_select(0, rows))
        for name in self.per_structure:
            setattr(self, name, getattr(self, name).index_select(0, places))
        self.segments = self.segments.keep(mask)

    def state(self) -> dict[str, Any]:
        """Return the tensors, and arrays of the host, that :meth:`restore` needs."""
        return {name: getattr(self, name) for name in (*self.per_row, *self.per_structure)}

    def restore(self, tensors: Mapping[str, Tensor], segments: Segments) -> None:
        """Take a state back."""
        self.segments = segments
        for name in (*self.per_row, *self.per_structure):
            setattr(self, name, tensors[name])

    def _shortened(self, step: Tensor) -> Tensor:
        """Scale each structure's step so that no row is longer than the largest allowed."""
        longest = self.segments.longest(step)
        scale = torch.where(longest >= MAXSTEP, MAXSTEP / longest.clamp(min=MAXSTEP), 1.0)
        return step * self.segments.spread(scale)[:, None]


class FIRE(Optimizer):
    """Fast inertial relaxation (Bitzek et al. 2006, doi:10.1103/PhysRevLett.97.170201)."""

    per_row = ("velocity",)
    per_structure = ("dt", "mixing", "downhill", "fresh")
    velocity: Tensor
    dt: Tensor
    mixing: Tensor
    downhill: Tensor
    fresh: Tensor

    DT, DT_MAX, WAIT = 0.1, 1.0, 5
    FASTER, SLOWER, MIXING, LESS_MIXING = 1.1, 0.5, 0.1, 0.99

    def blank(self, segments: Segments) -> dict[str, Tensor]:
        """Return structures at rest."""
        one = torch.ones_like(segments.counts)
        return {
            "velocity": one.new_zeros(segments.rows, 3),
            "dt": self.DT * one,
            "mixing": self.MIXING * one,
            "downhill": torch.zeros_like(one, dtype=torch.int64),
            "fresh": torch.ones_like(one, dtype=torch.bool),
        }

    def displace(self, x: Tensor, forces: Tensor, free: Tensor) -> Tensor:
        """Return the step (R, 3); only the whole structure's step is limited, as in ASE."""
        seg, v = self.segments, self.velocity

        # A structure that has not moved yet has no velocity to judge.
        good = (seg.dot(forces, v) > 0.0) & ~self.fresh
        bad = ~(good | self.fresh)

        # Velocities are mixed with forces downhill, and forgotten uphill.
        size = seg.dot(forces, forces).sqrt()
        along = self.mixing * seg.dot(v, v).sqrt() / torch.where(size > 0, size, 1.0)
        kept = torch.where(good, 1.0 - self.mixing, (~bad).double())
        along = torch.where(good, along, 0.0)

        quicker = good & (self.downhill > self.WAIT)
        dt = torch.where(quicker, (self.dt * self.FASTER).clamp(max=self.DT_MAX), self.dt)
        mixing = torch.where(quicker, self.mixing * self.LESS_MIXING, self.mixing)
        self.downhill = torch.where(good, self.downhill + 1, torch.where(bad, 0, self.downhill))
        self.mixing = torch.where(bad, self.MIXING, mixing)
        self.dt = torch.where(bad, dt * self.SLOWER, dt)
        self.fresh = torch.zeros_like(self.fresh)

        by_row = seg.spread(torch.stack([kept, along, self.dt], dim=1))
        kept, along, dt = (column[:, None] for column in by_row.unbind(1))
        self.velocity = kept * v + along * forces + dt * forces
        step = dt * self.velocity
        length = seg.dot(step, step).sqrt()
        scale = torch.where(length > MAXSTEP, MAXSTEP / length.clamp(min=MAXSTEP), 1.0)
        return step * seg.spread(scale)[:, None]
