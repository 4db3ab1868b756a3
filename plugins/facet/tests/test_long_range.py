"""Facet with each long-range block: what any potential owes, and where a block cannot give it."""

from __future__ import annotations

import pytest

import ase_nnp
from ase_nnp.errors import ConfigError
from ase_nnp.testing import CHECKS, make_subject, run_check, run_checks

#: How far a block may be from exact in the small model under test: attention over a whole structure
#: and charges reach without end; the rest is the error of the difference quotient, which is four
#: times smaller at half the step.
ALLOWED = {
    "ewald": {"stress_is_the_strain_derivative": 2e-6},
    "neural_atoms": {
        "energy_is_extensive": 1e-4,
        "stress_is_the_strain_derivative": 2e-6,
    },
    "charges": {"energy_is_extensive": 0.1, "mixed_pbc": 3.0, "cutoff_is_smooth": 1e-5},
}
BLOCKS = {
    "ewald": {"kind": "ewald", "widths": [2.0, 3.0], "channels": 4},
    "neural_atoms": {"kind": "neural_atoms", "count": 3, "heads": 2},
    "charges": {"kind": "charges"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_keeps_the_gradient_and_the_batch(kind):
    subject = make_subject("facet", long_range=BLOCKS[kind])
    for check in CHECKS:
        if check.name in ("forces_are_minus_the_gradient", "batching_changes_nothing"):
            outcome = run_check(check, subject)
            assert outcome.ok, outcome.message


@pytest.mark.slow
@pytest.mark.parametrize("kind", BLOCKS)
def test_the_model_conforms_with_the_block_on(kind):
    outcomes = {o.check: o for o in run_checks(make_subject("facet", long_range=BLOCKS[kind]))}
    for name, outcome in outcomes.items():
        limit = ALLOWED[kind].get(name, 0.0)
        within = outcome.figure is not None and outcome.figure < limit
        assert outcome.ok or within, f"{name}: {outcome.message}"


def test_a_name_that_is_no_kind_is_refused():
    with pytest.raises(ConfigError, match=r"long_range\.kind is 'ewlad'"):
        ase_nnp.build_model("facet", {"long_range": {"kind": "ewlad"}})
