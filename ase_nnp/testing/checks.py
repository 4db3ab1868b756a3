"""The checks of the conformance suite. Each returns a relative violation; 0 is exact."""

from __future__ import annotations

# Imported for what they register, in the order in which the checks run.
from ase_nnp.testing import physics  # noqa: F401

from ase_nnp.testing import orientation, calls, modes, precision  # noqa: F401  # isort: skip
from ase_nnp.testing import devices, handling, smoothness  # noqa: F401  # isort: skip
from ase_nnp.testing.outcomes import NotApplicable
from ase_nnp.testing.subject import CHECKS, Check, Subject

__all__ = ["CHECKS", "Check", "NotApplicable", "Subject"]
