"""Curvature at symmetric sites, acoustic modes and the repulsive core of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase import Atoms

from ase_nnp.testing.curvature import (
    curvature_jumps,
    rigid_shift,
    symmetric_structures,
    unrepelled,
)
from ase_nnp.testing.outcomes import NotApplicable
from ase_nnp.testing.physics import check_cutoff_is_smooth
from ase_nnp.testing.subject import Subject, check, relative

__all__: list[str] = []


def _structures(subject: Subject) -> dict[str, Atoms]:
    if not subject.has_forces:
        raise NotApplicable("no forces")
    return symmetric_structures(
        subject.numbers[:2], molecules=not subject.periodic_only(), cutoff=subject.model.cutoff
    )


def _evaluate(subject: Subject, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
    periodic = all(atoms.cell.rank == 3 for atoms in structures)
    return subject.predict(*structures, stress=periodic)


# Anharmonic terms of real potentials change a response by 1 to 5 % between the two steps, D3's
# steep coordination numbers by 20 %; a normalization that amplifies what vanishes by symmetry
# changes it by factors.
@check(0.3)
def check_curvature_at_symmetric_sites(subject: Subject) -> float:
    """Second derivatives of perfect crystals agree for steps of 0.001 and 0.02."""
    jumps = curvature_jumps(_structures(subject), lambda s: _evaluate(subject, s))
    return max(jumps.values())


@check(0.02)
def check_forces_end_at_the_cutoff(subject: Subject) -> float:
    """No force jumps when an atom leaves the cutoff."""
    if not subject.has_forces or subject.periodic_only():
        raise NotApplicable("no forces, or crystals only")
    if not subject.model.cutoff:
        raise NotApplicable("the model finds its own neighbors")
    if check_cutoff_is_smooth(subject) > 1e-6:
        raise NotApplicable("the energy jumps there already")

    # A smooth force changes by some millionths over this step. A jump shows beside the forces of
    # the molecule, or of a single bond beside 1 meV/Angstrom.
    a, b, _ = subject.numbers
    pairs = []
    for step in (-1e-6, 1e-6):
        away = Atoms([b], positions=[[-subject.model.cutoff - step, 0, 0]])
        pairs.append((subject.molecule() + away, Atoms([a], positions=[[0, 0, 0]]) + away))
    inside, outside = ([subject.predict(s)[0]["forces"] for s in pair] for pair in pairs)
    return max(relative(one, two) for one, two in zip(inside, outside, strict=True))


@check(1e-6)
def check_acoustic_modes_vanish(subject: Subject) -> float:
    """The response to one displaced atom adds up to zero over all atoms."""
    return max(rigid_shift(_structures(subject), lambda s: _evaluate(subject, s)).values())


@check(0.0)
def check_repulsive_core(subject: Subject) -> float:
    """No pair of atoms gains energy by coming closer than any bond, if the model declares so."""
    if not subject.model.repulsive_core:
        raise NotApplicable("the model declares no repulsive core")
    falling = unrepelled(subject.numbers, lambda s: _evaluate(subject, s))
    if falling:
        raise AssertionError("; ".join(falling))
    return 0.0
