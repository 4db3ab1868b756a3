"""Madelung constants, slabs, molecules: electrostatics against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, make_supercell

pytest.importorskip("torchpme", reason="needs the extra 'ewald'")

import ase_nnp
from ase_nnp import ConfigError, NNPCalculator, predict
from ase_nnp.errors import StructureError
from ase_nnp.models.corrections import add_corrections, build_term
from ase_nnp.testing import conformance

# Slow here because the core's own tests run the suite over every registered correction.
test_conformance = pytest.mark.slow(conformance("ewald"))

COULOMB = units.Hartree * units.Bohr


def term(charges=None, dtype=torch.float64, **options):
    return build_term("ewald", {"charges": charges, **options}).to(dtype)


def energy(model, atoms):
    return predict(model, [atoms], ("energy",))[0]["energy"]


@pytest.mark.parametrize(
    ("symbols", "lattice", "a", "nearest", "madelung"),
    [
        ("NaCl", "rocksalt", 5.64, 0.5, 1.74756459463),
        ("CsCl", "cesiumchloride", 4.12, math.sqrt(3) / 2, 1.76267477307),
        ("ZnS", "zincblende", 5.41, math.sqrt(3) / 4, 1.63805505338),
    ],
)
def test_crystals_have_their_madelung_constants(symbols, lattice, a, nearest, madelung):
    atoms = bulk(symbols, lattice, a=a)
    model = term(dict(zip(atoms.symbols, (1.0, -1.0), strict=True)))
    expected = -COULOMB * madelung / (nearest * a)
    assert energy(model, atoms) / expected == pytest.approx(1.0, abs=1e-8)
    skewed = make_supercell(atoms, [[1, 1, 0], [0, 2, 1], [0, 0, 1]])
    assert energy(model, skewed) / expected == pytest.approx(2.0, abs=2e-8)


def test_a_mesh_agrees_with_the_sum():
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.rattle(0.2, seed=1)
    charges = {"Na": 1.0, "Cl": -1.0}
    exact, mesh = (predict(term(charges, method=m), [atoms])[0] for m in ("ewald", "p3m"))
    assert mesh["energy"] == pytest.approx(exact["energy"], rel=1e-5)
    np.testing.assert_allclose(mesh["forces"], exact["forces"], atol=1e-3)


def test_molecules_have_the_sum_over_pairs():
    rng = np.random.default_rng(3)
    atoms = Atoms("C5", rng.normal(scale=3.0, size=(5, 3)))
    atoms.set_initial_charges(rng.normal(size=5))
    expected = 0.0
    for i in range(5):
        for j in range(i):
            r = np.linalg.norm(atoms.positions[i] - atoms.positions[j])
            expected += COULOMB * atoms.get_initial_charges()[[i, j]].prod() / r
    row = predict(term(), [atoms], ("energy", "forces", "charges"))[0]
    assert row["energy"] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(row["charges"], atoms.get_initial_charges())


def sheets(height, lattice=3.0, turned=False):
    """Two square lattices of opposite charges, one above the other."""
    atoms = Atoms("NaCl", [[0, 0, 0], [0, 0, height]], cell=[lattice, lattice, 0])
    atoms.pbc = (True, True, False)
    if turned:
        atoms = atoms[[1, 0]]
        atoms.set_cell(np.roll(atoms.cell[:], 1, axis=0))
        atoms.pbc = (False, True, True)
        atoms.rotate(33, (1, 2, 3), rotate_cell=True)
    return atoms


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "turned"])
def test_two_distant_sheets_are_a_plate_capacitor(turned):
    """Beyond a lattice constant sheets are smooth: E = E0 + 2 pi k q^2 d / A, in any frame."""
    model = term({"Na": 1.0, "Cl": -1.0})
    near, far = (energy(model, sheets(d, turned=turned)) for d in (12.0, 17.0))
    assert far - near == pytest.approx(2 * math.pi * COULOMB * 5.0 / 9.0, rel=1e-8)
    force = predict(model, [sheets(12.0)], ("forces",))[0]["forces"]
    assert force[1, 2] == pytest.approx(-2 * math.pi * COULOMB / 9.0, rel=1e-8)


def test_a_slab_in_a_repeated_cell_differs_by_its_dipole():
    """Yeh and Berkowitz 1999, Eq. 12: E(open) - E(repeated) = 2 pi k M^2 / V."""
    model = term({"Na": 1.0, "Cl": -1.0})
    slab = sheets(4.0)
    repeated = slab.copy()
    repeated.set_cell([3.0, 3.0, 40.0])
    repeated.pbc = True
    dipole, volume = 4.0, 3.0 * 3.0 * 40.0
    difference = energy(model, slab) - energy(model, repeated)
    assert difference == pytest.approx(2 * math.pi * COULOMB * dipole**2 / volume, rel=1e-7)


def test_a_slab_does_not_depend_on_the_vacuum_it_came_with():
    model = term({"Na": 1.0, "Cl": -1.0})
    slab = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    slab.rattle(0.1, seed=4)
    slab.pbc = (True, True, False)
    energies = []
    for height in (0.0, 8.0, 60.0):
        slab.set_cell([5.64, 5.64, height])
        energies.append(energy(model, slab))
    assert np.ptp(energies) < 1e-7


def test_forces_and_stress_are_differences_of_energies():
    model = term({"Na": 1.0, "Cl": -1.0})
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.rattle(0.3, seed=2)
    row = predict(model, [atoms], ("energy", "forces", "stress"))[0]
    for axis in range(3):
        ends = []
        for sign in (1, -1):
            moved, strained, strain = atoms.copy(), atoms.copy(), np.eye(3)
            moved.positions[0, axis] += sign * 1e-4
            strain[axis, axis] += sign * 1e-4
            strained.set_cell(atoms.cell @ strain, scale_atoms=True)
            ends.append([energy(model, moved), energy(model, strained)])
        force = -(ends[0][0] - ends[1][0]) / 2e-4
        stress = (ends[0][1] - ends[1][1]) / 2e-4 / atoms.get_volume()
        assert row["forces"][0, axis] == pytest.approx(force, abs=1e-6)
        assert row["stress"][axis, axis] == pytest.approx(stress, abs=1e-6)


def test_every_periodicity_goes_into_one_batch():
    model = term({"Na": 1.0, "Cl": -1.0})
    data = [bulk("NaCl", "rocksalt", a=5.64), sheets(3.0), Atoms("NaCl", [[0, 0, 0], [2.4, 0, 0]])]
    for atoms, row in zip(data, predict(model, data), strict=True):
        alone = predict(model, [atoms])[0]
        assert row["energy"] == pytest.approx(alone["energy"], rel=1e-10)
        np.testing.assert_allclose(row["forces"], alone["forces"], atol=1e-10)


@pytest.mark.parametrize(
    ("atoms", "said"),
    [
        (Atoms("NaCl", [[0, 0, 0], [0, 0, 2]], cell=[3, 0, 0], pbc=(1, 0, 0)), "one axis alone"),
        (Atoms("Na", cell=[3, 3, 0], pbc=(1, 1, 0)), "net charge of"),
        (Atoms("K"), "no charge for K"),
    ],
)
def test_what_has_no_energy_is_refused(atoms, said):
    with pytest.raises(StructureError, match=said):
        predict(term({"Na": 1.0, "Cl": -1.0}), [atoms])


def test_an_error_says_which_term_and_which_structure():
    model = add_corrections(
        ase_nnp.build_model("zbl", dtype="float64", device="cpu"),
        {"ewald": {"charges": {"Na": 1.0, "Cl": -1.0}}},
    )
    good, bad = sheets(3.0), Atoms("NaK", [[0, 0, 0], [0, 0, 3]])
    with pytest.raises(StructureError, match=r"Structure 2.*'ewald'.*no charge for K"):
        predict(model, [good, good, bad])


def test_a_calculator_notices_charges_that_changed():
    atoms = Atoms("CO", [(0, 0, 0), (0, 0, 1.2)])
    atoms.set_initial_charges([1, -1])
    atoms.calc = NNPCalculator(term())
    before = atoms.get_potential_energy()
    atoms.set_initial_charges([0.5, -0.5])
    assert atoms.get_potential_energy() == pytest.approx(before / 4)


def test_atoms_without_charges_are_refused():
    with pytest.raises(StructureError, match="set_initial_charges"):
        predict(term(), [Atoms("Na")])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"charges": {"Xx": 1.0}}, "no elements"),
        ({"method": "pme"}, "'ewald' and 'p3m'"),
        ({"accuracy": 2.0}, "accuracy"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        build_term("ewald", options)
