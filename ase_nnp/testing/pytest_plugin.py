"""Options of the suites: ``pytest --pyargs ase_nnp.testing --nnp-model NAME``, and
``--ase-calculator module:factory`` for the ASE contract of any calculator.

pytest loads this module in every run of an environment that has this package, so it imports
nothing; the suite itself is :mod:`ase_nnp.testing`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["pytest_addoption", "pytest_generate_tests"]


def pytest_addoption(parser: Any) -> None:
    """Add ``--nnp-model`` and ``--ase-calculator``, which may be given several times."""
    group = parser.getgroup("ase_nnp", "conformance of neural-network potentials")
    group.addoption(
        "--nnp-model",
        action="append",
        default=[],
        metavar="NAME",
        help="run the conformance suite on this model family (with `--pyargs ase_nnp.testing`)",
    )

    group.addoption(
        "--ase-calculator",
        action="append",
        default=[],
        metavar="MODULE:FACTORY",
        help="run the ASE contract on this calculator (with `--pyargs ase_nnp.testing`)",
    )


def pytest_generate_tests(metafunc: Any) -> None:
    """One test per subject and check, for tests that take ``nnp_model`` or ``ase_calculator``."""
    if {"nnp_model", "nnp_check"} <= set(metafunc.fixturenames):
        from ase_nnp.testing import CHECKS

        names = metafunc.config.getoption("--nnp-model")
        cases = [(name, check) for name in names for check in CHECKS]
        ids = [f"{name}-{check.name}" for name, check in cases]
        metafunc.parametrize(("nnp_model", "nnp_check"), cases, ids=ids)
    if {"ase_calculator", "ase_check"} <= set(metafunc.fixturenames):
        from ase_nnp.testing.ase_contract import CONTRACT

        names = metafunc.config.getoption("--ase-calculator")
        pairs = [(name, check) for name in names for check in CONTRACT]
        ids = [f"{name}-{check.name}" for name, check in pairs]
        metafunc.parametrize(("ase_calculator", "ase_check"), pairs, ids=ids)
