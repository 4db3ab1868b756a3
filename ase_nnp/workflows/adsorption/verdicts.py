"""Verdicts of the gate on the ends of one search: each alone, then all compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.models.predictor import predict
from ase_nnp.workflows.adsorption.gate import (
    bond_to_slab,
    doubtful,
    hole,
    left_the_question,
    strange,
    too_low,
)
from ase_nnp.workflows.adsorption.stages import Candidate

if TYPE_CHECKING:
    from ase import Atoms

    from ase_nnp.models.potential import Potential

__all__ = ["Verdicts", "doubts_of"]


def doubts_of(
    potential: Potential, candidates: Sequence[Candidate]
) -> dict[int, Mapping[str, Any]]:
    """Return flag and score that a model gives each candidate, by its id; none without them.

    ``score_threshold`` is added where the model says above which score its flag is set.
    """
    wanted = [n for n in ("ood_flag", "ood_score") if n in potential.outputs]
    asked = [one for one in candidates if one.energy is not None]
    if not wanted or not asked:
        return {}
    rows = predict(potential, [one.atoms for one in asked], wanted, progress=False)
    limit = (getattr(potential, "uq", None) or {}).get("score_threshold")
    return {
        id(one): {**row, "score_threshold": limit} for one, row in zip(asked, rows, strict=True)
    }


class Verdicts:
    """Candidates by what the gate says of them.

    Parameters
    ----------
    slab
        The relaxed clean slab, with OC20 tags.

    Attributes
    ----------
    accepted
        Those that nothing speaks against so far.
    rejected
        Reason, details, candidate.
    scores, shares
        ``ood_score`` by the candidate's id, and the same over the threshold of the model's flag.
    """

    def __init__(self, slab: Atoms) -> None:
        self.slab = slab
        self.accepted: list[Candidate] = []
        self.rejected: list[tuple[str, str, Candidate]] = []
        self.scores: dict[int, float | None] = {}
        self.shares: dict[int, float | None] = {}

    def judge(
        self, candidates: Sequence[Candidate], doubts: Mapping[int, Mapping[str, Any]]
    ) -> None:
        """Sort candidates, each for itself; ``doubts`` are those of :func:`doubts_of`."""
        for one in candidates:
            row = doubts.get(id(one), {})
            score, limit = row.get("ood_score"), row.get("score_threshold")
            self.scores[id(one)] = None if score is None else float(score)
            self.shares[id(one)] = None
            if score is not None and limit:
                self.shares[id(one)] = float(score) / float(limit)

            reason, detail = self._verdict(one, row)
            if reason:
                self.rejected.append((reason, detail, one))
            else:
                self.accepted.append(one)

    def compare(self, energies: Mapping[int, Any]) -> None:
        """Reject what the others of the question speak against.

        Parameters
        ----------
        energies
            Adsorption energies by the candidate's id: numbers with a ``std``.
        """
        unknown = strange([self.shares.get(id(one)) for one in self.accepted])
        self._reject("unknown to the model", unknown)

        values = [energies[id(one)] for one in self.accepted]
        bonds = [bond_to_slab(one.atoms, _guests(one)) for one in self.accepted]
        holes = too_low([float(v) for v in values], [v.std for v in values], bonds)
        self._reject("hole", holes)

    def _reject(self, reason: str, details: Mapping[int, str]) -> None:
        """Move accepted candidates to the rejected; ``details`` are by place."""
        self.rejected += [(reason, said, self.accepted[k]) for k, said in details.items()]
        self.accepted = [one for k, one in enumerate(self.accepted) if k not in details]

    def _verdict(self, one: Candidate, row: Mapping[str, Any]) -> tuple[str, str]:
        """The first reason that holds: those of physics and of trust before that of effort."""
        if one.energy is None:
            return "failed", one.reason
        inside = hole(one.atoms, _guests(one))
        if inside:
            return "hole", inside

        one.atoms.set_tags(one.start.get_tags())
        left = left_the_question(one.start, one.atoms, self.slab)
        if left:
            return left, ""
        unknown = doubtful(row)
        if unknown:
            return "unknown to the model", unknown
        return ("", "") if one.converged else ("not converged", one.reason)


def _guests(one: Candidate) -> Any:
    return np.flatnonzero(one.start.get_tags() == 2)
