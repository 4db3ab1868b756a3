"""The ASE contract: what any ASE calculator owes its users, as checks that anyone can run.

::

    ase-nnp plugin check --ase-calculator ase.calculators.emt:EMT
    pytest --pyargs ase_nnp.testing --ase-calculator ase.calculators.emt:EMT

or in Python::

    from ase_nnp.testing.ase_contract import check_calculator

    for outcome in check_calculator("ase.calculators.emt:EMT"):
        print(outcome.check, outcome.status, outcome.message)

The checks need nothing of the calculator but ASE's own interface, and this package nothing but ASE
and numpy, so that it runs in environments where the rest of ``ase_nnp`` cannot be installed. Each
check is a fault that was found in a published calculator; ``docs/ase-contract.md`` lists them.
"""

from __future__ import annotations

from ase_nnp.testing.ase_contract.checks import CONTRACT
from ase_nnp.testing.ase_contract.runner import check_calculator
from ase_nnp.testing.ase_contract.subject import (
    CalculatorSubject,
    ContractCheck,
    find_factory,
    run_contract_check,
)

__all__ = [
    "CONTRACT",
    "CalculatorSubject",
    "ContractCheck",
    "check_calculator",
    "find_factory",
    "run_contract_check",
]
