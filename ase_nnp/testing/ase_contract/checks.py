"""The checks of the ASE contract. A figure of 0 is right; an AssertionError says what is wrong."""

from __future__ import annotations

# Imported for what they register, in the order in which the checks run.
from ase_nnp.testing.ase_contract import answers, storage  # noqa: F401

from ase_nnp.testing.ase_contract import behavior, smoothness  # noqa: F401  # isort: skip
from ase_nnp.testing.ase_contract.checking import CONTRACT

__all__ = ["CONTRACT"]
