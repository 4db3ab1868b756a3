"""Adaptive conformal prediction: coverage that survives a drift, given labels now and then."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import as_finite, as_probability
from ase_nnp.uncertainty.statistics.conformal import conformal_rank

__all__ = ["AdaptiveConformal"]


class AdaptiveConformal:
    r"""Adaptive conformal inference of Gibbs and Candes 2021 (arXiv:2106.00170).

    After each label :math:`\alpha_{t+1} = \alpha_t + \gamma(\alpha - \mathrm{err}_t)`, whatever
    the data do: the miss rate over T steps is within
    :math:`(\max(\alpha_1, 1 - \alpha_1) + \gamma) / (\gamma T)` of :math:`\alpha`.

    Parameters
    ----------
    scores
        Calibration scores to start from, for instance ``|y - mu| / s``.
    alpha
        Miss rate wanted.
    gamma
        Step size; large follows fast and swings more.
    extend
        Add each new score to the calibration scores.
    window
        Keep only the latest scores of this number.
    """

    def __init__(
        self,
        scores: ArrayLike,
        alpha: float = 0.1,
        gamma: float = 0.02,
        *,
        extend: bool = False,
        window: int | None = None,
    ) -> None:
        if gamma <= 0:
            raise UncertaintyError(f"gamma must be positive; found {gamma}.")
        self.target = self.alpha = as_probability("alpha", alpha)
        self.gamma, self.extend, self.window = gamma, extend, window
        self.scores = as_finite("scores", scores).ravel().copy()

    def quantile(self) -> float:
        """Width in units of the score now: 0 for alpha >= 1, infinite for alpha <= 0."""
        if self.alpha >= 1:
            return 0.0
        if self.alpha <= 0:
            return math.inf
        k = conformal_rank(self.scores.size, self.alpha)
        if k > self.scores.size:
            return math.inf
        return float(np.partition(self.scores, k - 1)[k - 1])

    def update(self, score: float) -> bool:
        """Take the score of a new label; return whether the interval held it."""
        if not math.isfinite(score):
            raise UncertaintyError(f"A score must be finite; found {score}.")
        missed = score > self.quantile()
        self.alpha += self.gamma * (self.target - missed)
        if self.extend:
            self.scores = np.append(self.scores, score)
        if self.window is not None:
            self.scores = self.scores[-self.window :]
        return not missed
