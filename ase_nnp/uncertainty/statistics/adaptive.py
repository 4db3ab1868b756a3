"""Adaptive conformal prediction: coverage that survives a drift, given labels now and then."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ase_nnp.errors import UncertaintyError
from ase_nnp.uncertainty.statistics.arrays import as_finite, as_probability
from ase_nnp.uncertainty.statistics.conformal import conformal_rank

__all__ = ["AdaptiveConformal", "AdaptiveIntervals"]


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


class AdaptiveIntervals:
    r"""Adaptive intervals along a trajectory whose structures are labeled now and then.

    As :class:`AdaptiveConformal`, with a structure as the unit: its values depend on each other, so
    that all of them together move alpha once, by ``gamma * (alpha - missed part)``. With parts in
    [0, 1] the bound of Gibbs and Candes holds for the mean over labeled structures. The quantile is
    taken over the scores of the latest structures, those of home first.

    Parameters
    ----------
    scores
        For each calibration structure the scores of its values, ``|error| / half width`` or over a
        std.
    alpha
        Part that may be missed.
    gamma
        Step of alpha for each labeled structure.
    window
        Structures whose scores count.
    """

    def __init__(
        self,
        scores: Sequence[ArrayLike],
        alpha: float = 0.1,
        gamma: float = 0.005,
        *,
        window: int = 50,
    ) -> None:
        if gamma <= 0 or window < 1:
            raise UncertaintyError(f"gamma and window must be positive: {gamma}, {window}.")
        if not len(scores):
            raise UncertaintyError("Adaptive intervals start from scores of one structure or more.")
        self.target = self.alpha = as_probability("alpha", alpha)
        self.gamma, self.window = gamma, window
        self.scores = [as_finite("scores", one).ravel() for one in scores][-window:]

    def factor(self) -> float:
        """Factor of half widths now: 0 for alpha >= 1, infinite for alpha <= 0."""
        if self.alpha >= 1:
            return 0.0
        values = np.concatenate(self.scores)
        if self.alpha <= 0 or (k := conformal_rank(values.size, self.alpha)) > values.size:
            return math.inf
        return float(np.partition(values, k - 1)[k - 1])

    def update(self, scores: ArrayLike) -> float:
        """Take the scores of a labeled structure; return the part that its intervals held."""
        values = as_finite("scores", scores).ravel()
        missed = float(np.mean(values > self.factor()))
        self.alpha += self.gamma * (self.target - missed)
        self.scores = [*self.scores, values][-self.window :]
        return 1 - missed
