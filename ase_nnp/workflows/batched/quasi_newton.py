"""L-BFGS and BFGS of many structures at once, in ASE's steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.models.segments import Segments
from ase_nnp.workflows.batched.optimizers import Optimizer
from ase_nnp.workflows.batched.state import Array, read_once

__all__ = ["BFGS", "LBFGS"]

ALPHA = 70.0  # eV/Angstrom^2, the curvature before anything is known


class _QuasiNewton(Optimizer):
    """What both remember of the last step; ``fresh`` structures have none yet."""

    per_row = ("last_x", "last_forces")
    per_structure = ("fresh",)
    last_x: Tensor
    last_forces: Tensor
    fresh: Tensor

    def blank(self, segments: Segments) -> dict[str, Tensor]:
        """Return structures that have not moved yet."""
        zeros = segments.counts.new_zeros(segments.rows, 3)
        return {
            "last_x": zeros,
            "last_forces": zeros,
            "fresh": torch.ones_like(segments.counts, dtype=torch.bool),
        }

    def _remember(self, x: Tensor, forces: Tensor) -> None:
        self.last_x, self.last_forces = x, forces
        self.fresh = torch.zeros_like(self.fresh)


class LBFGS(_QuasiNewton):
    """Limited-memory BFGS (Nocedal 1980, doi:10.1090/S0025-5718-1980-0572855-7).

    The histories of all structures stand side by side, newest last; one that is younger has zeros
    in the older entries, which change nothing.
    """

    MEMORY = 100

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Tensor] = []  # each (R, 3)
        self.changes: list[Tensor] = []  # of the gradient, each (R, 3)
        self.weights: list[Tensor] = []  # each (B,)
        self.ages = np.zeros(0, dtype=np.int64)  # steps that each structure has taken

    def add(self, segments: Segments) -> None:
        """Append structures without a history."""
        super().add(segments)
        zeros = segments.counts.new_zeros(segments.rows, 3)
        none = torch.zeros_like(segments.counts)
        self.steps = [torch.cat([s, zeros]) for s in self.steps]
        self.changes = [torch.cat([y, zeros]) for y in self.changes]
        self.weights = [torch.cat([w, none]) for w in self.weights]
        self.ages = np.concatenate([self.ages, np.zeros(len(segments), dtype=np.int64)])

    def keep(self, mask: Array) -> None:
        """Forget structures, and the entries that only they had."""
        rows, places = self.segments.rows_of(mask), self.segments.places(mask)
        super().keep(mask)
        self.ages = self.ages[mask]

        # Entries that only those who left had are zeros for all who stay.
        used = min(len(self.steps), max(0, int(self.ages.max(initial=0)) - 1))
        unused = len(self.steps) - used
        self.steps = [s.index_select(0, rows) for s in self.steps[unused:]]
        self.changes = [y.index_select(0, rows) for y in self.changes[unused:]]
        self.weights = [w.index_select(0, places) for w in self.weights[unused:]]

    def state(self) -> dict[str, Any]:
        """Return the tensors, the histories stacked."""
        none = self.last_x[None][:0]
        return {
            **super().state(),
            "steps": torch.stack(self.steps) if self.steps else none,
            "changes": torch.stack(self.changes) if self.changes else none,
            "weights": torch.stack(self.weights) if self.weights else none[:, :, 0],
        }

    def restore(self, tensors: Mapping[str, Tensor], segments: Segments) -> None:
        """Take a state back."""
        super().restore(tensors, segments)
        self.steps, self.changes = list(tensors["steps"]), list(tensors["changes"])
        self.weights = list(tensors["weights"])

        # A step's weight is never zero, and is there from the second step on.
        known = np.cumsum(tensors["weights"].cpu().numpy() != 0, axis=0).max(axis=0, initial=0)
        self.ages = np.where(self.fresh.cpu().numpy(), 0, known + 1)

    def displace(self, x: Tensor, forces: Tensor, free: Tensor) -> Tensor:
        """Return the two-loop step (R, 3), its longest row limited."""
        seg = self.segments

        # Who has no last step yet gets zeros, which change nothing below.
        if self.ages.any():
            old = ~seg.spread(self.fresh)[:, None]
            step = torch.where(old, x - self.last_x, 0.0)
            change = torch.where(old, self.last_forces - forces, 0.0)
            weight = torch.where(self.fresh, 0.0, 1.0 / seg.dot(change, step))
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
            q = torch.addcmul(q, seg.spread(factor)[:, None], y, value=-1)

        z = q / ALPHA
        for s, y, w, factor in zip(
            self.steps, self.changes, self.weights, reversed(factors), strict=True
        ):
            z = torch.addcmul(z, s, seg.spread(factor - w * seg.dot(y, z))[:, None])

        self._remember(x, forces)
        self.ages = self.ages + 1
        return self._shortened(-z)


class BFGS(_QuasiNewton):
    """BFGS with the whole Hessian, as ASE has it: step along ``-|H|^-1 g``, no line search.

    The Hessian of each structure holds its free components only: the others would stay at the
    first guess and never mix. Where it is positive definite, ``|H|`` is ``H``, and a Cholesky
    solve does for the eigenvectors. Hessians are of as many sizes as there are structures, and
    which of them is definite decides how it is solved: they stay on the host, and a step waits once
    for coordinates and forces.
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

    def state(self) -> dict[str, Any]:
        """Return the tensors, with one Hessian a structure."""
        known = {f"hessian{k}": h for k, h in enumerate(self.hessians) if h is not None}
        return {**super().state(), **known}

    def restore(self, tensors: Mapping[str, Tensor], segments: Segments) -> None:
        """Take a state back."""
        super().restore(tensors, segments)
        there = [tensors.get(f"hessian{k}") for k in range(len(segments))]
        self.hessians = [None if h is None else h.cpu().numpy() for h in there]

    def displace(self, x: Tensor, forces: Tensor, free: Tensor) -> Tensor:
        """Return the quasi-Newton step (R, 3), its longest row limited."""
        step, change = x - self.last_x, self.last_forces - forces
        seen = [one.numpy() for one in read_once([step, change, forces, free])]
        steps, changes, pull, moves = seen

        result = np.zeros_like(steps)
        for k in range(len(self.segments)):
            rows = self.segments.slice(k)
            own = moves[rows]
            hessian, gradient = self.hessians[k], -pull[rows][own]

            # Overflows are looked for afterwards: numpy's warnings would name no structure.
            with np.errstate(all="ignore"):
                if hessian is None:
                    hessian = np.eye(len(gradient)) * ALPHA
                else:
                    _update(hessian, steps[rows][own], changes[rows][own])
                result[rows][own] = -_solve(hessian, gradient)
            self.hessians[k] = hessian

        self._remember(x, forces)
        return self._shortened(torch.from_numpy(result).to(x.device))


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

    if not (np.isfinite(hessian).all() and np.isfinite(gradient).all()):
        return np.full_like(gradient, np.nan)
    try:
        return np.asarray(cho_solve(cho_factor(hessian, check_finite=False), gradient))
    except LinAlgError:
        # Negative curvature is taken by its size: downhill also at a saddle.
        values, vectors = np.linalg.eigh(hessian)
        return np.asarray(vectors @ (gradient @ vectors / np.abs(values)))
