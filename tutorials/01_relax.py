# %% [markdown]
# # From a dataset file to a relaxed structure
#
# Open a catalyst dataset, predict energies and forces for all of it, relax one slab with ASE's own
# optimizer, and save the model. Everything here runs offline on a CPU in seconds.

# %%
from pathlib import Path

import numpy as np
from ase.optimize import FIRE

import ase_nnp

DATA = Path(__file__).resolve().parent.parent / "data"

# %% [markdown]
# ## Look at the data
#
# `open_dataset` takes a file or a folder and finds out by itself what it is: here two LMDB shards
# in the layout of the OC20 downloads. A dataset is a sequence of `ase.Atoms`.

# %%
dataset = ase_nnp.open_dataset(DATA / "oc20_toy")
slab = dataset[0]
print(len(dataset), "structures; the first is", slab.get_chemical_formula())
print("label:", slab.get_potential_energy(), "eV,", dataset.energy_kind, "energy")

# %% [markdown]
# ## Predict
#
# Any installed family works the same way; `ase-nnp models` lists them. This one is a small toy that
# was trained on EMT labels (`data/make_model.py`), enough to try things.

# %%
model = ase_nnp.load_model(DATA / "toy.nnp")
results = ase_nnp.predict(model, dataset, properties=("energy", "forces"))
print("energy of the first:", results[0]["energy"], "eV")
assert len(results) == len(dataset)
assert results[0]["forces"].shape == (len(slab), 3)

# %% [markdown]
# ## Relax
#
# The calculator goes where any ASE calculator goes. Constraints from the dataset are kept: the
# tag-0 atoms do not move.

# %%
slab.calc = ase_nnp.NNPCalculator(model)
before = slab.positions.copy()
FIRE(slab, logfile=None).run(fmax=0.05, steps=200)
fmax = np.linalg.norm(slab.get_forces(), axis=1).max()
print("relaxed to", slab.get_potential_energy(), "eV, largest force", fmax, "eV/A")

held = slab.constraints[0].index
assert np.array_equal(slab.positions[held], before[held])
assert fmax < 0.05

# %% [markdown]
# ## Save and load
#
# One file holds weights, configuration and provenance; loading it cannot run code.

# %%
ase_nnp.save_model(model, "my.nnp", note="the toy model, saved again")
again = ase_nnp.load_model("my.nnp")
assert again.provenance["note"] == "the toy model, saved again"
