# %% [markdown]
# # Add a term: charges beyond the cutoff, dispersion under a molecule
#
# Two things that a short-range network cannot know. A pair of ions beyond its cutoff: a network
# that learns charges goes on where the other one ends. And a molecule that is held by dispersion,
# which PBE labels lack: D3 is added to the model that ships. Everything runs offline; D3 needs the
# extra `d3`, and that part is left out without it.

# %%
import warnings
from importlib.util import find_spec

import numpy as np
from ase import Atoms, units
from ase.build import fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator

import ase_nnp
from ase_nnp import predict
from ase_nnp.training import Settings, fit

# %% [markdown]
# ## A pair of ions
#
# Labels are Coulomb energies of charges +1 and -1. Training sees 3 to 6 Angstrom; the cutoff is 4.

# %%
COULOMB = units.Hartree * units.Bohr


def ions(distance, direction=(0, 0, 1)):
    """Na+ and Cl- with the energy and forces of two point charges."""
    along = np.asarray(direction, float) / np.linalg.norm(direction)
    atoms = Atoms("NaCl", [[0, 0, 0], distance * along])
    pull = COULOMB / distance**2 * along
    results = {"energy": -COULOMB / distance, "forces": np.array([pull, -pull])}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


rng = np.random.default_rng(0)
train = [ions(r, rng.normal(size=3)) for r in np.linspace(3.0, 6.0, 40)]
SMALL = {
    "hidden_irreps": ["8x0e + 4x1o"],
    "outs_per_node": 8,
    "node_embed": {"embed_dim": 8},
    "edge_embed": {"r_max": 4.0},
    "self_connection": {"polynomial": {"channels": 4}},
}
settings = Settings(
    epochs=80,
    batch={"structures": 8},
    optimizer={"lr": 5e-3},
    losses={"energy": {"per_atom": False}},
    progress=False,
)

models = {}
for name, long_range in (("short", None), ("charges", {"kind": "charges"})):
    config = {**SMALL, "long_range": long_range}
    model = ase_nnp.build_model("facet", config, seed=0, device="cpu", dtype="float64")
    models[name] = fit(model, train, settings=settings, folder=f"ions-{name}").model

# %% [markdown]
# ## Where the cutoff ends
#
# Between 8 and 15 Angstrom the short-range model has no force at all; the other one has learned
# charges and continues.

# %%
far = [ions(r) for r in np.linspace(8.0, 15.0, 15)]
true = np.array([a.get_forces()[0, 2] for a in far])
errors = {}
for name, model in models.items():
    pull = np.array([row["forces"][0, 2] for row in predict(model, far, ("energy", "forces"))])
    errors[name] = float(np.abs(pull - true).mean() / true.mean())
    print(f"{name}: {100 * errors[name]:.1f} % of the force is missing")
charges = predict(models["charges"], far[:1], ("energy", "charges"))[0]["charges"]
print("learned charges:", charges.round(2))
assert errors["short"] > 0.99
assert errors["charges"] < 0.05

# %% [markdown]
# ## Benzene on gold
#
# The shipped model has learned PBE, which holds no dispersion. `corrections=` adds D3 with the
# parameters of PBE; the rest of the script stays as it was.

# %%
heights = np.linspace(2.6, 6.0, 12)
curves = {}
if find_spec("tad_dftd3"):
    slab = fcc111("Au", (3, 3, 3), vacuum=12.0)
    top = slab.positions[:, 2].max()
    middle = slab.cell[0] / 2 + slab.cell[1] / 2

    def at(height):
        ring = molecule("C6H6")
        ring.positions += [middle[0], middle[1], top + height - ring.positions[:, 2].mean()]
        return slab + ring

    frames = [*(at(h) for h in heights), slab, molecule("C6H6")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of structures unlike those of the training
        for name, terms in (("PBE model", ()), ("with D3", ["d3bj:pbe"])):
            model = ase_nnp.load_model(device="cpu", uncertainty=False, corrections=terms)
            energies = np.array([row["energy"] for row in predict(model, frames, ("energy",))])
            curves[name] = energies[:-2] - energies[-2] - energies[-1]
            best = curves[name].argmin()
            print(f"{name}: {curves[name][best]:.2f} eV at {heights[best]:.1f} Angstrom")
    assert curves["with D3"].min() < curves["PBE model"].min() - 0.3

# %% [markdown]
# A picture of both.

# %%
if find_spec("matplotlib"):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    r = np.linspace(3.0, 15.0, 60)
    frames = [ions(x) for x in r]
    left.plot(r, [a.get_potential_energy() for a in frames], "k", label="labels")
    for name, style in (("short", "C1--"), ("charges", "C0")):
        rows = predict(models[name], frames, ("energy",))
        left.plot(r, [row["energy"] for row in rows], style, label=f"model, {name}")
    left.axvspan(3.0, 6.0, color="0.9")
    left.set(xlabel="distance of the ions (Å)", ylabel="energy (eV)", title="trained in the gray")
    left.legend()

    for name, values in curves.items():
        right.plot(heights, values, label=name)
    right.axhline(0.0, color="0.8")
    right.set(xlabel="height of benzene over Au(111) (Å)", ylabel="adsorption energy (eV)")
    if curves:
        right.legend()
    figure.savefig("add_a_term.png", dpi=120)
