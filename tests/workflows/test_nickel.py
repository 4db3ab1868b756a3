"""Nickel with SevenNet-0 against density functional theory, by the functions of these workflows."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, fcc110, fcc111
from ase.constraints import FixAtoms

import ase_nnp
from ase_nnp.uncertainty.differences import energies
from ase_nnp.workflows.crystals import eos
from ase_nnp.workflows.thermo import adsorbate, gas, gibbs, solid
from ase_nnp.workflows.thermo.surface_phases import surface_energy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("sevenn")
    return ase_nnp.load_model("7net-0", device="cpu")


@pytest.fixture(scope="module")
def lattice(model):
    return (4 * eos(bulk("Ni", a=3.52), model).result.volume) ** (1 / 3)


def test_the_order_of_nickels_surface_energies(model, lattice):
    gammas = []
    for build in (fcc111, fcc100, fcc110):
        slab = build("Ni", (1, 1, 8), a=lattice, vacuum=8)
        area = np.linalg.norm(np.cross(slab.cell[0], slab.cell[1]))
        in_slab, in_bulk = energies(model, [slab, bulk("Ni", a=lattice)])
        gammas.append(surface_energy(in_slab, in_bulk, len(slab), area).value * 16.0218)
    print("J/m^2 of 111, 100, 110:", np.round(gammas, 3), "DFT 1.92, 2.21, 2.29")
    assert gammas[0] < gammas[1] < gammas[2]
    assert gammas == pytest.approx([1.92, 2.21, 2.29], rel=0.2)


def test_hydrogen_on_nickel_is_bound_as_in_dft(model, lattice):
    slab = fcc111("Ni", (2, 2, 4), a=lattice, vacuum=7)
    slab.set_constraint(FixAtoms(mask=slab.get_tags() > 2))
    covered = slab.copy()
    add_adsorbate(covered, "H", 1.0, "fcc")
    states = [
        adsorbate(covered, model, fmax=0.03),
        solid(slab, model, fmax=0.03),
        gas(Atoms("H2", [(0, 0, 0), (0, 0, 0.75)]), model, symmetry=2),
    ]
    on, clean, free = (gibbs(state) for state in states)
    bound = float(on.energy - clean.energy - free.energy / 2)
    with_zero_point = bound + on.zero_point - free.zero_point / 2
    print(f"H on Ni(111): {bound:.3f} eV, {with_zero_point:.3f} eV with zero-point energies")
    assert with_zero_point == pytest.approx(-0.60, abs=0.2)
