"""Whether second derivatives mean something at perfect lattice sites, and whether atoms repel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase import Atoms

from ase_nnp.testing.ase_contract.checking import check, refuses
from ase_nnp.testing.ase_contract.subject import CalculatorSubject
from ase_nnp.testing.curvature import curvature_jumps, symmetric_structures, unrepelled
from ase_nnp.testing.outcomes import NotApplicable

__all__: list[str] = []


def _evaluate(subject: CalculatorSubject, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
    periodic = all(atoms.cell.rank == 3 for atoms in structures)
    wanted = ["energy", "forces"]
    if periodic and subject.gives("stress"):
        wanted.append("stress")
    return [{name: subject.get(name, atoms) for name in wanted} for atoms in structures]


@check(0.3)
def check_curvature_at_symmetric_sites(subject: CalculatorSubject) -> float:
    """Second derivatives of perfect crystals agree for steps of 0.001 and 0.02."""
    if not subject.gives("forces"):
        raise NotApplicable("no forces")
    model = getattr(subject.calc, "model", None)
    cutoff = getattr(subject.calc, "cutoff", getattr(model, "cutoff", None))
    known = cutoff if isinstance(cutoff, (int, float)) else None
    structures = symmetric_structures(subject.numbers, molecules=False, cutoff=known)
    jumps = curvature_jumps(structures, lambda s: _evaluate(subject, s))
    return max(jumps.values())


@check()
def check_repulsive_core(subject: CalculatorSubject) -> float:
    """No pair of atoms gains energy by coming closer than any bond, if the model declares so."""
    model = getattr(subject.calc, "model", None)
    declared = getattr(subject.calc, "repulsive_core", getattr(model, "repulsive_core", False))
    if not declared:
        raise NotApplicable("the calculator declares no repulsive core")
    pair = Atoms(subject.numbers, [[0, 0, 0], [0, 0, 1.5]])
    if refuses(lambda: subject.once("energy", pair)) is not None:
        raise NotApplicable("the calculator takes no molecules")
    falling = unrepelled(subject.numbers, lambda s: [{"energy": subject.energy(a)} for a in s])
    assert not falling, "; ".join(falling)
    return 0.0
