"""What ``pytest --pyargs ase_nnp.testing`` runs: one test a check, for each subject asked for."""

from __future__ import annotations

from ase_nnp.testing.ase_contract import CalculatorSubject, ContractCheck, run_contract_check
from ase_nnp.testing.checks import Check, Subject
from ase_nnp.testing.suite import make_subject, run_check

_SUBJECTS: dict[str, Subject] = {}


def test_model_keeps_what_it_promises(nnp_model: str, nnp_check: Check) -> None:
    """Run by pytest with ``--nnp-model``."""
    if nnp_model not in _SUBJECTS:
        _SUBJECTS[nnp_model] = make_subject(nnp_model)
    outcome = run_check(nnp_check, _SUBJECTS[nnp_model])
    assert outcome.ok, f"{nnp_model}: {nnp_check.name}: {outcome.message}"


_CALCULATORS: dict[str, CalculatorSubject] = {}


def test_calculator_keeps_the_ase_contract(ase_calculator: str, ase_check: ContractCheck) -> None:
    """Run by pytest with ``--ase-calculator``."""
    if ase_calculator not in _CALCULATORS:
        _CALCULATORS[ase_calculator] = CalculatorSubject.of(ase_calculator)
    outcome = run_contract_check(ase_check, _CALCULATORS[ase_calculator])
    assert outcome.ok, f"{ase_calculator}: {ase_check.name}: {outcome.message}"
