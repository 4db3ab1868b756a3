# %% [markdown]
# # Phonons and elasticity, and what the curvature check says
#
# Lattice constant, elastic constants and phonons of nickel with the model that ships, and a check
# that tells whether second derivatives of a model may be believed at all.

# %%
import numpy as np
from ase.build import bulk

import ase_nnp
from ase_nnp import NNPCalculator
from ase_nnp.workflows.elastic import elastic_constants
from ase_nnp.workflows.phonons import draw_phonons, phonons

# %% [markdown]
# ## Relax the cell
#
# Constants belong to a cell without stress. Second derivatives want double precision.

# %%
model = ase_nnp.load_model(dtype="float64", uncertainty=False)
(relaxed,) = ase_nnp.relax_many(model, [bulk("Ni", a=3.5)], cell=True, fmax=1e-3)
crystal = relaxed.atoms
a = (4 * crystal.get_volume()) ** (1 / 3)
print(f"a = {a:.3f} Å")

# %% [markdown]
# ## Elastic constants
#
# From stresses at small strains, and once more at twice the strain: where that changes the result,
# the energy has no clean curvature there and the numbers mean nothing.

# %%
calc = NNPCalculator(model)
constants = elastic_constants(crystal, calc)
c = constants.tensor
print(f"C11 {c[0, 0]:.0f}, C12 {c[0, 1]:.0f}, C44 {c[3, 3]:.0f} GPa")
print("the same at twice the strain:", constants.smooth)
assert constants.smooth
assert c[0, 0] > c[0, 1] > 0
assert c[3, 3] > 0

# %% [markdown]
# ## Phonons

# %%
bands = phonons(crystal, calc, supercell=(3, 3, 3), engine="ase", points=61)
print(f"highest {bands.bands.max():.2f} THz, lowest {bands.lowest:.2f} THz")
print("stable:", bands.stable, "| the same at twice the displacement:", bands.smooth)
print("at 300 K:", {k: round(v, 5) for k, v in bands.thermal(300).items()})
draw_phonons(bands, "phonons.png", None)
assert bands.stable

# %% [markdown]
# ## What a broken curvature looks like
#
# A term that goes with the absolute strain, as a normalization by something that vanishes by
# symmetry makes it, leaves energies and forces looking fine. The check sees it: steps of different
# size find different curvatures.


# %%
class Kink(ase_nnp.Conservative):
    """A few meV that go with the absolute shear."""

    cutoff, elements = model.cutoff, model.elements

    def energies(self, graph):
        metric = graph.cell @ graph.cell.transpose(1, 2)
        return 0.01 * (metric[:, 0, 2] - metric[:, 0, 1]).abs()


both = ase_nnp.sum_potentials([model, Kink().double()])
kinked = elastic_constants(crystal, NNPCalculator(both))
print("with the kink, the same at twice the strain:", kinked.smooth)
assert not kinked.smooth
assert np.isfinite(kinked.tensor).all()

# %% [markdown]
# `ase-nnp plugin check NAME` asks the same of every model (`curvature_at_symmetric_sites`), and
# `ase-nnp elastic` and `ase-nnp phonons` warn.
