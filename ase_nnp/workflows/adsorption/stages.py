"""Relaxations of a search in stages, each a batched run that goes on after a kill, and merging."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.workflows.adsorption.fingerprints import (
    Array,
    adsorbate_distance,
    adsorbate_fingerprint,
)
from ase_nnp.workflows.batched.outcome import Outcome
from ase_nnp.workflows.batched.relaxation import relax_many

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["Candidate", "Stages", "merged"]

#: Two relaxed placements are one within these; eV and Angstrom of any distance.
SAME_ENERGY, SAME_PLACE = 0.05, 0.2


@dataclass
class Candidate:
    """A placement on its way, and those that turned out to be the same.

    Attributes
    ----------
    start
        The first placement of the group as it was put.
    atoms
        As it is now.
    placements
        Numbers of all placements of the group.
    energy
        eV, total; None before the first stage.
    converged
        Whether its last relaxation was.
    reason
        Why that failed.
    """

    start: Atoms
    atoms: Atoms
    placements: list[int]
    energy: float | None = None
    converged: bool = False
    reason: str = ""
    _fingerprint: Array | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> Array:
        """Of the adsorbate as it is now."""
        if self._fingerprint is None:
            guests = np.flatnonzero(self.start.get_tags() == 2)
            self._fingerprint = adsorbate_fingerprint(self.atoms, guests)
        return self._fingerprint

    def moved(self, outcome: Outcome) -> Candidate:
        """Return the candidate after a relaxation."""
        atoms = outcome.atoms
        atoms.set_constraint(self.start.constraints)
        energy = None if outcome.status == "failed" else outcome.energy
        return Candidate(
            self.start, atoms, self.placements, energy, outcome.converged, outcome.reason
        )


def merged(candidates: Iterable[Candidate], tolerance: float = SAME_PLACE) -> list[Candidate]:
    """Return one candidate of each group that is the same up to the slab's symmetry.

    The lowest stays, with the placements of all.
    """
    ordered = sorted(candidates, key=lambda c: (c.energy is None, c.energy or 0.0))
    kept: list[Candidate] = []
    for one in ordered:
        twin = next((k for k in kept if alike(k, one, tolerance)), None)
        if twin is None:
            kept.append(one)
        else:
            twin.placements = sorted([*twin.placements, *one.placements])
    return kept


def alike(one: Candidate, other: Candidate, tolerance: float = SAME_PLACE) -> bool:
    """Whether two candidates are the same place, and as far as it is known the same energy."""
    energies = one.energy, other.energy
    if None not in energies and abs(energies[0] - energies[1]) > SAME_ENERGY:  # type: ignore[operator]
        return False
    numbers = one.start.numbers[one.start.get_tags() == 2]
    return adsorbate_distance(one.fingerprint, other.fingerprint, numbers) < tolerance


class Stages:
    """Runs of :func:`~ase_nnp.workflows.relax_many`, one after the other.

    Parameters
    ----------
    potential
        The model.
    folder
        Each stage keeps its state in a folder in there; None keeps nothing.
    progress
        Called as ``progress(stage, finished, total)``.
    """

    def __init__(
        self,
        potential: Potential,
        folder: Path | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self.potential, self.folder, self.progress = potential, folder, progress
        self.relaxations = self.steps = 0
        # On a CPU the size of batches is chosen by measured time, and float32 sums differ with it.
        self.batch: str | int = "loop" if potential.device.type == "cpu" else "auto"

    def relax(self, name: str, structures: Sequence[Atoms], **options: Any) -> list[Outcome]:
        """Relax structures with BFGS; ``options`` as for :func:`relax_many`."""
        if not structures:
            return []
        settings = {"optimizer": "BFGS", "trajectory": None, "batch": self.batch, **options}
        if self.folder is not None:
            settings["folder"] = self.folder / name
        if self.progress is not None:
            told = self.progress
            settings["progress"] = lambda now: told(name, now.finished, now.total)

        outcomes = relax_many(self.potential, list(structures), **settings)
        self.relaxations += len(outcomes)
        self.steps += sum(outcome.steps for outcome in outcomes)
        return outcomes

    def move(
        self, name: str, candidates: Sequence[Candidate], *, rigid: bool = False, **options: Any
    ) -> list[Candidate]:
        """Relax candidates; with ``rigid`` the adsorbates alone."""
        structures = []
        for one in candidates:
            atoms = one.atoms.copy()
            if rigid:
                from ase.constraints import FixAtoms

                atoms.set_constraint(FixAtoms(mask=one.start.get_tags() < 2))
            structures.append(atoms)
        outcomes = self.relax(name, structures, **options)
        return [one.moved(outcome) for one, outcome in zip(candidates, outcomes, strict=True)]
