# %% [markdown]
# # Train a potential on your own structures, and fine-tune it
#
# From an extended XYZ file with energies and forces to a model in an ASE script, on the command
# line: look at the data, train, measure. The labels come from ASE's EMT potential for copper, so
# everything runs offline in a minute; with DFT labels only the file would be another one. Real runs
# want more structures, a larger model and more epochs.

# %%
import json
import subprocess
import sys

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from ase.optimize import FIRE

from ase_nnp import NNPCalculator

# %% [markdown]
# ## A file of labeled structures
#
# Rattled and strained copper cells. ASE writes results of a calculator as labels.


# %%
def structures(count, seed):
    rng, frames = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.02)), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    return frames


write("copper.extxyz", structures(40, seed=0))
write("test.extxyz", structures(10, seed=1))


# %%
def run(*words):
    """What a shell would do: ase-nnp WORDS."""
    command = [sys.executable, "-c", "from ase_nnp.cli import main; main()", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# %% [markdown]
# ## Look before training
#
# `ase-nnp data stats copper.extxyz` shows how large energies and forces are.

# %%
stats = json.loads(run("data", "stats", "copper.extxyz", "--json"))
print(stats["energy_per_atom"], stats["force_norm"])

# %% [markdown]
# ## The run file
#
# One file, YAML or TOML, says everything; what is left out has a default, and
# `ase-nnp train run.yaml --check` prints all of it. A small Facet:

# %%
RUN = """
model:
  family: facet
  config:
    species: [29]
    hidden_irreps: ["8x0e + 4x1o"]
    outs_per_node: 8
    edge_embed: {r_max: 4.0}
data: {train: copper.extxyz, valid_fraction: 0.2}
losses:
  energy: {weight: 1.0, final_weight: 20.0}
  forces: {weight: 1.0}
batch: {structures: 4}
optimizer: {lr: 1e-2}
ema: 0.9
epochs: 12
output: copper
"""
with open("run.yaml", "w") as file:
    file.write(RUN)

# %% [markdown]
# Every key is an option too: here the rate is another. A run that is interrupted goes on when the
# same command is given again.

# %%
trained = json.loads(run("train", "run.yaml", "--optimizer.lr", "2e-2", "--json"))
print(trained["model"], trained["last"])

# %% [markdown]
# ## Measure
#
# On structures that were not seen, with an HTML page of parity plots in the folder `report`.

# %%
words = ["evaluate", "copper/model.nnp", "test.extxyz", "--report", "report", "--json"]
scores = json.loads(run(*words))["models"][0]["metrics"]
forces = np.concatenate([a.get_forces().ravel() for a in read("test.extxyz", ":")])
print(f"forces: MAE {scores['forces_mae']:.3f} eV/Å of {np.abs(forces).mean():.3f}")

# %% [markdown]
# ## Fine-tune
#
# New labels, here of copper under strong tension that the first model has not seen. `model.start`
# begins with the trained weights; `finetune.replay` mixes in old structures, so that what was known
# is kept. What comes out is compared with the model before, on the new and on the old.

# %%
stretched = []
for atoms in structures(25, seed=2):
    atoms.calc = None
    atoms.set_cell(atoms.cell * 1.1, scale_atoms=True)
    atoms.calc = EMT()
    atoms.get_forces()
    stretched.append(atoms)
write("new.extxyz", stretched[:15])
write("new_test.extxyz", stretched[15:])

TUNE = """
model: {start: copper/model.nnp}
data: {train: new.extxyz}
finetune: {replay: copper.extxyz}
optimizer: {lr: 5e-3}
epochs: 8
output: tuned
"""
with open("tune.yaml", "w") as file:
    file.write(TUNE)
run("train", "tune.yaml", "--json")
errors = {}
for test in ("test.extxyz", "new_test.extxyz"):
    report = json.loads(run("evaluate", "copper/model.nnp", "tuned/model.nnp", test, "--json"))
    errors[test] = [one["metrics"]["forces_mae"] for one in report["models"]]
    print(f"{test}: forces {errors[test][0]:.3f} -> {errors[test][1]:.3f} eV/Å")
assert errors["new_test.extxyz"][1] < 0.7 * errors["new_test.extxyz"][0]

# %% [markdown]
# ## Use

# %%
atoms = bulk("Cu", cubic=True)
atoms.rattle(0.1, seed=5)
atoms.calc = NNPCalculator("copper/model.nnp")
FIRE(atoms, logfile=None).run(fmax=0.03, steps=200)
perfect = bulk("Cu", cubic=True)
shape = atoms.get_all_distances(mic=True) - perfect.get_all_distances(mic=True)
print(f"distances after relaxation: off by at most {np.abs(shape).max():.3f} Å")

# %%
assert scores["forces_mae"] < 0.5 * np.abs(forces).mean()
assert np.abs(shape).max() < 0.1

# %% [markdown]
# ## A picture
#
# `evaluate --report` draws parity plots; here the training, from the log that every run leaves.

# %%
import csv

from matplotlib.figure import Figure

figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
with open("copper/log.csv") as file:
    rows = list(csv.DictReader(file))
for name in ("train_forces_mae", "valid_forces_mae"):
    axes.plot([1000 * float(row[name]) for row in rows], "o-", label=name.partition("_")[0])
axes.legend()
axes.set(xlabel="epoch", ylabel="force error (meV/Å)")
figure.savefig("training.png", dpi=110)
