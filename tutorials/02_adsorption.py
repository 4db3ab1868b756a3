# %% [markdown]
# # Adsorption energies and sites
#
# Where does oxygen bind on a metal, how strongly, and may I believe it? Sites, a search with the
# model that ships, intervals, what was refused and why, and a second opinion.

# %%
from ase.calculators.emt import EMT

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
# `model=None` is the model that ships: each energy has a 90 % interval, in which what the adsorbate
# system and the clean slab have in common cancels. The reaction says what the energy refers to.

# %%
result = adsorb(slab, "O", placements=6)
print(result.reaction)
for one in result.minima:
    low, high = one.interval
    print(f"{one.geometry.site}: {one.energy:.2f} eV, 90 % interval {low:.2f} to {high:.2f}")
for one in result.rejected:
    print("rejected:", one.reason, "|", one.detail, "| put at", one.start)
assert "hollow" in result.best.geometry.site
assert result.best.interval[0] < result.best.energy < result.best.interval[1]

# %% [markdown]
# ## A second opinion
#
# Any calculator can judge the best of them: another model, or DFT by `write_dft_inputs`. Here EMT,
# which knows copper; its molecules are poor, so that only the order of the sites means something.

# %%
judged = rejudge(result, EMT(), best=2)
for one in judged.judged:
    print(f"rank {one.rank}: {one.model_energy:.2f} eV by the model, {one.judge_energy:.2f} by EMT")
assert judged.best is not None

# %% [markdown]
# ## A picture
#
# `write_report(result, "report.html")` writes a page with all structures to turn; here the ladder.

# %%
from matplotlib.figure import Figure

figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
for place_, one in enumerate(result.minima):
    low, high = one.interval
    axes.errorbar(place_, one.energy, [[one.energy - low], [high - one.energy]], fmt="o", capsize=4)
axes.set_xticks(range(len(result.minima)), [one.geometry.site for one in result.minima])
axes.margins(x=0.3)
axes.set(ylabel="adsorption energy (eV)", title="O on Cu(111), 90 % intervals")
figure.savefig("sites.png", dpi=110)
