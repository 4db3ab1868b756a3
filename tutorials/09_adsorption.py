# %% [markdown]
# # Where does it bind, how strongly, and may I believe it?
#
# From a crystal to the ranked minima of an adsorbate: placements, relaxations, a gate that says why
# something is not believed, intervals, and a second opinion.

# %%
from ase.calculators.emt import EMT

import ase_nnp
from ase_nnp.workflows.adsorption import adsorb, place, rejudge, sites, surface

# %% [markdown]
# ## A surface and its sites

# %%
slab = surface("Cu", (1, 1, 1), layers=3, width=5.0)
for site in sites(slab):
    print(site.name, site.multiplicity)
assert {site.kind for site in sites(slab)} == {"ontop", "bridge", "fcc", "hcp"}

# %% [markdown]
# An adsorbate is placed by what binds: ASE's own CO has its oxygen down, this one its carbon.

# %%
(placed,) = place(slab, "CO", "ontop")
carbon, oxygen = placed.positions[-2:]
assert oxygen[2] > carbon[2]

# %% [markdown]
# ## The question in one call
#
# With the model that ships (`model=None`) each energy has an interval. EMT stands in here because
# it takes seconds; it has no error bar, and the result says so.

# %%
model = ase_nnp.from_ase(EMT)
result = adsorb(slab, "O", model, placements=8)
print(result.reaction, "|", result.error_bar)
for one in result.minima:
    print(one.geometry.site, round(one.energy, 3), one.interval, round(one.geometry.height, 2))
for one in result.rejected:
    print("rejected:", one.reason, one.detail, "put at", one.start)
assert "hollow" in result.best.geometry.site

# %% [markdown]
# ## A second opinion
#
# Any calculator can judge the best of them; `write_dft_inputs` writes folders for VASP, Quantum
# ESPRESSO or GPAW, and `write_report` a page.

# %%
judged = rejudge(result, EMT(), best=2)
assert abs(judged.best.judge_energy - result.best.energy) < 1e-3
