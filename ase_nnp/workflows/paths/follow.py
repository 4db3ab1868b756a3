r"""Following one mode uphill to a saddle point, with a Hessian that is updated on the way.

A Newton step in the eigenvectors of an approximate Hessian, uphill along the followed one and
downhill along all others (Banerjee et al. 1985, doi:10.1021/j100247a015), costs one evaluation.
The Hessian is updated by Bofill's mixture of the symmetric rank-one and Powell's update, which may
be indefinite (Bofill 1994, doi:10.1002/jcc.540150102).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ModeFollower", "bofill_update"]

Array = NDArray[np.float64]

#: eV/Angstrom^2: curvature that is assumed where nothing is known, as in ASE's BFGS.
STIFFNESS = 70.0
#: No mode is taken for softer than this, or steps along it would have no end.
SOFTEST = 1.0


def bofill_update(hessian: Array, step: Array, change: Array) -> Array:
    """Return the Hessian that maps ``step`` to ``change`` of the gradient, close to the old one.

    Parameters
    ----------
    hessian
        (d, d) symmetric.
    step, change
        (d,) difference of positions and of gradients.
    """
    error = change - hessian @ step
    length, size, along = step @ step, error @ error, error @ step
    if length < 1e-16 or size < 1e-24:
        return hessian
    share = along**2 / (length * size)
    rank_one = np.outer(error, error) / along if abs(along) > 1e-12 else 0.0
    cross = np.outer(error, step)
    powell = (cross + cross.T) / length - along * np.outer(step, step) / length**2
    return np.asarray(hessian + share * rank_one + (1 - share) * powell)


class ModeFollower:
    """Positions of free coordinates on their way to a saddle point.

    Parameters
    ----------
    mode
        (d,) the direction to go up at first; need not be normalized.
    hessian
        (d, d) eV/Angstrom^2 to begin with; by default stiff, and negative along ``mode``.
    max_step
        Angstrom, that an atom may move at once.
    """

    def __init__(self, mode: Array, hessian: Array | None = None, max_step: float = 0.1) -> None:
        self.mode = mode / np.linalg.norm(mode)
        if hessian is None:
            hessian = STIFFNESS * np.eye(len(mode))
            hessian -= (STIFFNESS + SOFTEST) * np.outer(self.mode, self.mode)
        self.hessian, self.max_step = hessian, max_step
        self._last: tuple[Array, Array] | None = None

    def learn(self, positions: Array, gradient: Array, near: Array, near_gradient: Array) -> None:
        """Take what two evaluated points tell of the Hessian."""
        self.hessian = bofill_update(self.hessian, near - positions, near_gradient - gradient)

    def step(self, positions: Array, gradient: Array) -> Array:
        """Return the displacement (d,) to make at these positions (d,) with this gradient (d,)."""
        if self._last is not None:
            self.learn(*self._last, positions, gradient)
        self._last = positions.copy(), gradient.copy()

        values, vectors = np.linalg.eigh(self.hessian)
        overlaps = np.abs(self.mode @ vectors)
        followed = int(np.argmax(overlaps))
        self.mode = vectors[:, followed] * np.sign(self.mode @ vectors[:, followed])

        curvature = np.maximum(np.abs(values), SOFTEST)
        curvature[followed] *= -1
        move = -vectors @ ((gradient @ vectors) / curvature)
        longest = np.linalg.norm(move.reshape(-1, 3), axis=1).max()
        return np.asarray(move * min(1.0, self.max_step / max(longest, 1e-12)))

    def state(self) -> dict[str, Array]:
        """Return what :meth:`restore` needs."""
        last = self._last or (np.zeros(0), np.zeros(0))
        return {
            "mode": self.mode,
            "hessian": self.hessian,
            "positions": last[0],
            "gradient": last[1],
            "max_step": np.array(self.max_step),
        }

    @classmethod
    def restore(cls, arrays: dict[str, Array]) -> ModeFollower:
        """Make a follower from its state."""
        follower = cls(arrays["mode"], arrays["hessian"], float(arrays["max_step"]))
        follower.mode = arrays["mode"]
        if len(arrays["positions"]):
            follower._last = arrays["positions"], arrays["gradient"]
        return follower
