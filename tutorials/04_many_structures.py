# %% [markdown]
# # Many structures, and a kill in the middle
#
# Relax a set of slabs in one batch, kill the process while it works, and let the same command go on
# where it was. The result is that of a run that nobody disturbed.

# %%
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms

import ase_nnp

DATA = Path(__file__).resolve().parent.parent / "data"

# %% [markdown]
# ## Eight slabs of different sizes

# %%
rng = np.random.default_rng(0)
slabs = []
for number in range(8):
    slab = fcc111("Cu", (2, 2 + number % 2, 3), vacuum=6)
    slab.set_constraint(FixAtoms(mask=slab.get_tags() > 1))
    add_adsorbate(slab, "O", 1.2, ("fcc", "hcp", "ontop", "bridge")[number % 4])
    slab.rattle(0.05, rng=rng)
    slabs.append(slab)
ase_nnp.write_dataset("slabs.extxyz", slabs)

# %% [markdown]
# ## In one call
#
# Each moves as it would alone under ASE's FIRE; who is done leaves the batch. The toy model of the
# folder `data` keeps this short; `None` would be the model that ships.

# %%
model = ase_nnp.load_model(DATA / "toy.nnp", dtype="float64")
outcomes = ase_nnp.relax_many(model, slabs, fmax=0.05, steps=150)
print("status:", [outcome.status for outcome in outcomes])
print("steps:", [outcome.steps for outcome in outcomes])
assert all(outcome.status in ("converged", "finished") for outcome in outcomes)

# %% [markdown]
# ## The same in a process that is killed
#
# With `folder=` the state is kept. The child below is killed without a chance to say goodbye, as
# soon as it has written something; then the same call is made again.

# %%
SCRIPT = f"""
import ase_nnp
model = ase_nnp.load_model({str(DATA / "toy.nnp")!r}, dtype="float64")
slabs = list(ase_nnp.open_dataset("slabs.extxyz"))
ase_nnp.relax_many(model, slabs, fmax=0.05, steps=150, folder="run", checkpoint_every=0.2)
"""
child = subprocess.Popen([sys.executable, "-c", SCRIPT])
finished = Path("run/results.jsonl")  # a line for each structure that is done
while child.poll() is None and not (finished.exists() and finished.read_text()):
    time.sleep(0.01)
child.kill()  # SIGKILL
code = child.wait()
done = len(finished.read_text().splitlines())
print("the child ended with", code, "|", done, "of 8 structures were done")
assert code == -9
assert done < 8

# %%
same = list(ase_nnp.open_dataset("slabs.extxyz"))
again = ase_nnp.relax_many(model, same, fmax=0.05, steps=150, folder="run", checkpoint_every=0.2)
print("after it went on:", [outcome.status for outcome in again])
difference = max(abs(a.energy - b.energy) for a, b in zip(outcomes, again, strict=True))
print(f"largest difference to the undisturbed run: {difference:.0e} eV")
assert difference < 1e-4  # slabs.extxyz keeps eight digits of a position

# %% [markdown]
# In a shell the same is `ase-nnp relax MODEL slabs.extxyz --folder run`, and `ase-nnp screen` for a
# whole dataset by many processes.

# %% [markdown]
# ## A picture

# %%
from matplotlib.figure import Figure

figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
axes.bar(range(8), [outcome.steps for outcome in outcomes], label="undisturbed")
axes.plot(range(8), [outcome.steps for outcome in again], "k_", ms=14, label="after the kill")
axes.set(xlabel="structure", ylabel="steps")
axes.legend()
figure.savefig("steps.png", dpi=110)
