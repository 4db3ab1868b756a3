# %% [markdown]
# # Error bars that can be trusted, and a run that knows when to stop
#
# Train four small potentials, put two kinds of error bars on them, calibrate, watch a molecular
# dynamics run leave what the models know, and give an elastic constant with its interval. The
# labels come from ASE's EMT potential for copper, so everything runs offline in seconds; with DFT
# labels and any installed model family not a line would change.

# %%
import warnings

import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet
from torch import nn

import ase_nnp
from ase_nnp import uncertainty as uq
from ase_nnp.uncertainty.evaluation import evaluate
from ase_nnp.workflows import propagate

torch.set_num_threads(1)  # tensors this small are slower on several

# %% [markdown]
# ## Data
#
# Rattled and strained copper: 30 structures to learn from, 30 to calibrate on, 30 to test. The
# calibration structures must not have trained anything.


# %%
def structures(count, seed, rattle=0.08, strain=0.02):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        atoms = bulk("Cu") * (2, 2, 2)
        deform = np.eye(3) + strain * rng.standard_normal((3, 3))
        atoms.set_cell(atoms.cell @ deform, scale_atoms=True)
        atoms.positions += rattle * rng.standard_normal(atoms.positions.shape)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


train, held_back, test = structures(30, 0), structures(30, 1), structures(30, 2)

# %% [markdown]
# ## A model
#
# Any `Potential` will do. This one is a small neural network of the neighbor distances; it writes
# only its energy, and forces and stress are differentiated for it.


# %%
class Small(ase_nnp.Conservative):
    cutoff = 4.2

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("centers", torch.linspace(1.8, 4.2, 12))
        self.hidden = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.readout = nn.Linear(16, 1)

    def energies(self, graph):
        r = graph.edge_vectors().norm(dim=-1, keepdim=True)
        pair = torch.exp(-12 * (r - self.centers) ** 2) * (1 - (r / self.cutoff) ** 2) ** 2
        x = pair.new_zeros(graph.num_atoms, 12).index_add(0, graph.edge_index[1], pair)
        atoms = self.readout(self.hidden(x))[:, 0]
        return atoms.new_zeros(graph.num_structures).index_add(0, graph.batch, atoms)


def trained(seed, steps=200):
    model = Small(seed).double().train()
    graph = model.make_graph(train)
    energy = torch.tensor([a.get_potential_energy() for a in train])
    forces = torch.tensor(np.concatenate([a.get_forces() for a in train]))
    with torch.no_grad():
        model.readout.bias.fill_(float(energy.mean() / len(train[0])))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        results = model(graph)
        loss = ((results["energy"] - energy) ** 2).mean() / 8
        loss = loss + ((results["forces"] - forces) ** 2).mean()
        loss.backward()
        optimizer.step()
    return model.freeze()


members = [trained(seed) for seed in range(4)]

# %% [markdown]
# ## Two kinds of error bars
#
# An ensemble costs as many models as it has members. The last-layer method needs one model and
# the training structures, and costs little more than the model. Both are calibrated on the same
# structures, and both are potentials: whatever takes a potential takes them.

# %%
ensemble = uq.fit("ensemble", members, calibration=held_back)
single = uq.fit(
    "last_layer",
    members[0],
    train=train,
    calibration=held_back,
    noise={"energy": 0.05, "forces": 0.05},
)
for name, method in (("ensemble", ensemble), ("last layer", single)):
    scores = evaluate(method, test).measures["forces"]
    print(
        f"{name}: force RMSE {1000 * scores['rmse']:.0f} meV/A, mean std "
        f"{1000 * scores['sharpness']:.0f} meV/A, 90 % interval holds "
        f"{100 * scores['interval_coverage']:.0f} %, Spearman {scores['spearman']:.2f}"
    )
    assert abs(scores["interval_coverage"] - 0.9) < 0.06

# %% [markdown]
# ## Keep them
#
# One file beside the model holds the fitted uncertainty. It refuses any other model.

# %%
uq.save_uncertainty(single, "copper.uq")
atoms = test[0].copy()
atoms.calc = ase_nnp.NNPCalculator(members[0], uncertainty="copper.uq")
print("energy", atoms.get_potential_energy(), "+-", atoms.calc.results["energy_std"], "eV")
uq.write_extxyz("with_error_bars.extxyz", [atoms])
assert atoms.calc.results["uq"]["calibrated"]

# %% [markdown]
# ## A run that stops
#
# The models saw copper up to small displacements. Heated far beyond, the run leaves what they
# know; the monitor stops it there, names the atoms and leaves a consistent state.

# %%
known = max(r["forces_std_norm"].max() for r in ase_nnp.predict(ensemble, train))
hot = bulk("Cu") * (2, 2, 2)
hot.calc = ase_nnp.NNPCalculator(ensemble)
speed = np.sqrt(12000 * units.kB / hot.get_masses()[0])
hot.set_velocities(speed * np.random.default_rng(3).standard_normal((len(hot), 3)))
run = VelocityVerlet(hot, 2 * units.fs)
monitor = uq.UncertaintyMonitor(run, "forces_std_norm", threshold=1.5 * known)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    run.run(300)
print(said[0].message)
assert len(said) == 1
assert run.nsteps == monitor.events[0].step < 300

# %% [markdown]
# ## An observable with its interval
#
# Any function of a calculator can be propagated: it runs once per member. Here the bulk modulus.


# %%
def bulk_modulus(calc):
    volumes, energies = [], []
    for scale in np.linspace(0.98, 1.02, 7):
        crystal = bulk("Cu") * (2, 2, 2)
        crystal.set_cell(crystal.cell * scale, scale_atoms=True)
        crystal.calc = calc
        volumes.append(crystal.get_volume())
        energies.append(crystal.get_potential_energy())
    second, first, _ = np.polyfit(volumes, energies, 2)
    return -first / (2 * second) * 2 * second / units.GPa


modulus = propagate(bulk_modulus, ensemble, coverage=0.9)
print("bulk modulus (GPa):", modulus)
print("EMT itself:", bulk_modulus(EMT()))
assert modulus.std > 0

# %% [markdown]
# ## A picture: error bars against errors

# %%
from matplotlib.figure import Figure

figure = Figure(figsize=(4.2, 4), layout="constrained")
axes = figure.subplots()
rows = ase_nnp.predict(ensemble, test)
spread = np.concatenate([row["forces_std_norm"] for row in rows])
missed = [row["forces"] - a.get_forces() for row, a in zip(rows, test, strict=True)]
error = np.linalg.norm(np.concatenate(missed), axis=1)
axes.loglog(spread, error, ".", ms=3)
axes.loglog([spread.min(), spread.max()], [spread.min(), spread.max()], "k-", lw=1)
axes.tick_params(which="minor", labelbottom=False, labelleft=False)
axes.set(xlabel="error bar of a force (eV/Å)", ylabel="its error (eV/Å)")
figure.savefig("error_bars.png", dpi=110)
