"""Hessians and modes against ASE's finite differences, automatic differentiation and algebra."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.optimize import BFGS
from ase.units import invcm
from ase.vibrations import Vibrations as AseVibrations
from ase.vibrations import VibrationsData

import ase_nnp
from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.vibrations import hessian, treat_modes, vibrations


@pytest.fixture(scope="module")
def lj():
    return ase_nnp.build_model("lj", dtype="float64")


def relaxed(atoms, calculator=None):
    atoms.calc = calculator or EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-6, steps=300)
    return atoms


def adsorbate():
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    add_adsorbate(slab, "N", 1.2, "fcc")
    slab.set_constraint(FixAtoms(mask=[atom.symbol == "Cu" for atom in slab]))
    return relaxed(slab)


@pytest.mark.parametrize("make", [lambda: relaxed(molecule("H2O")), adsorbate])
def test_displacements_equal_ases_finite_differences(make, tmp_path):
    atoms = make()
    run = AseVibrations(atoms, indices=[0] if len(atoms) > 3 else None, name=str(tmp_path / "v"))
    if len(atoms) > 3:
        run.indices = np.array([len(atoms) - 1])
    run.run()
    wanted = run.get_vibrations().get_hessian()
    actual = hessian(atoms, ase_nnp.from_ase(EMT), displacement=0.01)
    np.testing.assert_allclose(actual, wanted, atol=1e-6 * np.abs(wanted).max())


def test_exact_rows_equal_small_displacements_and_the_calculators_own(lj):
    generator = np.random.default_rng(1)
    cluster = Atoms("Ar4", positions=[[0, 0, 0], [1.1, 0, 0], [0, 1.1, 0.1], [0.2, 0, 1.1]])
    cluster.positions += 0.03 * generator.standard_normal((4, 3))
    exact = hessian(cluster, lj, method="exact")
    # A central difference errs by h^2/6 times the fourth derivative: two steps tell the limit.
    coarse, fine = (
        hessian(cluster, lj, method="displacements", displacement=h) for h in (2e-4, 1e-4)
    )
    limit = (4 * fine - coarse) / 3
    np.testing.assert_allclose(exact, limit, atol=1e-8 * np.abs(exact).max())
    own = ase_nnp.NNPCalculator(lj).get_hessian(cluster).reshape(4, 3, 4, 3)
    np.testing.assert_allclose(exact, own, atol=1e-8 * np.abs(exact).max())


def test_the_rows_of_free_atoms_are_those_of_the_whole(lj):
    chain = Atoms("Ar5", positions=[[1.1 * k, 0.2 * (k % 2), 0] for k in range(5)])
    whole = hessian(chain, lj)
    for method in ("exact", "displacements"):
        part = hessian(chain, lj, free=[3, 1], method=method, displacement=1e-4)
        block = whole[np.ix_([3, 1], range(3), [3, 1], range(3))]
        np.testing.assert_allclose(part, block, atol=1e-4 * np.abs(whole).max())


@pytest.mark.parametrize(("name", "rigid"), [("H2O", 6), ("CO2", 5), ("N2", 5)])
def test_rigid_motions_are_taken_out(name, rigid):
    atoms = relaxed(molecule(name))
    result = vibrations(atoms, ase_nnp.from_ase(EMT))
    assert isinstance(result, VibrationsData)
    assert result.rigid_modes == rigid
    assert len(result.get_internal_energies()) == 3 * len(atoms) - rigid
    waves = np.sort(np.abs(result.get_energies())) / invcm
    assert (waves[:rigid] < 1e-2).all()
    assert result.residual < 1e-2 * np.abs(result.get_hessian()).max()
    frames = list(result.iter_animated_mode(-1))
    assert len(frames) == 30


def test_a_diatomic_has_the_frequency_of_its_curvature(lj):
    # E = 4 eps [(s/r)^12 - (s/r)^6] f(r): its second difference, and two masses.
    dimer = relaxed(Atoms("N2", positions=[[0, 0, 0], [0, 0, 1.12]]), ase_nnp.NNPCalculator(lj))
    length, step = dimer.get_distance(0, 1), 1e-3
    energies = []
    for r in (length - step, length, length + step):
        stretched = Atoms("N2", positions=[[0, 0, 0], [0, 0, r]])
        energies.append(ase_nnp.predict(lj, [stretched])[0]["energy"])
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / step**2
    # omega = sqrt(k / mu); 1 eV/A^2/u = (98.2269 THz rad)^2, hbar = 6.582120e-16 eV s.
    omega = np.sqrt(curvature / (dimer.get_masses()[0] / 2)) * 98.22694788e12
    energy = vibrations(dimer, lj).get_internal_energies()[-1]
    assert energy.real == pytest.approx(6.582119569e-16 * omega, rel=1e-4)


def test_a_crystal_has_three_translations_and_a_held_slab_no_rigid_motion(lj):
    crystal = bulk("Ar", "fcc", a=1.7, cubic=True) * (2, 2, 2)
    result = vibrations(crystal, lj)
    assert result.rigid_modes == 3
    assert (np.sort(np.abs(result.get_energies()))[:3] / invcm < 1e-2).all()
    assert vibrations(adsorbate(), ase_nnp.from_ase(EMT)).rigid_modes == 0


def test_a_molecule_in_a_periodic_box_turns_freely():
    atoms = relaxed(molecule("H2O"))
    boxed = atoms.copy()
    boxed.set_cell([12, 12, 12])
    boxed.center()
    boxed.pbc = True
    model = ase_nnp.from_ase(EMT)
    one, two = vibrations(atoms, model), vibrations(boxed, model)
    assert two.rigid_modes == 6
    np.testing.assert_allclose(one.get_internal_energies(), two.get_internal_energies(), rtol=1e-5)

    boxed.positions -= boxed.get_center_of_mass()
    boxed.wrap()  # the border of the box cuts the molecule
    cut = vibrations(boxed, model)
    np.testing.assert_allclose(one.get_internal_energies(), cut.get_internal_energies(), rtol=1e-5)


def test_single_precision_models_are_evaluated_in_double(lj):
    cluster = Atoms("Ar3", positions=[[0, 0, 0], [1.1, 0, 0], [0, 1.1, 0.1]])
    single = ase_nnp.build_model("lj", dtype="float32")
    result = hessian(cluster, single, method="displacements")
    np.testing.assert_allclose(result, hessian(cluster, lj, method="displacements"), rtol=1e-6)


def test_what_cannot_be_meant_is_refused(lj):
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.1]])
    with pytest.raises(ConfigError, match="method"):
        hessian(atoms, lj, method="magic")
    with pytest.raises(PropertyNotImplementedError):
        hessian(atoms, ase_nnp.from_ase(EMT), method="exact")
    for free in ([], [2], [0, 0], [True, False, True]):
        with pytest.raises(StructureError, match="free"):
            hessian(atoms, lj, free=free)
    atoms.set_constraint(FixCartesian(0, [True, False, False]))
    with pytest.raises(StructureError, match="FixCartesian"):
        hessian(atoms, lj)


def test_small_imaginary_modes_are_treated_as_said_and_shown():
    modes = np.array([30j, 20.0, 400.0]) * invcm
    inverted = treat_modes(modes)
    np.testing.assert_allclose(inverted.energies / invcm, [20, 30, 400])
    assert inverted.changes == ("30.0i taken as 30.0",)
    np.testing.assert_allclose(treat_modes(modes, "drop").energies / invcm, [20, 400])
    raised = treat_modes(modes, "raise")
    np.testing.assert_allclose(raised.energies / invcm, [100, 100, 400])
    assert len(raised.changes) == 2
    np.testing.assert_allclose(treat_modes(modes, floor=60.0).energies / invcm, [60, 60, 400])
    for refused in ({"policy": "error"}, {"small": 20.0}):
        with pytest.raises(StructureError, match="30i"):
            treat_modes(modes, **refused)


def test_a_saddle_point_keeps_one_imaginary_mode_out():
    modes = np.array([800j, 30j, 400.0]) * invcm
    treated = treat_modes(modes, saddle=True)
    assert treated.reaction_coordinate == pytest.approx(800)
    np.testing.assert_allclose(treated.energies / invcm, [30, 400])
    with pytest.raises(StructureError, match="800i"):
        treat_modes(modes)
    with pytest.raises(StructureError, match="none"):
        treat_modes(np.array([400.0]) * invcm, saddle=True)


def test_phonopys_force_constants_are_the_same(lj):
    phonopy = pytest.importorskip("phonopy")
    from phonopy.structure.atoms import PhonopyAtoms

    crystal = bulk("Ar", "fcc", a=1.7)
    cell = PhonopyAtoms(
        symbols=crystal.get_chemical_symbols(),
        cell=crystal.cell[:],
        scaled_positions=crystal.get_scaled_positions(),
    )
    run = phonopy.Phonopy(cell, np.diag([2, 2, 2]))
    run.generate_displacements(distance=1e-4, is_plusminus=True)
    forces = []
    for displaced in run.supercells_with_displacements:
        atoms = Atoms(
            displaced.symbols, cell=displaced.cell, pbc=True,
            scaled_positions=displaced.scaled_positions,
        )  # fmt: skip
        forces.append(ase_nnp.predict(lj, [atoms])[0]["forces"])
    run.forces = forces
    run.produce_force_constants()
    still = Atoms(
        run.supercell.symbols, cell=run.supercell.cell, pbc=True,
        scaled_positions=run.supercell.scaled_positions,
    )  # fmt: skip
    ours = hessian(still, lj).transpose(0, 2, 1, 3)
    theirs = run.force_constants
    if theirs.shape != ours.shape:  # compact: rows of the primitive cell's atoms
        ours = ours[run.primitive.p2s_map]
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())
