"""Our calculator and ASE's of the same potential, for programs that take an ASE calculator."""

from __future__ import annotations

import pytest
from client_calculators import CALCULATORS


@pytest.fixture(params=["lj", "emt"])
def calculators(request):
    """Two functions that make a calculator: ours first, then ASE's, which gives the right values.

    Lennard-Jones is a torch model behind ours and ASE's own code in the other; EMT is the same code
    in both, seen through :func:`ase_nnp.from_ase`.
    """
    return CALCULATORS[request.param]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Clients write logs and results where they are started."""
    monkeypatch.chdir(tmp_path)
