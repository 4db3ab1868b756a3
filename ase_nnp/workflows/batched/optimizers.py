"""Optimizers of many structures at once, in ASE's steps: what they share, and FIRE.

An optimizer sees rows (R, 3): the atoms of each structure and, where the cell relaxes too, its
three cell rows. It answers with a displacement. Each structure keeps a state of its own, so that
it moves as it would alone, whatever shares its batch. The parameters and defaults are ASE's.
"""

from __future__ import annotations

import numpy as np

from ase_nnp.workflows.batched.state import Array, Segments

__all__ = ["FIRE", "Optimizer"]

MAXSTEP = 0.2  # Angstrom


class Optimizer:
    """What the optimizers share: rows of structures that come and go.

    ``per_row`` and ``per_structure`` name the arrays that make up the state.
    """

    per_row: tuple[str, ...] = ()
    per_structure: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.segments = Segments([])
        for name, value in self.blank(self.segments).items():
            setattr(self, name, value)

    def displace(self, x: Array, forces: Array, free: Array) -> Array:
        """Return the step (R, 3) from rows ``x`` under ``forces``; ``free`` (R, 3) may move."""
        raise NotImplementedError

    def blank(self, segments: Segments) -> dict[str, Array]:
        """Return the state of structures that have not moved yet."""
        raise NotImplementedError

    def add(self, segments: Segments) -> None:
        """Append structures that have not moved yet."""
        for name, value in self.blank(segments).items():
            setattr(self, name, np.concatenate([getattr(self, name), value]))

        # After the arrays, which were laid out by the old segments.
        self.segments = Segments(np.concatenate([self.segments.sizes, segments.sizes]))

    def keep(self, mask: Array) -> None:
        """Forget the structures where ``mask`` (B,) is false."""
        rows = mask[self.segments.owner]
        for name in self.per_row:
            setattr(self, name, getattr(self, name)[rows])
        for name in self.per_structure:
            setattr(self, name, getattr(self, name)[mask])
        self.segments = Segments(self.segments.sizes[mask])

    def state(self) -> dict[str, Array]:
        """Return the arrays that :meth:`restore` needs."""
        return {name: getattr(self, name) for name in (*self.per_row, *self.per_structure)}

    def restore(self, arrays: dict[str, Array], segments: Segments) -> None:
        """Take a state back."""
        self.segments = segments
        for name in (*self.per_row, *self.per_structure):
            setattr(self, name, arrays[name])

    def _shortened(self, step: Array) -> Array:
        """Scale each structure's step so that no row is longer than the largest allowed."""
        longest = self.segments.longest(step)
        scale = np.where(longest >= MAXSTEP, MAXSTEP / np.maximum(longest, MAXSTEP), 1.0)
        return step * scale[self.segments.owner, None]


class FIRE(Optimizer):
    """Fast inertial relaxation (Bitzek et al. 2006, doi:10.1103/PhysRevLett.97.170201)."""

    per_row = ("velocity",)
    per_structure = ("dt", "mixing", "downhill", "fresh")
    velocity: Array
    dt: Array
    mixing: Array
    downhill: Array
    fresh: Array

    DT, DT_MAX, WAIT = 0.1, 1.0, 5
    FASTER, SLOWER, MIXING, LESS_MIXING = 1.1, 0.5, 0.1, 0.99

    def blank(self, segments: Segments) -> dict[str, Array]:
        """Return structures at rest."""
        count = len(segments)
        return {
            "velocity": np.zeros((segments.rows, 3)),
            "dt": np.full(count, self.DT),
            "mixing": np.full(count, self.MIXING),
            "downhill": np.zeros(count, dtype=np.int64),
            "fresh": np.ones(count, dtype=bool),
        }

    def displace(self, x: Array, forces: Array, free: Array) -> Array:
        """Return the step (R, 3); only the whole structure's step is limited, as in ASE."""
        seg, owner, v = self.segments, self.segments.owner, self.velocity

        # A structure that has not moved yet has no velocity to judge.
        power = seg.dot(forces, v)
        good = (power > 0.0) & ~self.fresh
        bad = ~good & ~self.fresh

        size = np.sqrt(seg.dot(forces, forces))
        along = self.mixing * np.sqrt(seg.dot(v, v)) / np.where(size > 0, size, 1.0)
        mixed = (1.0 - self.mixing)[owner, None] * v + along[owner, None] * forces
        v = np.where(good[owner, None], mixed, np.where(bad[owner, None], 0.0, v))

        quicker = good & (self.downhill > self.WAIT)
        self.dt = np.where(quicker, np.minimum(self.dt * self.FASTER, self.DT_MAX), self.dt)
        self.mixing = np.where(quicker, self.mixing * self.LESS_MIXING, self.mixing)
        self.downhill = np.where(good, self.downhill + 1, np.where(bad, 0, self.downhill))
        self.mixing = np.where(bad, self.MIXING, self.mixing)
        self.dt = np.where(bad, self.dt * self.SLOWER, self.dt)

        self.fresh = np.zeros_like(self.fresh)
        self.velocity = v + self.dt[owner, None] * forces
        step = self.dt[owner, None] * self.velocity
        length = np.sqrt(seg.dot(step, step))
        scale = np.where(length > MAXSTEP, MAXSTEP / np.maximum(length, MAXSTEP), 1.0)
        return np.asarray(step * scale[owner, None])
