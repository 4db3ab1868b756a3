"""The conformance suite, the ASE contract and the template of a new plugin.

The names below are imported when they are first used: pytest loads this package in every run of an
environment that has it, and that must not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "CHECKS": "checks",
    "Outcome": "outcomes",
    "conformance": "suite",
    "make_subject": "suite",
    "run_check": "suite",
    "run_checks": "suite",
}

__all__ = ["CHECKS", "Outcome", "conformance", "make_subject", "run_check", "run_checks"]

if TYPE_CHECKING:
    from ase_nnp.testing.checks import CHECKS as CHECKS
    from ase_nnp.testing.outcomes import Outcome as Outcome
    from ase_nnp.testing.suite import conformance as conformance
    from ase_nnp.testing.suite import make_subject as make_subject
    from ase_nnp.testing.suite import run_check as run_check
    from ase_nnp.testing.suite import run_checks as run_checks


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
