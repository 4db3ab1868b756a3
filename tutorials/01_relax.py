# %% [markdown]
# # Your first relaxation, with error bars
#
# Put an oxygen atom on platinum, relax it with ASE's own optimizer and the model that ships, and
# read how sure the model is. With a structure of yours, `ase.io.read("slab.xyz")` takes the place
# of the first step.

# %%
import numpy as np
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms
from ase.optimize import BFGS

from ase_nnp import NNPCalculator

slab = fcc111("Pt", (2, 2, 3), vacuum=7)
slab.set_constraint(FixAtoms(mask=slab.get_tags() > 1))
add_adsorbate(slab, "O", 1.4, "fcc")

# %% [markdown]
# ## Relax
#
# `NNPCalculator()` without a name is the default model. Energy, forces and their error bars come
# from one call; fixed atoms stay where they are.

# %%
slab.calc = NNPCalculator()
steps = []


def note():
    results = slab.calc.results
    fmax = np.linalg.norm(slab.get_forces(), axis=1).max()
    steps.append((results["energy"], results["energy_std"], fmax))


before = slab.positions.copy()
optimizer = BFGS(slab, logfile=None)
optimizer.attach(note)
converged = optimizer.run(fmax=0.05, steps=100)
energy, std, fmax = steps[-1]
print(f"{len(steps)} steps, {energy:.3f} +- {std:.3f} eV, largest force {fmax:.3f} eV/Å")
print(f"oxygen is {slab.positions[-1, 2] - slab.positions[:-1, 2].max():.2f} Å above the surface")

# %% [markdown]
# ## What else is known
#
# The kind of energy, whether the model has seen anything like this, and what no error bar covers.

# %%
results = slab.calc.results
print("this is a", slab.calc.energy_kind, "energy")
print("unlike the training set:", results["ood_flag"])
print(results["uq"]["not_covered"])
print("largest error bar of a force:", round(float(results["forces_std_norm"].max()), 3), "eV/Å")

# %% [markdown]
# ## A structure that the model does not know
#
# Two oxygen atoms forced into one site: the number still comes, and so does the doubt.

# %%
strange = slab.copy()
strange.append("O")
strange.positions[-1] = strange.positions[-2] + [0.0, 0.0, 0.7]
strange.calc = NNPCalculator()
strange.get_potential_energy()
doubt = strange.calc.results
print(f"+- {doubt['energy_std']:.2f} eV, unlike the training set: {doubt['ood_flag']}")

# %% [markdown]
# ## A picture

# %%
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure

figure = Figure(figsize=(8, 3.2), layout="constrained")
left, right = figure.subplots(1, 2)
plot_atoms(slab, left, rotation="-80x,15y")
left.set_axis_off()
energies, bars, _ = np.array(steps).T
right.errorbar(range(len(steps)), energies, bars, fmt="o-", ms=3, capsize=2)
right.set(xlabel="step", ylabel="energy (eV)", title="one standard deviation")
figure.savefig("relaxation.png", dpi=110)

# %%
assert converged
assert np.array_equal(slab.positions[:8], before[:8])  # the two lower layers
assert doubt["energy_std"] > 2 * std
