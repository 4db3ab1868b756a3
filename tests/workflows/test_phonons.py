"""Phonons against a chain that is solved in closed form, and against ASE's own."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.thermochemistry import HarmonicThermo
from ase.units import _amu, _e, _hplanck, kB

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.phonons import Phonons, draw_phonons, phonons

SPRING, PERIOD = 2.0, 3.0  # eV/Angstrom^2, Angstrom


class Chain(Calculator):
    """Atoms along x, each tied to the next by a spring, for displacements in any direction."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        order = np.argsort(atoms.positions[:, 0])
        ideal = np.zeros((len(atoms), 3))
        ideal[:, 0] = PERIOD * np.arange(len(atoms))
        u = atoms.positions[order] - ideal
        stretch = np.roll(u, -1, axis=0) - u
        forces = np.zeros_like(u)
        forces[order] = SPRING * (stretch - np.roll(stretch, 1, axis=0))
        self.results = {"energy": SPRING / 2 * (stretch**2).sum(), "forces": forces}


def chain():
    return Atoms("Ar", cell=[PERIOD, 12, 12], pbc=[True, False, False])


def test_a_chain_of_springs_has_its_sine():
    """omega = 2 sqrt(k/m) |sin(q a / 2)|, Ashcroft and Mermin, equation 22.29."""
    result = phonons(chain(), Chain(), supercell=(6, 1, 1), engine="ase", mesh=(6, 1, 1), points=21)
    top = 2 * np.sqrt(SPRING * _e * 1e20 / (chain().get_masses()[0] * _amu)) / (2 * np.pi) / 1e12
    for q, branches in zip(result.path[:, 0], result.bands, strict=True):
        np.testing.assert_allclose(branches, top * abs(np.sin(np.pi * q)), atol=2e-3 * top)
    assert result.mesh.max() == pytest.approx(top, rel=1e-3)
    assert result.stable
    assert result.nonlinearity < 1e-3 * top
    assert result.smooth


def test_a_cusp_at_the_symmetric_site_is_seen_in_what_doubling_the_displacement_does():
    """Forces that grow with the root of the displacement have no curvature at rest."""

    class Cusp(Chain):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            forces = self.results["forces"]
            forces[:] = np.sign(forces) * np.abs(forces) ** 0.5

    assert not phonons(chain(), Cusp(), supercell=(4, 1, 1), engine="ase", points=9).smooth


def test_ases_own_phonons_are_the_same(tmp_path):
    from ase.phonons import Phonons as Own

    own = Own(bulk("Al"), EMT(), supercell=(4, 4, 4), delta=0.01, name=str(tmp_path / "own"))
    own.run()
    own.read(acoustic=True)
    result = phonons(bulk("Al"), EMT(), supercell=(4, 4, 4), engine="ase", points=13, mesh=(2,) * 3)
    expected = own.band_structure(result.path, verbose=False).real * _e / _hplanck / 1e12
    fits = np.isclose(4 * result.path, np.round(4 * result.path)).all(axis=1)
    assert fits.sum() > 3
    np.testing.assert_allclose(result.bands[fits], np.sort(expected, axis=1)[fits], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("atoms", [bulk("Al"), bulk("CuAu", "zincblende", a=5.5)], ids=str)
def test_phonopy_and_ase_agree(atoms):
    pytest.importorskip("phonopy")
    settings = {"supercell": (3, 3, 3), "points": 13, "mesh": (2, 2, 2)}
    own, other = (phonons(atoms, EMT(), engine=e, **settings) for e in ("ase", "phonopy"))
    assert (own.engine, other.engine) == ("ase", "phonopy")
    np.testing.assert_allclose(other.bands, own.bands, atol=0.01)


@pytest.mark.parametrize("size", [2, 3])
def test_branches_that_symmetry_makes_equal_are_equal_in_any_supercell(size):
    """The two transverse branches from Gamma to X and to L."""
    result = phonons(
        bulk("Al"), EMT(), supercell=(size,) * 3, engine="ase", points=41, mesh=(2,) * 3
    )
    q = result.path
    to_x = np.isclose(q[:, 0], q[:, 2]) & np.isclose(q[:, 1], 0)
    to_l = np.isclose(q[:, 0], q[:, 1]) & np.isclose(q[:, 0], q[:, 2])
    lines = result.bands[to_x | to_l]
    assert len(lines) > 10
    np.testing.assert_allclose(lines[:, 0], lines[:, 1], atol=1e-4)


def with_frequencies(*thz):
    empty = np.zeros(0)
    flat = np.array([thz])
    return Phonons("ase", np.zeros((1, 3)), empty, empty, [], flat, flat)


@pytest.mark.parametrize("kelvin", [50.0, 300.0, 1000.0])
def test_thermal_functions_are_those_of_oscillators(kelvin):
    thz = (2.0, 5.0, 9.0)
    thermo = HarmonicThermo(np.array(thz) * 1e12 * _hplanck / _e)
    values = with_frequencies(*thz).thermal(kelvin)
    free = thermo.get_helmholtz_energy(kelvin, verbose=False)
    assert values["free_energy"] == pytest.approx(free, rel=1e-9)
    assert values["entropy"] == pytest.approx(thermo.get_entropy(kelvin, verbose=False), rel=1e-9)


def test_heat_capacity_ends_at_dulong_and_petit_and_entropy_at_zero():
    result = with_frequencies(2.0, 5.0, 9.0)
    assert result.thermal(1e5)["heat_capacity"] == pytest.approx(3 * kB, rel=1e-4)
    zero = result.thermal(0.0)
    assert zero["entropy"] == 0
    assert zero["free_energy"] == pytest.approx(16e12 * _hplanck / _e / 2)


def test_a_crystal_that_falls_apart_has_imaginary_frequencies():
    """Simple cubic copper is no minimum of EMT."""
    sc = bulk("Cu", "sc", a=2.4)
    result = phonons(sc, EMT(), supercell=(3, 3, 3), engine="ase", points=13, mesh=(2, 2, 2))
    assert not result.stable
    assert result.lowest < -0.5


@pytest.mark.parametrize(
    ("atoms", "settings", "error"),
    [
        (bulk("Cu"), {"engine": "abinit"}, ConfigError),
        (bulk("Cu"), {"supercell": (0, 1, 1)}, ConfigError),
        (bulk("Cu"), {"displacement": 0.0}, ConfigError),
        (molecule("H2O"), {}, StructureError),
    ],
)
def test_what_has_no_phonons_is_refused(atoms, settings, error):
    with pytest.raises(error):
        phonons(atoms, EMT(), **settings)


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    result = phonons(chain(), Chain(), supercell=(3, 1, 1), engine="ase", points=5, mesh=(3, 1, 1))
    draw_phonons(result, tmp_path / "bands.png", std=0.1 * np.abs(result.bands))
    assert (tmp_path / "bands.png").stat().st_size > 5000


@pytest.mark.parametrize("kelvin", [-3.0, np.nan, np.inf])
def test_a_temperature_that_is_none_is_refused(kelvin):
    result = Phonons("ase", *(np.zeros((1, 3)),) * 3, [], *(np.ones((1, 3)),) * 2)
    with pytest.raises(ConfigError, match="zero or more"):
        result.thermal(kelvin)
    assert result.thermal(0.0)["entropy"] == 0
