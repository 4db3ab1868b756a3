# %% [markdown]
# # Other codes: a model as the engine of i-PI, LAMMPS, matcalc, phonopy
#
# Programs in Python take the calculator as it is: `matcalc.ElasticityCalc(calc)`, phonopy with the
# forces of displaced cells, janus-core, quacc, atomate2 ([the lines](../docs/clients.md), each
# tested against ASE's own calculators). Others talk over a socket, and that is what this is about.
#
# i-PI, LAMMPS (`fix ipi`) and other programs move atoms themselves and ask for forces over a
# socket. ASE speaks their protocol, so any model here can answer. This script plays both ends on
# one machine: the server moves the atoms, as i-PI would; the client answers with a model.

# %%
import os
import threading
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.socketio import SocketClient, SocketIOCalculator
from ase.optimize import BFGS

import ase_nnp

DATA = Path(__file__).resolve().parent.parent / "data"
SOCKET = f"ase_nnp_tutorial_{os.getpid()}"  # a Unix socket, /tmp/ipi_<name>

# %% [markdown]
# ## The client: a model that answers
#
# It needs the structure once, for the elements; positions and cells come over the socket. On a
# cluster this part is a script of its own, one for each GPU, with `host=` and `port=` instead.


# %%
def answer(atoms) -> None:
    atoms.calc = ase_nnp.NNPCalculator(DATA / "toy.nnp", dtype="float64")
    SocketClient(unixsocket=SOCKET).run(atoms, use_stress=True)


# %% [markdown]
# ## The server: whoever moves the atoms
#
# With i-PI, replace this part by an input file with `<ffsocket mode='unix'>` and the name of the
# socket as its address.

# %%
crystal = bulk("Cu", cubic=True)
crystal.rattle(0.1, seed=1)
moving, template = crystal.copy(), crystal.copy()

with SocketIOCalculator(unixsocket=SOCKET) as calculator:
    client = threading.Thread(target=answer, args=(template,), daemon=True)
    client.start()
    moving.calc = calculator
    BFGS(moving, logfile=None).run(fmax=0.02, steps=50)
    energy, stress = moving.get_potential_energy(), moving.get_stress()
client.join(timeout=30)
print("relaxed over the socket to", energy, "eV")

# %% [markdown]
# The same relaxation without a socket ends in the same place.

# %%
direct = crystal.copy()
direct.calc = ase_nnp.NNPCalculator(DATA / "toy.nnp", dtype="float64")
BFGS(direct, logfile=None).run(fmax=0.02, steps=50)
assert not client.is_alive()
assert abs(energy - direct.get_potential_energy()) < 1e-8
assert np.allclose(moving.positions, direct.positions, atol=1e-6)
assert np.allclose(stress, direct.get_stress(), atol=1e-6)

# %% [markdown]
# ## phonopy
#
# Where it is installed, its displaced cells are answered in one batch.

# %%
from importlib.util import find_spec

if find_spec("phonopy"):
    from ase import Atoms
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = bulk("Cu", a=3.6)
    cell = PhonopyAtoms(symbols=["Cu"], cell=unit.cell[:], scaled_positions=[[0, 0, 0]])
    phonon = Phonopy(cell, supercell_matrix=np.diag([2, 2, 2]), log_level=0)
    phonon.generate_displacements(distance=0.01)
    displaced = [
        Atoms(c.symbols, cell=c.cell, scaled_positions=c.scaled_positions, pbc=True)
        for c in phonon.supercells_with_displacements
    ]
    model = ase_nnp.load_model(DATA / "toy.nnp", dtype="float64")
    phonon.forces = [row["forces"] for row in ase_nnp.predict(model, displaced, ("forces",))]
    phonon.produce_force_constants()
    phonon.run_mesh([6, 6, 6], is_gamma_center=True)
    print("highest frequency:", phonon.mesh.frequencies.max().round(2), "THz")
