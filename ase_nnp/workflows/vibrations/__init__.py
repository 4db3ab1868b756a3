"""Hessians and normal modes of atoms, molecules, adsorbates and crystals at rest."""

from ase_nnp.workflows.vibrations.hessian import hessian
from ase_nnp.workflows.vibrations.imaginary import POLICIES, ModeTreatment, treat_modes
from ase_nnp.workflows.vibrations.modes import Vibrations, vibrations

__all__ = ["POLICIES", "ModeTreatment", "Vibrations", "hessian", "treat_modes", "vibrations"]
