# %% [markdown]
# # Write a plugin
#
# A model family is a Python package with an entry point. We let `ase-nnp` write one, put a Morse
# potential into it, and let the conformance suite tell us what is still wrong.

# %%
import importlib
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

import ase_nnp
from ase_nnp.cli import main


def run(*arguments: str) -> int:
    """Run `ase-nnp` and return its exit code."""
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


assert run("plugin", "new", "morse") == 0
folder = Path("ase_nnp_morse")
assert (folder / "pyproject.toml").exists()

# %% [markdown]
# ## The family: what is known before anything is loaded

# %%
FAMILY = '''\
"""The Morse potential. This module imports no torch: it is read when models are listed."""

from ase_nnp import ModelFamily, hookimpl


@hookimpl
def register_models(register):
    """Offer the family."""
    register(
        ModelFamily(
            name="morse",
            summary="Morse pair potential: a well of a given depth, width and place",
            build=_build,
            defaults={"depth": 0.35, "width": 1.4, "place": 2.9, "cutoff": 6.0},
            cite="https://doi.org/10.1103/PhysRev.34.57",
            cutoff=6.0,
            energy_kind="total",
        )
    )


def _build(config):
    from .model import Morse

    return Morse(**config)
'''
(folder / "ase_nnp_morse" / "__init__.py").write_text(FAMILY)

# %% [markdown]
# ## The model: an energy; forces and stress follow
#
# The first try forgets that the energy must go to zero smoothly at the cutoff.

# %%
MODEL = '''\
"""The model."""

import torch

from ase_nnp import Conservative


class Morse(Conservative):
    """``E = 1/2 sum_ij D [(1 - exp(-a (r - r0)))^2 - 1] f(r)``; each pair counts from both ends."""

    def __init__(self, depth, width, place, cutoff):
        super().__init__()
        self.depth, self.width, self.place, self.cutoff = depth, width, place, cutoff

    def energies(self, graph):
        """Return energies (B,) in eV."""
        r = graph.edge_vectors().norm(dim=-1)  # (E,)
        pair = 0.5 * self.depth * ((1 - torch.exp(-self.width * (r - self.place))) ** 2 - 1)
        pair = pair * self.envelope(r)
        center = graph.batch[graph.edge_index[1]]
        return pair.new_zeros(graph.num_structures).index_add(0, center, pair)

    def envelope(self, r):
        return torch.ones_like(r)
'''
(folder / "ase_nnp_morse" / "model.py").write_text(MODEL)

# %% [markdown]
# `pip install -e ase_nnp_morse` would now install it. This script registers it by hand instead, so
# that it leaves nothing behind in your environment.

# %%
from ase_nnp.registry.installed import installed

sys.path.insert(0, str(folder.absolute()))
registry = installed()
registry.add_plugin("morse", lambda: importlib.import_module("ase_nnp_morse"))
assert "morse" in ase_nnp.list_models()
assert run("models", "show", "morse") == 0

# %% [markdown]
# ## Check
#
# Exit code 1: a promise is broken. The table names it, with the figure that was measured.

# %%
from ase_nnp.testing import make_subject, run_checks

outcomes = {outcome.check: outcome for outcome in run_checks(make_subject("morse"))}
broken = [name for name, outcome in outcomes.items() if not outcome.ok]
print(outcomes["cutoff_is_smooth"].message)
assert broken == ["cutoff_is_smooth"]

# %% [markdown]
# An envelope that vanishes with its first two derivatives mends it.

# %%
BETTER = MODEL.replace("torch.ones_like(r)", "(1 - (r / self.cutoff) ** 2) ** 3")
(folder / "ase_nnp_morse" / "model.py").write_text(BETTER)
for name in ("ase_nnp_morse.model",):
    del sys.modules[name]
importlib.invalidate_caches()
assert run("plugin", "check", "morse") == 0

# %% [markdown]
# ## Use
#
# It is now a calculator, takes batches, can be saved, and has error bars, like every other family.

# %%
model = ase_nnp.build_model("morse", {"depth": 0.4}, dtype="float64")
dimer = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.9]])
dimer.calc = ase_nnp.NNPCalculator(model)
envelope = (1 - (2.9 / 6.0) ** 2) ** 3
assert np.isclose(dimer.get_potential_energy(), -0.4 * envelope)

results = ase_nnp.predict(model, [bulk("Cu", a=a) for a in (3.4, 3.6, 3.8)], ("energy", "stress"))
print([round(row["energy"], 3) for row in results])
ase_nnp.save_model(model, "morse.nnp")
again = ase_nnp.load_model("morse.nnp", dtype="float64")
assert ase_nnp.predict(again, [dimer])[0]["energy"] == dimer.get_potential_energy()
assert "PhysRev.34.57" in ase_nnp.cite(model)

# %%
registry.pm.unregister(name="morse")  # leave the process as it was
registry.families.pop("morse")
registry.owners.pop("ModelFamily:morse")
sys.path.remove(str(folder.absolute()))
for name in ("ase_nnp_morse", "ase_nnp_morse.model"):
    sys.modules.pop(name, None)
