"""L-BFGS and BFGS of many structures at once, in ASE's steps."""

from __future__ import annotations

import numpy as np

from ase_nnp.workflows.batched.optimizers import Optimizer
from ase_nnp.workflows.batched.state import Array, Segments

__all__ = ["BFGS", "LBFGS"]

ALPHA = 70.0  # eV/Angstrom^2, the curvature before anything is known


class _QuasiNewton(Optimizer):
    """What both remember of the last step; ``fresh`` structures have none yet."""

    per_row = ("last_x", "last_forces")
    per_structure = ("fresh",)
    last_x: Array
    last_forces: Array
    fresh: Array

    def blank(self, segments: Segments) -> dict[str, Array]:
        """Return structures that have not moved yet."""
        zeros = np.zeros((segments.rows, 3))
        return {
            "last_x": zeros,
            "last_forces": zeros,
            "fresh": np.ones(len(segments), dtype=bool),
        }


class LBFGS(_QuasiNewton):
    """Limited-memory BFGS (Nocedal 1980, doi:10.1090/S0025-5718-1980-0572855-7).

    The histories of all structures stand side by side, newest last; one that is younger has zeros
    in the older entries, which change nothing.
    """

    MEMORY = 100

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Array] = []  # each (R, 3)
        self.changes: list[Array] = []  # of the gradient, each (R, 3)
        self.weights: list[Array] = []  # each (B,)

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

        # Entries that only those who left had are zeros for all who stay.
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

        # Who has no last step yet gets zeros, which change nothing below.
        if not self.fresh.all():
            old = ~self.fresh[owner, None]
            step = np.where(old, x - self.last_x, 0.0)
            change = np.where(old, self.last_forces - forces, 0.0)
            weight = np.where(self.fresh, 0.0, 1.0 / seg.dot(change, step))
            self.steps.append(step)
            self.changes.append(change)
            self.weights.append(weight)
            if len(self.steps) > self.MEMORY:
                # The oldest of the whole batch goes. Someone who joined later has zeros there,
                # someone who has been here from the start loses what ASE would drop too.
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


class BFGS(_QuasiNewton):
    """BFGS with the whole Hessian, as ASE has it: step along ``-|H|^-1 g``, no line search.

    The Hessian of each structure holds its free components only: the others would stay at the
    first guess and never mix. Where it is positive definite, ``|H|`` is ``H``, and a Cholesky
    solve does for the eigenvectors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hessians: list[Array | None] = []

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
    # ASE's bound: a step that small has a curvature of rounding errors.
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
        # Negative curvature is taken by its size: downhill also at a saddle.
        values, vectors = np.linalg.eigh(hessian)
        return np.asarray(vectors @ (gradient @ vectors / np.abs(values)))
