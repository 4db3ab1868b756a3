"""Relaxations of a benchmark's structures, and what they moved, as CatBench measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ase_nnp.errors import AseNnpError
from ase_nnp.models.potential import Potential

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Relaxed", "Run", "relax_parts"]

CUTOFF = 6.0


@dataclass(frozen=True)
class Run:
    """One relaxation: steps taken, whether it converged, its energies at both ends, eV."""

    steps: int
    converged: bool
    first: float
    last: float


@dataclass(frozen=True)
class Relaxed:
    """A reaction's relaxations.

    Attributes
    ----------
    steps
        The largest number of steps of slab and adslab.
    converged
        Whether both did.
    slab_displacement, adslab_displacement, substrate_displacement
        Largest displacement of an atom of the clean slab, of the adslab, and of its slab, A.
    bond_change
        Largest relative change of a distance between an adsorbate's atom and an atom within 6 A.
    runs
        By name of the structure.
    """

    steps: int
    converged: bool
    slab_displacement: float
    adslab_displacement: float
    substrate_displacement: float
    bond_change: float
    runs: Mapping[str, Run]

    @classmethod
    def of(
        cls,
        before: Mapping[str, Atoms],
        after: Mapping[str, Atoms],
        runs: Mapping[str, Run],
        adslab: str,
    ) -> Relaxed:
        """Measure the relaxations of one reaction."""
        inside = adsorbate_atoms(before[adslab])
        moved = _displacements(before[adslab], after[adslab])
        outside = np.setdiff1d(np.arange(len(moved)), inside)
        slab = _displacements(before["star"], after["star"]) if "star" in before else np.zeros(1)
        solid = [run for part, run in runs.items() if not part.endswith("gas")]
        return cls(
            steps=max(run.steps for run in solid),
            converged=all(run.converged for run in solid),
            slab_displacement=float(slab.max()),
            adslab_displacement=float(moved.max()),
            substrate_displacement=float(moved[outside].max()) if len(outside) else 0.0,
            bond_change=_bond_change(before[adslab], after[adslab], inside),
            runs=dict(runs),
        )


def adsorbate_atoms(adslab: Atoms) -> np.ndarray:  # type: ignore[type-arg]
    """Return the atoms of tag 2."""
    return np.flatnonzero(adslab.get_tags() == 2)


def relax_parts(
    model: Potential,
    structures: Sequence[Atoms],
    fmax: float,
    steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Atoms], list[Run]]:
    """Relax structures one by one with LBFGS, as CatBench does; fixed atoms stay fixed."""
    from ase.optimize import LBFGS

    from ase_nnp.calculator.calculator import NNPCalculator

    calculator = NNPCalculator(model, uncertainty=False)
    relaxed, runs = [], []
    for number, structure in enumerate(structures, 1):
        atoms = structure.copy()
        atoms.calc = calculator
        try:
            first = float(atoms.get_potential_energy())
            optimizer = LBFGS(atoms, logfile=None)  # type: ignore[arg-type]
            converged = bool(optimizer.run(fmax=fmax, steps=steps)) or len(atoms) == 1
            run = Run(int(optimizer.nsteps), converged, first, float(atoms.get_potential_energy()))
        except AseNnpError:
            run = Run(0, False, float("nan"), float("nan"))
        atoms.calc = None
        relaxed.append(atoms)
        runs.append(run)
        if progress is not None:
            progress(number, len(structures))
    return relaxed, runs


def _displacements(before: Atoms, after: Atoms) -> np.ndarray:  # type: ignore[type-arg]
    from ase.geometry import find_mic

    vectors, _ = find_mic(after.positions - before.positions, before.cell, before.pbc)
    return np.asarray(np.linalg.norm(vectors, axis=1))


def _bond_change(before: Atoms, after: Atoms, inside: np.ndarray) -> float:  # type: ignore[type-arg]
    largest = 0.0
    everyone = np.arange(len(before))
    for atom in inside:
        others = everyone[everyone != atom]
        old = before.get_distances(atom, others, mic=True)
        new = after.get_distances(atom, others, mic=True)
        near = ((old <= CUTOFF) | (new <= CUTOFF)) & (old > 0)
        if near.any():
            largest = max(largest, float((np.abs(new - old)[near] / old[near]).max()))
    return largest
