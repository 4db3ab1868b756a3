"""What a reaction path turned out to be: its images, barriers with error bars, and doubts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.uncertainty.observables import Observable, combine

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["ReactionPath", "path_lengths", "what_no_saddle_means"]

#: eV that a saddle point may lie below an end, by rounding and what is left of the forces.
BELOW = 1e-3


@dataclass(frozen=True)
class ReactionPath:
    """A path between two minima.

    Attributes
    ----------
    images
        With energies and forces attached; the first and the last are the minima.
    energies
        eV, as observables where the model has an uncertainty.
    status
        ``"converged"``, ``"finished"`` (out of steps, or without a saddle point between the ends)
        or ``"failed"``.
    reason
        Why it failed, or why what it came to is no barrier.
    steps, evaluations
        Of the band and its finish; evaluations of single images, without those of the ends.
    fmax
        Largest force at the end, eV/Angstrom: of the band, or of the top image that went on alone.
    saddle_index
        The image that left the band and was brought to the saddle point alone; -1 where the band
        did so as a whole.
    permutation
        For each atom its index in the final structure as given; None where the order was kept.
    unknown_images
        Images that the model's own flag calls outside of what it knows.
    """

    images: list[Atoms]
    energies: list[Observable]
    status: str
    reason: str = ""
    steps: int = 0
    evaluations: int = 0
    fmax: float = float("nan")
    saddle_index: int = -1
    permutation: list[int] | None = None
    unknown_images: list[int] = field(default_factory=list)

    @property
    def converged(self) -> bool:
        """Whether it came below the threshold."""
        return self.status == "converged"

    @property
    def top(self) -> int:
        """Index of the image at the saddle point, or of the highest."""
        # Other images of a band whose top has left it have not settled: one may lie higher.
        if self.saddle_index >= 0:
            return self.saddle_index
        return int(np.argmax([float(e) for e in self.energies]))

    @property
    def saddle(self) -> Atoms:
        """The image at the top."""
        return self.images[self.top]

    @property
    def barrier(self) -> Observable:
        """Energy of the top above the first image, eV.

        The top of a whole band is each member's own highest image.
        """
        return self._height(0)

    @property
    def reverse_barrier(self) -> Observable:
        """Energy of the top above the last image, eV."""
        return self._height(-1)

    def _height(self, end: int) -> Observable:
        if self.saddle_index >= 0:
            return self.energies[self.saddle_index] - self.energies[end]
        return combine(lambda *e: max(e) - e[end], *self.energies)

    @property
    def reaction_energy(self) -> Observable:
        """Energy of the last image above the first, eV."""
        return self.energies[-1] - self.energies[0]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values without the structures."""
        numbers = ("barrier", "reverse_barrier", "reaction_energy")
        values = {name: getattr(self, name) for name in numbers} if self.energies else {}
        return {
            **{name: one.value for name, one in values.items()},
            "std": {name: one.std for name, one in values.items()},
            "status": self.status,
            "converged": self.converged,
            "reason": self.reason,
            "steps": self.steps,
            "evaluations": self.evaluations,
            "fmax": self.fmax,
            "saddle_index": self.saddle_index,
            "permutation": self.permutation,
            "unknown_images": self.unknown_images,
            "energies": [e.value for e in self.energies],
            "distances": path_lengths(self.images).tolist(),
        }


def what_no_saddle_means(energies: Sequence[float], top: int | None) -> str:
    """Return what is wrong with a path whose saddle point lies below an end, or nothing.

    Parameters
    ----------
    energies
        eV, of all images.
    top
        The image at the saddle point; None for the highest between the ends.
    """
    saddle = max(energies[1:-1]) if top is None else energies[top]
    below = max(energies[0], energies[-1]) - saddle
    if below <= BELOW:
        return ""
    return (
        f"The highest image between the ends is {below:.3f} eV below one of them, so that there is "
        "no barrier to read off. Relax the ends, take more images, or divide the path at its "
        "lowest image."
    )


def path_lengths(images: Sequence[Atoms]) -> NDArray[np.float64]:
    """Return the length of the path to each image, by minimum image, Angstrom."""
    from ase.geometry import find_mic

    moves = [
        np.linalg.norm(find_mic(b.positions - a.positions, a.cell, a.pbc)[0])
        for a, b in pairwise(images)
    ]
    return np.concatenate([[0.0], np.cumsum(moves)])
