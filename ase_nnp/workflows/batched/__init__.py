"""Relaxation and dynamics of many structures at once."""

from ase_nnp.workflows.batched.ensembles import iter_dynamics, run_dynamics
from ase_nnp.workflows.batched.outcome import Outcome
from ase_nnp.workflows.batched.relaxation import iter_relax, relax_many
from ase_nnp.workflows.batched.settings import Progress, RunSettings

__all__ = [
    "Outcome",
    "Progress",
    "RunSettings",
    "iter_dynamics",
    "iter_relax",
    "relax_many",
    "run_dynamics",
]
