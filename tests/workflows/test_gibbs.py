"""Free energies against the formulas of statistical mechanics, written out with CODATA numbers."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.units import invcm, kB
from scipy import constants as si

import ase_nnp
from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.uncertainty.observables import Observable, Source
from ase_nnp.workflows.thermo import State, adsorbate, gas, gibbs, solid
from ase_nnp.workflows.thermo.states import SPINS, spin_of, symmetry_number

#: Fundamental wave numbers (cm^-1), symmetry number, measured entropy (J/mol/K at 298.15 K, 1 bar),
#: all of the NIST WebBook.
GASES = {
    "H2": ([4401], 2, 130.7),
    "N2": ([2359], 2, 191.6),
    "CO": ([2170], 1, 197.7),
    "H2O": ([3657, 1595, 3756], 2, 188.8),
    "CO2": ([1333, 667, 667, 2349], 2, 213.8),
}


def ideal_gas_entropy(atoms, waves, symmetry, spin=0.0, temperature=298.15, pressure=1e5):
    """Sackur-Tetrode, rigid rotor and harmonic oscillators, J/mol/K."""
    mass = atoms.get_masses().sum() * si.atomic_mass
    wavelength = si.h / np.sqrt(2 * np.pi * mass * si.k * temperature)
    total = 2.5 + np.log(si.k * temperature / pressure / wavelength**3)

    arms = atoms.positions - atoms.get_center_of_mass()
    square = sum(
        m * (np.dot(r, r) * np.eye(3) - np.outer(r, r))
        for m, r in zip(atoms.get_masses(), arms, strict=True)
    )
    moments = np.linalg.eigvalsh(square) * si.atomic_mass * 1e-20
    turns = 8 * np.pi**2 * moments[moments > 1e-50] * si.k * temperature / si.h**2
    if len(turns) == 2:
        total += 1 + np.log(turns.mean() / symmetry)
    elif len(turns) == 3:
        total += 1.5 + 0.5 * np.log(np.pi * turns.prod()) - np.log(symmetry)

    x = si.h * si.c * 100 * np.array(waves, dtype=float) / (si.k * temperature)
    total += (x / np.expm1(x) - np.log1p(-np.exp(-x))).sum() + np.log(2 * spin + 1)
    return total * si.R


@pytest.mark.parametrize("name", GASES)
def test_entropies_of_gases_are_those_of_the_formula_and_of_experiment(name):
    waves, symmetry, measured = GASES[name]
    atoms = molecule(name)
    state = State(0.0, "gas", np.array(waves) * invcm + 0j, atoms, symmetry)
    entropy = gibbs(state).entropy * si.e * si.N_A
    assert entropy == pytest.approx(ideal_gas_entropy(atoms, waves, symmetry), abs=0.1)
    # The tabulated geometries of ASE are computed ones.
    assert entropy == pytest.approx(measured, abs=0.5)


def test_an_atom_and_a_triplet():
    argon = gibbs(State(0.0, "gas", atoms=Atoms("Ar"))).entropy * si.e * si.N_A
    assert argon == pytest.approx(154.8, abs=0.1)  # NIST
    oxygen = State(0.0, "gas", np.array([1580.0]) * invcm, molecule("O2"), 2, 1.0)
    assert gibbs(oxygen).entropy * si.e * si.N_A == pytest.approx(205.2, abs=0.5)  # NIST


def test_pressure_and_temperature_enter_as_for_an_ideal_gas():
    waves, symmetry, _ = GASES["CO"]
    state = State(-3.0, "gas", np.array(waves) * invcm, molecule("CO"), symmetry)
    one, ten = (gibbs(state, 500.0, p) for p in (1e5, 1e6))
    assert ten.value.value - one.value.value == pytest.approx(kB * 500 * np.log(10), abs=1e-9)
    # Enthalpy above the zero point: 7/2 kT and what a stiff vibration holds.
    x = waves[0] * invcm / (kB * 500)
    assert one.thermal == pytest.approx(kB * 500 * (3.5 + x / np.expm1(x)), abs=1e-6)
    assert one.value.value == pytest.approx(
        -3.0 + one.zero_point + one.thermal - 500 * one.entropy, abs=1e-12
    )


def test_harmonic_adsorbates_are_sums_of_oscillators():
    waves, temperature = np.array([200.0, 600.0, 1500.0]), 400.0
    result = gibbs(State(1.0, modes=waves * invcm), temperature)
    quanta = waves * invcm
    x = quanta / (kB * temperature)
    free = quanta / 2 + kB * temperature * np.log1p(-np.exp(-x))
    assert result.value.value == pytest.approx(1.0 + free.sum(), abs=1e-9)
    assert result.thermal == pytest.approx((quanta / np.expm1(x)).sum(), abs=1e-9)
    entropy = kB * (x / np.expm1(x) - np.log1p(-np.exp(-x)))
    assert result.entropy == pytest.approx(entropy.sum(), abs=1e-12)
    assert result.zero_point == pytest.approx(quanta.sum() / 2, abs=1e-12)


def test_quasi_rrho_is_a_rotor_for_soft_modes_and_an_oscillator_for_stiff_ones():
    atoms, temperature = molecule("CO"), 298.15
    waves = np.array([20.0, 100.0, 2000.0])
    inertia = atoms.get_moments_of_inertia().mean() * si.atomic_mass * 1e-20
    own = si.h / (8 * np.pi**2 * si.c * 100 * waves)
    reduced = own * inertia / (own + inertia)
    rotor = 0.5 + 0.5 * np.log(8 * np.pi**3 * reduced * si.k * temperature / si.h**2)
    x = si.h * si.c * 100 * waves / (si.k * temperature)
    oscillator = x / np.expm1(x) - np.log1p(-np.exp(-x))
    weight = 1 / (1 + (100 / waves) ** 4)
    wanted = kB * (weight * oscillator + (1 - weight) * rotor).sum()
    result = gibbs(State(0.0, modes=waves * invcm, atoms=atoms), treatment="quasi-rrho")
    assert result.entropy == pytest.approx(wanted, rel=1e-6)


def test_a_hindered_translator_with_a_high_barrier_is_an_oscillator():
    # For kT far below the barrier the motion is harmonic: h nu = h sqrt(W / 2 m A), both ways.
    atoms = molecule("CO")
    modes = np.array([50, 51, 52, 400, 450, 2000.0]) * invcm
    settings = {
        "trans_barrier_energy": 5.0,
        "rot_barrier_energy": 5.0,
        "sitedensity": 1.5e15,
        "rotationalminima": 6.0,
    }
    result = gibbs(State(0.0, modes=modes, atoms=atoms), treatment="hindered", hindered=settings)
    mass, inertia = 28.01 * si.atomic_mass, atoms.get_moments_of_inertia()[2]
    slide = si.h * np.sqrt(5.0 * si.e / (2 * mass * 1e-4 / 1.5e15)) / si.e
    turn = np.sqrt(36 * 5.0 * si.e / (2 * inertia * si.atomic_mass * 1e-20))
    turn = si.hbar * turn / si.e
    wanted = (2 * slide + turn + modes[3:].sum()) / 2
    assert result.zero_point == pytest.approx(wanted, rel=1e-4)


def test_hydrogen_on_a_metal_lies_a_quarter_of_an_electron_volt_above_its_energy():
    # Norskov et al. 2005 (doi:10.1149/1.1856988): 0.04 eV of zero point and 0.20 eV of entropy, for
    # H* on Cu(111) with a zero-point energy of 0.17 eV; the enthalpy of H2 is left out there.
    h2 = gibbs(State(0.0, "gas", np.array([4401.0]) * invcm, molecule("H2"), 2), 298.15)
    h = gibbs(State(0.0, modes=np.array([1151.0, 795.5, 795.5]) * invcm), 298.15)
    assert h.zero_point == pytest.approx(0.17, abs=0.001)
    shift = h.zero_point - h2.zero_point / 2 + 298.15 * h2.entropy / 2
    assert shift == pytest.approx(0.24, abs=0.01)


def test_a_molecule_and_an_adsorbate_are_made_from_a_model():
    model = ase_nnp.from_ase(EMT)
    nitrogen = gas(molecule("N2"), model)
    assert (nitrogen.symmetry, nitrogen.spin, len(nitrogen.modes)) == (2, 0.0, 1)
    calculated = gibbs(nitrogen)
    waves = nitrogen.modes.real / invcm
    wanted = ideal_gas_entropy(nitrogen.atoms, waves, 2)
    assert calculated.entropy * si.e * si.N_A == pytest.approx(wanted, abs=0.1)

    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    slab.set_constraint(FixAtoms(range(len(slab))))
    covered = slab.copy()
    add_adsorbate(covered, "N", 1.2, "fcc")
    state = adsorbate(covered, model)
    assert (state.name, len(state.modes)) == ("*N", 3)
    assert gibbs(solid(slab, model, relax=False)).correction == 0
    quanta = state.modes.real
    free = quanta / 2 + kB * 298.15 * np.log1p(-np.exp(-quanta / kB / 298.15))
    assert gibbs(state).correction == pytest.approx(free.sum(), abs=1e-9)


def test_members_of_an_ensemble_carry_their_energies_and_modes():
    source = Source("members")
    energies = np.array([-1.1, -1.0, -0.9])
    modes = tuple(np.array([w]) * invcm for w in (900.0, 1000.0, 1200.0))
    state = State(Observable(-1.0, {source: energies + 1.0}), modes=modes[1], member_modes=modes)
    result = gibbs(state, 300.0)
    singles = [
        gibbs(State(e, modes=m), 300.0).value.value for e, m in zip(energies, modes, strict=True)
    ]
    np.testing.assert_allclose(result.value.members, singles, atol=1e-12)
    assert result.value.std == pytest.approx(np.std(singles, ddof=1), abs=1e-12)


def test_imaginary_modes_never_crash_silently():
    modes = np.array([30j, 500.0]) * invcm
    result = gibbs(State(0.0, modes=modes), policy="invert")
    assert result.modes.changes == ("30.0i taken as 30.0",)
    assert result.as_dict()["mode_changes"] == ["30.0i taken as 30.0"]
    with pytest.raises(StructureError, match="200i"):
        gibbs(State(0.0, modes=np.array([200j, 500.0]) * invcm))
    saddle = gibbs(State(0.0, modes=np.array([200j, 500.0]) * invcm, saddle=True))
    assert saddle.modes.reaction_coordinate == pytest.approx(200)


@pytest.mark.parametrize(
    ("name", "symmetry", "spin"),
    [("H2", 2, 0), ("CO", 1, 0), ("H2O", 2, 0), ("NH3", 3, 0), ("CH4", 12, 0), ("O2", 2, 1)],
)
def test_symmetry_numbers_and_spins_of_known_molecules(name, symmetry, spin):
    pytest.importorskip("pymatgen")
    assert symmetry_number(molecule(name)) == symmetry
    assert spin_of(molecule(name)) == spin


def test_every_listed_spin_is_found():
    assert {name: spin_of(Atoms(name)) for name in SPINS} == SPINS
    assert spin_of(molecule("NH")) == spin_of(molecule("SO")) == 1.0


@pytest.mark.parametrize("name", ["H2O", "N2"])
def test_a_molecule_that_its_box_cuts_is_the_same_gas(name):
    pytest.importorskip("pymatgen")
    atoms = molecule(name)
    atoms.set_cell([12.0, 12.5, 13.0])
    atoms.pbc = True
    atoms.center()
    cut = atoms.copy()
    cut.positions -= cut.get_center_of_mass()
    cut.wrap()
    model = ase_nnp.from_ase(EMT)
    one, two = (gas(given, model) for given in (atoms, cut))
    assert two.symmetry == one.symmetry == 2
    np.testing.assert_allclose(two.modes, one.modes, atol=1e-4)
    assert float(gibbs(two, 500.0)) == pytest.approx(float(gibbs(one, 500.0)), abs=1e-3)


def test_an_adsorbate_across_the_border_of_the_cell_has_its_own_moments():
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    slab.set_constraint(FixAtoms(range(len(slab))))
    covered = slab.copy()
    add_adsorbate(covered, Atoms("NO", [[0, 0, 0], [0.4, 0.3, 1.1]]), 1.8, "ontop")
    cut = covered.copy()
    cut.positions -= [*covered.positions[-1, :2] - 0.1, 0.0]
    cut.wrap()
    model = ase_nnp.from_ase(EMT)
    one, two = (adsorbate(given, model, relax=False).atoms for given in (covered, cut))
    np.testing.assert_allclose(
        two.get_moments_of_inertia(), one.get_moments_of_inertia(), atol=1e-6
    )


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ConfigError, match="kind"):
        State(0.0, "liquid")
    with pytest.raises(ConfigError, match="gas"):
        State(0.0, "gas")
    state = State(0.0, modes=np.array([500.0]) * invcm)
    for wrong in ({"temperature": 0.0}, {"treatment": "magic"}, {"treatment": "hindered"}):
        with pytest.raises(ConfigError):
            gibbs(state, **wrong)
    with pytest.raises(StructureError, match="modes of 2 atoms"):
        gibbs(State(0.0, "gas", np.zeros(6), molecule("CO")), floor=50.0)


@pytest.mark.parametrize(("name", "spin"), [("CO", 0.5), ("CO", 0.3), ("OH", 0), ("H2", 2)])
def test_a_spin_that_the_electrons_cannot_have_is_refused(name, spin):
    with pytest.raises(ConfigError, match="electrons, and its total spin is"):
        State(0.0, "gas", np.array([0.2 + 0j]), molecule(name), spin=spin)


def test_an_ion_has_the_spin_of_its_electrons():
    ion = molecule("OH")
    ion.set_initial_charges([-1, 0])
    assert State(0.0, "gas", np.array([0.4 + 0j]), ion).spin == 0
