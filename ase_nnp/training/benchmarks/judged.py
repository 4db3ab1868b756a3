"""Energies with their error bars, for structures of which a model may refuse some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ase_nnp.errors import AseNnpError
from ase_nnp.models.potential import Potential
from ase_nnp.training.benchmarks.report import COVERAGE, Answer
from ase_nnp.uncertainty.differences import energies
from ase_nnp.uncertainty.observables import Observable

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Judgment", "answer_of", "judge"]


@dataclass(frozen=True)
class Judgment:
    """A structure's energy as an observable, whether the model marks it, or why it has none."""

    energy: Observable | None
    unknown: bool | None
    problem: str = ""


def judge(model: Potential, structures: Sequence[Atoms]) -> list[Judgment]:
    """Return the model's energies; a structure it refuses does not stop the others."""
    structures = list(structures)
    allowed = [k for k, atoms in enumerate(structures) if _known(model, atoms)]
    judgments = [Judgment(None, True, "an element that the model was not made for")] * len(
        structures
    )
    try:
        rows = _judge(model, [structures[k] for k in allowed])
    except AseNnpError:
        rows = [_alone(model, structures[k]) for k in allowed]
    for k, row in zip(allowed, rows, strict=True):
        judgments[k] = row
    return judgments


def _known(model: Potential, atoms: Atoms) -> bool:
    elements = model.elements
    return not elements or set(np.unique(atoms.numbers).tolist()) <= set(elements)


def _alone(model: Potential, atoms: Atoms) -> Judgment:
    try:
        return _judge(model, [atoms])[0]
    except AseNnpError as error:
        return Judgment(None, None, str(error))


def _judge(model: Potential, structures: list[Atoms]) -> list[Judgment]:
    if not structures:
        return []
    # With what their errors have in common: answers are differences of these.
    tells = "ood_flag" in model.outputs
    return [
        Judgment(one, bool(one.unknown) if tells else None) for one in energies(model, structures)
    ]


def answer_of(
    name: str,
    group: str,
    reference: float,
    combined: Observable | None,
    parts: Sequence[Judgment],
    label: str = "",
) -> Answer:
    """Return the answer that an observable makes of the judgments it came from."""
    told = [part.unknown for part in parts if part.unknown is not None]
    unknown = any(told) if told else None
    if combined is None:
        problem = next((part.problem for part in parts if part.problem), "no energy")
        return Answer(name, group, reference, unknown=unknown, problem=problem, label=label)

    interval = combined.interval(COVERAGE)
    # A number without any source of doubt has no bar, rather than one of width zero.
    has_bar = combined.std is not None and bool(combined.parts)
    return Answer(
        name,
        group,
        reference,
        combined.value,
        combined.std if has_bar else None,
        interval if has_bar else None,
        unknown,
        label=label,
    )
