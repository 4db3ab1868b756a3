# %% [markdown]
# # Datasets: open, look, plot, split, convert, feed a model
#
# OC20 downloads are pickles of objects from a library version that nobody has any more; OC25
# comes as ASE-LMDB shards; others are HDF5 or extended XYZ. One call opens all of them, and
# nothing that a file holds can run. Everything here works offline on a CPU in seconds, with the
# small sets in `data/`.

# %%
from pathlib import Path

import numpy as np
import torch

import ase_nnp
from ase_nnp import metrics
from ase_nnp.datasets import convert
from ase_nnp.datasets.plot import plot_dataset
from ase_nnp.datasets.verify import verify_dataset
from ase_nnp.training.graph_loader import AtomGraphDataset, GraphLoader

DATA = Path(__file__).resolve().parent.parent / "data"

# %% [markdown]
# ## Open
#
# A dataset is a sequence of `ase.Atoms`. Labels are in the calculator, identifiers in
# `atoms.info`, tags and fixed atoms where ASE keeps them. Nothing is read before it is asked for.

# %%
oc20 = ase_nnp.open_dataset(DATA / "oc20_toy")  # two legacy LMDB shards
oc25 = ase_nnp.open_dataset(DATA / "oc25_toy")  # the same structures as .aselmdb
atoms = oc20[0]
print(oc20)
print(atoms.get_chemical_formula(), "system", atoms.info["sid"], "fixed", atoms.constraints)
print("largest force", np.abs(atoms.get_forces(apply_constraint=False)).max(), "eV/A")
assert len(oc20) == len(oc25)

# %% [markdown]
# Energies say what they are. OC20 models were trained on adsorption energies, newer ones on total
# energies; the two are never mixed silently, and where the reference is known one becomes the
# other.

# %%
print("oc20:", oc20.energy_kind, "| oc25:", oc25.energy_kind)
adsorption = oc25.with_energy("adsorption")
difference = adsorption[0].get_potential_energy() - oc20[0].get_potential_energy()
print("the same number from both files, but for float32:", difference, "eV")
assert abs(difference) < 1e-3

# %% [markdown]
# ## Look
#
# The same in a shell: `ase-nnp data info data/oc20_toy`, and likewise `verify`, `stats`, `plot`.

# %%
report = verify_dataset(DATA / "oc20_toy")
print(report.structures, "records,", len(report.problems), "broken")
assert report.ok

stats = plot_dataset(oc25, "oc25_toy.png", fit_references=True).as_dict()
print("elements:", stats["structures_with_element"])
print(f"total energy {stats['energy']['mean']:.3f} +- {stats['energy']['std']:.3f} eV")
print("references:", {k: round(v, 3) for k, v in stats["fit"]["references"].items()})
assert Path("oc25_toy.png").stat().st_size > 10_000

# %% [markdown]
# ## Select and split
#
# Slices, masks and index arrays are views. A split keeps the frames of one system together, so
# that nothing of the training set is in the validation set.

# %%
with_copper = oc25.select(contains=["Cu"])
parts = oc25.split({"train": 0.8, "val": 0.2}, seed=1, group="sid")
train, val = parts["train"], parts["val"]
print(len(with_copper), "with copper;", len(train), "to train on,", len(val), "to validate")
assert len(with_copper) == 10
systems = [{frame.info["sid"] for frame in part} for part in (train, val)]
assert len(train) + len(val) == len(oc25)
assert not systems[0] & systems[1]

# %% [markdown]
# ## Convert
#
# The ending chooses the format: `.aselmdb` (read by fairchem 2, too), `.lmdb` (flat records, no
# pickles), `.extxyz`, `.extxyz.xz` or `.h5`. The file appears when it is whole. If the machine
# goes down half-way, the same call continues: nothing is lost, nothing is doubled. In a shell:
# `ase-nnp data convert data/oc20_toy oc20.aselmdb`.

# %%
for name in ("oc20.aselmdb", "oc20.lmdb", "oc20.extxyz.xz", "oc20.h5"):
    result = convert(DATA / "oc20_toy", name, overwrite=True)
    again = ase_nnp.open_dataset(name)
    assert result.written == len(again) == len(oc20)
    assert again.energy_kind == oc20.energy_kind
    assert again[7].get_potential_energy() == oc20[7].get_potential_energy()
    assert np.array_equal(again[7].positions, oc20[7].positions)
    print(f"{name}: {Path(name).stat().st_size / 1000:.0f} kB")

# %% [markdown]
# ## Feed a model
#
# `AtomGraphDataset` makes the graphs that a model asks for; `GraphLoader` fills batches up to a
# number of atoms or edges, in an order that follows from the seed. Here the model is as small as
# a model can be, one energy for each element and one for each pair of neighbors; any `Potential`
# goes in its place.


# %%
class Tiny(ase_nnp.Potential):
    cutoff, outputs, energy_kind = 3.2, ("energy",), "total"

    def __init__(self):
        super().__init__()
        self.element = torch.nn.Embedding(119, 1, dtype=torch.float64)
        self.pair = torch.nn.Embedding(119, 1, dtype=torch.float64)
        torch.nn.init.zeros_(self.element.weight)
        torch.nn.init.zeros_(self.pair.weight)

    def forward(self, graph):
        source, target = graph.edge_index
        decay = torch.exp(-graph.edge_vectors().norm(dim=1))
        z = graph.atomic_numbers
        both = (self.pair(z[source]) + self.pair(z[target])).squeeze(1)
        atom = self.element(z).squeeze(1).index_add(0, target, decay * both)
        energy = atom.new_zeros(graph.num_structures)
        return {"energy": energy.index_add(0, graph.batch, atom)}


model = Tiny()
loader = GraphLoader(
    AtomGraphDataset(train, model=model, labels=("energy",)), budget=200, unit="atoms", seed=0
)


def score():
    scores = metrics.IS2REMetrics()
    data = AtomGraphDataset(val, model=model, labels=("energy",))
    with torch.no_grad():
        for batch in GraphLoader(data, budget=200, shuffle=False):
            scores.update(model(batch.graph)["energy"].numpy(), batch.targets["energy"].numpy())
    return scores.compute()["energy_mae"]


# %%
before = score()
optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
for _ in range(40):
    for batch in loader:
        assert batch.graph.num_atoms <= 200
        optimizer.zero_grad()
        error = model(batch.graph)["energy"] - batch.targets["energy"]
        error.abs().mean().backward()
        optimizer.step()
after = score()
print(f"validation MAE {before:.3f} -> {after:.3f} eV")
assert after < 0.5 * before

# %% [markdown]
# An epoch that was interrupted continues with the batch that would have come next.

# %%
batches = iter(loader)
first = next(batches).index.tolist()
state = loader.state_dict()
resumed = GraphLoader(loader.data, budget=200, unit="atoms", seed=0)
resumed.load_state_dict(state)
assert next(batches).index.tolist() == next(iter(resumed)).index.tolist()
