# %% [markdown]
# # A reaction at an electrode: oxygen evolution on platinum
#
# Free energies of *OH, *O and *OOH with the model that ships, the computational hydrogen electrode,
# the potential at which every step runs downhill, and how sure the model is of it. A thin slab and
# one vibrating adsorbate keep this short; converge both before you believe a number.

# %%
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.constraints import FixAtoms

import ase_nnp
from ase_nnp.workflows.thermo import adsorbate, gas, gibbs, solid
from ase_nnp.workflows.thermo.electrode import (
    draw_reaction_diagram,
    oxygen_from_water,
    reaction_diagram,
)

model = ase_nnp.load_model()
slab = fcc111("Pt", (2, 2, 3), vacuum=7)
slab.set_constraint(FixAtoms(mask=slab.get_tags() > 1))

# %% [markdown]
# ## The states
#
# <!-- source: measured, twice 2.46 eV a molecule of water (CODATA) -->
# Water at its vapor pressure stands for the liquid. O2 is never computed: density functionals, and
# models of them, are wrong for it, so that its free energy comes from the measured 4.92 eV of water
# splitting.

# %%
adsorbates = {
    "*OH": (Atoms("OH", [(0, 0, 0), (0.3, 0.8, 0.5)]), 1.6, "bridge"),
    "*O": (Atoms("O"), 1.2, "fcc"),
    "*OOH": (Atoms("OOH", [(0, 0, 0), (1.2, 0.2, 0.7), (1.3, 0.9, 1.3)]), 2.1, "ontop"),
}
states = {
    "H2O": gibbs(gas(molecule("H2O"), model), pressure=3534),
    "H2": gibbs(gas(molecule("H2"), model)),
    "*": gibbs(solid(slab, model, fmax=0.05)),
}
for name, (atoms, height, site) in adsorbates.items():
    covered = slab.copy()
    add_adsorbate(covered, atoms, height, site)
    states[name] = gibbs(adsorbate(covered, model, fmax=0.02), floor=50, small=150)
    print(name, states[name].value, "eV;", states[name].modes)
states["O2"] = oxygen_from_water(states["H2O"], states["H2"])

# %% [markdown]
# ## The diagram

# %%
oer = [
    "* + H2O -> *OH + H+ + e-",
    "*OH -> *O + H+ + e-",
    "*O + H2O -> *OOH + H+ + e-",
    "*OOH -> * + O2 + H+ + e-",
]
diagram = reaction_diagram(oer, states)
for step in diagram.steps:
    print(f"{step.equation:32s} {step.energy} eV")
print("limiting potential", diagram.limiting_potential, "V, by", diagram.limiting_step.equation)
print("overpotential", diagram.overpotential, "V")
draw_reaction_diagram(diagram, "oer.png", potentials=(0.0, 1.23))

# %%
assert abs(sum(step.energy.value for step in diagram.steps) - 4.92) < 1e-9
assert diagram.overpotential.value >= 0
