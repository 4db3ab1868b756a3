"""FIRE, L-BFGS and BFGS for many structures at once, in ASE's steps.

An optimizer sees rows (R, 3): the atoms of each structure and, where the cell relaxes too, its
three cell rows. It answers with a displacement. Each structure keeps a state of its own, so that
it moves as it would alone, whatever shares its batch. The parameters and defaults are ASE's.
"""

from __future__ import annotations

import numpy as np

from ase_nnp.workflows.batched.state import Array, Segments

__all__ = ["BFGS", "FIRE", "LBFGS", "METHODS", "Optimizer"]

MAXSTEP = 0.2  # Angstrom
ALPHA = 70.0  # eV/Angstrom^2, the curvature before anything is known


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


class LBFGS(Optimizer):
    """Limited-memory BFGS (Nocedal 1980, doi:10.1090/S0025-5718-1980-0572855-7).

    The histories of all structures stand side by side, newest last; one that is younger has zeros
    in the older entries, which change nothing.
    """

    per_row = ("last_x", "last_forces")
    per_structure = ("fresh",)
    last_x: Array
    last_forces: Array
    fresh: Array
    MEMORY = 100

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Array] = []  # each (R, 3)
        self.changes: list[Array] = []  # of the gradient, each (R, 3)
        self.weights: list[Array] = []  # each (B,)

    def blank(self, segments: Segments) -> dict[str, Array]:
        """Return structures without a history."""
        zeros = np.zeros((segments.rows, 3))
        return {
            "last_x": zeros,
            "last_forces": zeros,
            "fresh": np.ones(len(segments), dtype=bool),
        }

    def add(self, segments: Segments) -> None:
        """Append structures without a history."""
        super().add(segments)
        zeros, none = np.zeros((segments.rows, 3)), np.zeros(len(segments))
        self.steps = [np.concatenate([s, zeros]) for s in self.steps]
        self.changes = [np.concatenate([y, zeros]) for y in self.changes]
        self.weights = [np.concatenate([w, none]) for w in self.weights]

    def keep(self, mask: Array) -> None:
        """Forget structures, and the entries that only they had."""
        rows = mask[self.segments.owner]
        super().keep(mask)
        self.steps = [s[rows] for s in self.steps]
        self.changes = [y[rows] for y in self.changes]
        self.weights = [w[mask] for w in self.weights]
        used = next((k for k, w in enumerate(self.weights) if w.any()), len(self.weights))
        del self.steps[:used], self.changes[:used], self.weights[:used]

    def state(self) -> dict[str, Array]:
        """Return the arrays, the histories stacked."""
        shape = (0, self.segments.rows, 3)
        return {
            **super().state(),
            "steps": np.array(self.steps) if self.steps else np.zeros(shape),
            "changes": np.array(self.changes) if self.changes else np.zeros(shape),
            "weights": np.array(self.weights).reshape(len(self.weights), len(self.segments)),
        }

    def restore(self, arrays: dict[str, Array], segments: Segments) -> None:
        """Take a state back."""
        super().restore(arrays, segments)
        self.steps, self.changes = list(arrays["steps"]), list(arrays["changes"])
        self.weights = list(arrays["weights"])

    def displace(self, x: Array, forces: Array, free: Array) -> Array:
        """Return the two-loop step (R, 3), its longest row limited."""
        seg, owner = self.segments, self.segments.owner
        if not self.fresh.all():
            old = ~self.fresh[owner, None]
            step = np.where(old, x - self.last_x, 0.0)
            change = np.where(old, self.last_forces - forces, 0.0)
            weight = np.where(self.fresh, 0.0, 1.0 / seg.dot(change, step))
            self.steps.append(step)
            self.changes.append(change)
            self.weights.append(weight)
            if len(self.steps) > self.MEMORY:
                del self.steps[0], self.changes[0], self.weights[0]
        q = -forces
        factors = []
        for s, y, w in zip(
            reversed(self.steps), reversed(self.changes), reversed(self.weights), strict=True
        ):
            factor = w * seg.dot(s, q)
            factors.append(factor)
            q = q - factor[owner, None] * y
        z = q / ALPHA
        for s, y, w, factor in zip(
            self.steps, self.changes, self.weights, reversed(factors), strict=True
        ):
            z = z + s * (factor - w * seg.dot(y, z))[owner, None]
        self.last_x, self.last_forces = x.copy(), forces.copy()
        self.fresh = np.zeros_like(self.fresh)
        return self._shortened(-z)


