"""Our calculator and ASE's of the same potential, for programs that take an ASE calculator."""

from __future__ import annotations

import pytest
from ase.calculators.emt import EMT
from shifted_lj import ase_calculator, our_calculator

from ase_nnp import NNPCalculator, from_ase


@pytest.fixture(params=["lj", "emt"])
def calculators(request):
    """Two functions that make a calculator: ours first, then ASE's, which gives the right values.

    Lennard-Jones is a torch model behind ours and ASE's own code in the other; EMT is the same code
    in both, seen through :func:`ase_nnp.from_ase`.
    """
    if request.param == "lj":
        return our_calculator, ase_calculator
    return lambda: NNPCalculator(from_ase(EMT())), EMT


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Clients write logs and results where they are started."""
    monkeypatch.chdir(tmp_path)
