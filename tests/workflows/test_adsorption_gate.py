"""The gate on ends of a model that a judge has seen: holes are rejected, true minima kept.

The structures were relaxed by the model that ships from starts that nobody should make, and from
sites; SevenNet-0 says which are holes (a force above 5 eV/Angstrom, or 1 eV above the model) and
which are right within 0.3 eV. ``benchmarks/adsorption_gate.py`` makes such a file.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import ase_nnp
from ase_nnp.workflows.adsorption.stages import Candidate
from ase_nnp.workflows.adsorption.verdicts import Verdicts

ENDS = Path(__file__).parents[1] / "helpers" / "gate_ends.extxyz.xz"
#: Of the flag of the model that relaxed them.
THRESHOLD = 1.308
TRUST = ("unknown to the model", "hole")


class Energy(float):
    """A number with an error bar."""

    std: float | None = None


@pytest.fixture(scope="module")
def systems():
    """Structures by system."""
    groups = defaultdict(list)
    for atoms in ase_nnp.open_dataset(ENDS):
        groups[atoms.info["system"]].append(atoms)
    return groups


def verdicts(rows, bars):
    """What the gate says of the ends of one system; pairs of truth and reason."""
    candidates, doubts, energies = [], {}, {}
    for k, end in enumerate(rows):
        start, info = end.copy(), end.info
        start.positions = end.arrays["start"]
        # A relaxation that goes on would converge: effort is no excuse of the gate.
        one = Candidate(start, end, [k], energy=info["model_energy"], converged=True)
        candidates.append(one)
        value = energies[id(one)] = Energy(info["model_energy"])
        if bars:
            score = info["ood_score"]
            doubts[id(one)] = {
                "ood_flag": score > THRESHOLD,
                "ood_score": score,
                "score_threshold": THRESHOLD,
            }
            value.std = info["std"]
    slab = rows[0][rows[0].get_tags() < 2]
    slab.positions = slab.arrays["clean"]

    said = Verdicts(slab)
    said.judge(candidates, doubts)
    said.compare(energies)
    reasons = {id(one): reason for reason, _, one in said.rejected}
    return [
        (end.info["truth"], reasons.get(id(one), "accepted"))
        for end, one in zip(rows, candidates, strict=True)
    ]


@pytest.mark.slow
def test_planted_holes_are_rejected_and_true_minima_are_kept(systems):
    said = [pair for rows in systems.values() for pair in verdicts(rows, bars=True)]
    holes = [reason for truth, reason in said if truth == "hole"]
    assert len(holes) >= 10
    assert "accepted" not in holes
    right = [reason for truth, reason in said if truth == "right"]
    asked = [reason for reason in right if reason in ("accepted", *TRUST)]
    assert len(asked) >= 20
    assert np.mean([reason in TRUST for reason in asked]) <= 0.05
