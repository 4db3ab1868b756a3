"""Free energies and what is drawn from them: reactions, surfaces, rates."""

from ase_nnp.workflows.thermo.gibbs import TREATMENTS, FreeEnergy, gibbs
from ase_nnp.workflows.thermo.states import State, adsorbate, gas, solid

__all__ = ["TREATMENTS", "FreeEnergy", "State", "adsorbate", "gas", "gibbs", "solid"]
