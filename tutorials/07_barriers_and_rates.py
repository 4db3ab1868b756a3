# %% [markdown]
# # From a bulk metal to the rate of a step on its surface
#
# Lattice constant, surface energies, the equilibrium shape, a barrier that is checked, a free
# energy and a rate, each with an error bar. With another model (a path, a name, an ensemble,
# `ase_nnp.from_ase(EMT)`) no further line changes.

# %%
import numpy as np
from ase.build import add_adsorbate, bulk, fcc100, fcc110, fcc111
from ase.constraints import FixAtoms

import ase_nnp
from ase_nnp.uncertainty.differences import energies
from ase_nnp.workflows.crystals import eos
from ase_nnp.workflows.paths import check_saddle, reaction_paths, transition_rate
from ase_nnp.workflows.thermo import adsorbate, gibbs
from ase_nnp.workflows.thermo.surface_phases import surface_energy, wulff_shape
from ase_nnp.workflows.vibrations import vibrations

model = ase_nnp.load_model()  # the one that ships

# %% [markdown]
# ## The crystal

# %%
curve = eos(bulk("Pt", a=3.95), model)
a = (4 * curve.result.volume) ** (1 / 3)
print(f"a = {a:.3f} A, B = {curve.result.bulk_modulus:.0f} +- {curve.std[2]:.0f} GPa")
crystal = bulk("Pt", a=a)

# %% [markdown]
# ## Its surfaces
#
# What the model gets wrong for an atom of the bulk is as wrong in the slab: it cancels.

# %%
gammas = {}
for indices, build in (((1, 1, 1), fcc111), ((1, 0, 0), fcc100), ((1, 1, 0), fcc110)):
    slab = build("Pt", (1, 1, 8), a=a, vacuum=8)
    area = np.linalg.norm(np.cross(slab.cell[0], slab.cell[1]))
    in_slab, in_bulk = energies(model, [slab, crystal])
    gammas[indices] = surface_energy(in_slab, in_bulk, len(slab), area) * 16.0218  # J/m^2
    print(indices, gammas[indices], "J/m^2")
shape = wulff_shape(bulk("Pt", a=a, cubic=True), gammas)
print({k: round(float(v), 2) for k, v in shape.area_fraction_dict.items()})

# %% [markdown]
# ## An adsorbate: oxygen on platinum (111), from one hollow to the next

# %%
slab = fcc111("Pt", (2, 2, 3), a=a, vacuum=6)
slab.set_constraint(FixAtoms(mask=slab.get_tags() > 1))
start, end = slab.copy(), slab.copy()
add_adsorbate(start, "O", 1.2, "fcc")
add_adsorbate(end, "O", 1.2, "hcp")

(path,) = reaction_paths([(start, end)], model, images=5)
print("barrier", path.barrier, "eV; hcp over fcc", path.reaction_energy, "eV")
check = check_saddle(path.saddle, model, (path.images[0], path.images[-1]))
print("imaginary modes", check.imaginary.round(), "cm^-1;", check.problems or "both minima reached")

# %% [markdown]
# ## Free energy and rate

# %%
free = [len(slab)]  # the oxygen atom; the surface stands still
state = adsorbate(path.images[0], model, free=free, relax=False)
print(f"G - E of O* at 500 K: {gibbs(state, 500).correction:.3f} eV")
modes = [
    vibrations(x, model, free=free).get_internal_energies() for x in (path.images[0], path.saddle)
]
if check.passed:  # a band's top that is no saddle point has no rate
    rate = transition_rate(path.barrier, *modes, temperature=400)
    low, high = rate.interval(0.9)
    print(f"rate at 400 K: {rate.value:.1e} / s, 90 % interval {low:.0e} to {high:.0e}")

# %% [markdown]
# ## A picture

# %%
from matplotlib.figure import Figure

figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
profile = np.array([row["energy"] for row in ase_nnp.predict(model, path.images)])
axes.plot(profile - profile[0], "o-")
axes.axhline(path.barrier.value, color="0.7", lw=1)
axes.set(xlabel="image", ylabel="energy (eV)", title="O on Pt(111), fcc to hcp")
figure.savefig("path.png", dpi=110)

# %%
assert path.status != "failed"
assert path.barrier.std > 0
assert all(gamma.value > 0 and gamma.std > 0 for gamma in gammas.values())
