"""Run the ASE contract on one calculator."""

from __future__ import annotations

from collections.abc import Iterator

from ase_nnp.testing.ase_contract.checks import CONTRACT
from ase_nnp.testing.ase_contract.subject import CalculatorSubject, Factory, run_contract_check
from ase_nnp.testing.outcomes import Outcome

__all__ = ["check_calculator"]


def check_calculator(calculator: str | Factory) -> Iterator[Outcome]:
    """Run every check of the ASE contract in turn; only the first if there is no calculator.

    Parameters
    ----------
    calculator
        ``"module:factory"``, or a function without arguments that makes the calculator; then the
        checks that need a fresh process do not apply.

    Raises
    ------
    ConfigError
        The text does not name something that can be called.
    """
    # One subject for all: making a calculator may load a model of gigabytes.
    subject = CalculatorSubject.of(calculator)
    for number, check in enumerate(CONTRACT):
        outcome = run_contract_check(check, subject)
        yield outcome
        if number == 0 and not outcome.ok:
            return  # a calculator that cannot be made would fail the rest in the same words