class BFGS(Optimizer):
    """BFGS with the whole Hessian, as ASE has it: step along ``-|H|^-1 g``, no line search.

    The Hessian of each structure holds its free components only: the others would stay at the
    first guess and never mix. Where it is positive definite, ``|H|`` is ``H``, and a Cholesky
    solve does for the eigenvectors.
    """

    per_row = ("last_x", "last_forces")
    per_structure = ("fresh",)
    last_x: Array
    last_forces: Array
    fresh: Array

    def __init__(self) -> None:
        super().__init__()
        self.hessians: list[Array | None] = []

    def blank(self, segments: Segments) -> dict[str, Array]:
        """Return structures of which nothing is known."""
        zeros = np.zeros((segments.rows, 3))
        return {
            "last_x": zeros,
            "last_forces": zeros,
            "fresh": np.ones(len(segments), dtype=bool),
        }

    def add(self, segments: Segments) -> None:
        """Append structures of which nothing is known."""
        super().add(segments)
        self.hessians += [None] * len(segments)

    def keep(self, mask: Array) -> None:
        """Forget structures."""
        super().keep(mask)
        self.hessians = [h for h, kept in zip(self.hessians, mask, strict=True) if kept]

    def state(self) -> dict[str, Array]:
        """Return the arrays, with one Hessian a structure."""
        known = {f"hessian{k}": h for k, h in enumerate(self.hessians) if h is not None}
        return {**super().state(), **known}

    def restore(self, arrays: dict[str, Array], segments: Segments) -> None:
        """Take a state back."""
        super().restore(arrays, segments)
        self.hessians = [arrays.get(f"hessian{k}") for k in range(len(segments))]

    def displace(self, x: Array, forces: Array, free: Array) -> Array:
        """Return the quasi-Newton step (R, 3), its longest row limited."""
        result = np.zeros_like(x)
        for k in range(len(self.segments)):
            rows = self.segments.slice(k)
            moves = free[rows]
            gradient = -forces[rows][moves]
            hessian = self.hessians[k]
            if hessian is None:
                hessian = np.eye(len(gradient)) * ALPHA
            else:
                step = (x[rows] - self.last_x[rows])[moves]
                _update(hessian, step, gradient + self.last_forces[rows][moves])
            self.hessians[k] = hessian
            result[rows][moves] = -_solve(hessian, gradient)
        self.last_x, self.last_forces = x.copy(), forces.copy()
        self.fresh = np.zeros_like(self.fresh)
        return self._shortened(result)


def _update(hessian: Array, step: Array, change: Array) -> None:
    """Add what a step and the change of the gradient over it tell of the curvature."""
    if not len(step) or np.abs(step).max() < 1e-7:
        return
    image = hessian @ step
    hessian += np.outer(change, change) / (step @ change) - np.outer(image, image) / (step @ image)


def _solve(hessian: Array, gradient: Array) -> Array:
    """Return ``|H|^-1 g``."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    if not np.isfinite(hessian).all():
        return np.full_like(gradient, np.nan)
    try:
        return np.asarray(cho_solve(cho_factor(hessian, check_finite=False), gradient))
    except LinAlgError:
        values, vectors = np.linalg.eigh(hessian)
        return np.asarray(vectors @ (gradient @ vectors / np.abs(values)))


METHODS: dict[str, type[Optimizer]] = {"FIRE": FIRE, "BFGS": BFGS, "LBFGS": LBFGS}
