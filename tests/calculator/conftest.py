"""A model and a crystal that tests of the calculator share."""

from __future__ import annotations

import pytest
from ase.build import bulk

from ase_nnp import NNPCalculator, build_model


@pytest.fixture
def lj():
    return build_model("lj", dtype="float64", device="cpu")


@pytest.fixture
def copper(lj):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.08, seed=3)
    atoms.calc = NNPCalculator(lj)
    return atoms
