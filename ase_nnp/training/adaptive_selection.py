r"""Adaptive selection of training structures: the easy leave, the hard are repeated.

The selection rule of lifelong potentials (Eckhoff and Reiher 2023, doi:10.1021/acs.jctc.3c00279): a
structure has a factor, its chance to be drawn. Where its loss stays below a part of the usual loss
the factor shrinks, until the structure is redundant and leaves; where it stays above, the factor
grows, until the structure is judged inconsistent with the others and leaves too. What a model knew
before is rehearsed by giving its structures to the selection with the new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ase_nnp.errors import ConfigError

__all__ = ["AdaptiveSelection"]

Array = np.ndarray[Any, Any]


class AdaptiveSelection:
    r"""Which structures the next batch is made of.

    The usual loss is a running mean over what was drawn. After each look at a structure

    .. math:: s \leftarrow s \, f_- \text{ where } L < t_- \bar L, \qquad
              s \leftarrow s \, f_+ \text{ where } L > t_+ \bar L,

    and otherwise :math:`s` goes half of the way back to 1. Below ``least`` a structure is
    redundant; after ``patience`` looks in a row at ``most`` it is inconsistent. Either is drawn no
    more.

    Parameters
    ----------
    count
        Structures, N.
    easy, hard
        :math:`t_-` and :math:`t_+`, parts of the usual loss.
    shrink, grow
        :math:`f_-` and :math:`f_+`.
    least, most
        Bounds of a factor.
    patience
        Looks at the upper bound after which a structure is inconsistent.
    keep
        Structures that never leave, by index: a few of what must not be forgotten.
    seed
        Of the draws.

    Raises
    ------
    ConfigError
        Bounds or factors that cannot be meant.
    """

    def __init__(
        self,
        count: int,
        *,
        easy: float = 0.3,
        hard: float = 2.0,
        shrink: float = 0.8,
        grow: float = 1.25,
        least: float = 0.1,
        most: float = 4.0,
        patience: int = 20,
        keep: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        if count < 1 or not 0 < easy < hard or not 0 < shrink < 1 < grow or patience < 1:
            raise ConfigError(
                "Adaptive selection needs structures, easy < hard, shrink < 1 < grow, and patience."
            )
        if not 0 < least < 1 < most:
            raise ConfigError(f"Factors begin at 1: {least} and {most} must lie on its two sides.")
        self.easy, self.hard, self.shrink, self.grow = easy, hard, shrink, grow
        self.least, self.most, self.patience = least, most, patience
        self.factors = np.ones(count)
        self.at_most = np.zeros(count, dtype=np.int64)
        self.usual = float("nan")

        self.kept = np.zeros(count, dtype=bool)
        self.kept[list(keep)] = True
        self.redundant, self.inconsistent = (np.zeros(count, dtype=bool) for _ in range(2))
        self._rng = np.random.default_rng(seed)

    @property
    def active(self) -> Array:
        """Indices of the structures that are still drawn."""
        return np.flatnonzero(~(self.redundant | self.inconsistent))

    def draw(self, count: int) -> Array:
        """Return indices of up to ``count`` distinct structures, the hard ones more often."""
        active = self.active
        chance = self.factors[active] / self.factors[active].sum()
        size = min(count, len(active))
        return self._rng.choice(active, size=size, replace=False, p=chance)

    def report(self, indices: Sequence[int] | Array, losses: Sequence[float] | Array) -> None:
        """Take note of the losses (n,) of the structures that were drawn.

        Raises
        ------
        ConfigError
            Other numbers than one finite loss a structure.
        """
        index, loss = np.asarray(indices, dtype=np.int64), np.asarray(losses, dtype=float)
        if index.shape != loss.shape or not np.isfinite(loss).all() or (loss < 0).any():
            raise ConfigError("One finite loss for each structure was expected.")

        # A slow mean: the loss of the whole set must not follow one hard batch.
        mean = float(loss.mean())
        self.usual = mean if np.isnan(self.usual) else 0.95 * self.usual + 0.05 * mean
        low, high = loss < self.easy * self.usual, loss > self.hard * self.usual
        factor = self.factors[index]
        moved = np.where(low, factor * self.shrink, np.where(high, factor * self.grow, 0.0))
        self.factors[index] = np.where(low | high, moved, 0.5 * (factor + 1)).clip(None, self.most)

        full = self.factors[index] >= self.most
        self.at_most[index] = np.where(full & high, self.at_most[index] + 1, 0)
        free = ~self.kept[index]
        self.redundant[index] |= free & (self.factors[index] < self.least)
        self.inconsistent[index] |= free & (self.at_most[index] >= self.patience)
        if not len(self.active):  # nothing is easier or harder than the rest any more
            self.redundant[:], self.inconsistent[:], self.at_most[:] = False, False, 0
            self.factors[:] = np.maximum(self.factors, self.least)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that :meth:`load_state_dict` needs, as plain values."""
        return {
            "factors": self.factors.tolist(),
            "at_most": self.at_most.tolist(),
            "redundant": self.redundant.tolist(),
            "inconsistent": self.inconsistent.tolist(),
            "usual": self.usual,
            "random": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises
        ------
        ConfigError
            It is of another number of structures.
        """
        if len(state["factors"]) != len(self.factors):
            raise ConfigError(
                f"The state is of {len(state['factors'])} structures, here are {len(self.factors)}."
            )
        self.factors = np.array(state["factors"], dtype=float)
        self.at_most = np.array(state["at_most"], dtype=np.int64)
        self.redundant = np.array(state["redundant"], dtype=bool)
        self.inconsistent = np.array(state["inconsistent"], dtype=bool)
        self.usual = float(state["usual"])
        self._rng.bit_generator.state = state["random"]
