"""pytest plugin for ASE's own tests: NNPCalculator in the place of ASE's EMT.

    python -m pytest -p emt_in_disguise --pyargs ase.test.optimize

with this folder on ``PYTHONPATH``. EMT itself computes behind :func:`ase_nnp.from_ase`, so that
every test that passes with EMT must pass here. ``NNP_IN_EMTS_PLACE=default`` puts the model that
ships there instead.
"""

from __future__ import annotations

import os

import ase.calculators.emt as emt

from ase_nnp import NNPCalculator, from_ase, load_model

_EMT = emt.EMT
_DEFAULT = None
if os.environ.get("NNP_IN_EMTS_PLACE") == "default":
    _DEFAULT = load_model(None, device="cpu", dtype="float64").unwrapped  # no error bars


class EMT(NNPCalculator):
    """What ASE's tests take for EMT."""

    def __init__(self, **options):
        super().__init__(_DEFAULT or from_ase(_EMT(**options)))


emt.EMT = EMT
