"""matcalc: relaxation, equation of state, elasticity, phonons, adsorption, surfaces, NEB."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
mtc = pytest.importorskip("matcalc", reason="needs matcalc")


@pytest.fixture
def copper():
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.rattle(0.02, seed=1)
    return atoms


def test_relaxation_of_atoms_and_cell(calculators, copper):
    ours, reference = (mtc.RelaxCalc(make(), fmax=0.01).calc(copper) for make in calculators)

    assert abs(reference["a"] - 3.7) > 0.05  # it moved
    for name in ("energy", "a", "b", "c", "alpha", "volume"):
        assert ours[name] == pytest.approx(reference[name], rel=1e-5), name
    assert ours["is_converged"] == reference["is_converged"]
    np.testing.assert_allclose(ours["forces"], reference["forces"], atol=1e-4)
    np.testing.assert_allclose(ours["stress"], reference["stress"], atol=1e-5)


def test_equation_of_state(calculators, copper):
    options = {"n_points": 5, "max_abs_strain": 0.04, "fmax": 0.02}
    ours, reference = (mtc.EOSCalc(make(), **options).calc(copper) for make in calculators)

    assert reference["bulk_modulus_bm"] > 50  # GPa
    assert ours["bulk_modulus_bm"] == pytest.approx(reference["bulk_modulus_bm"], rel=1e-3)
    np.testing.assert_allclose(ours["eos"]["energies"], reference["eos"]["energies"], atol=1e-5)


def test_elastic_constants(calculators, copper):
    options = {"fmax": 0.01, "units_GPa": True}
    ours, reference = (mtc.ElasticityCalc(make(), **options).calc(copper) for make in calculators)

    expected = reference["elastic_tensor"].voigt
    assert expected[0, 0] > 50  # GPa
    np.testing.assert_allclose(ours["elastic_tensor"].voigt, expected, atol=0.05)
    assert ours["bulk_modulus_vrh"] == pytest.approx(reference["bulk_modulus_vrh"], rel=1e-3)


def test_phonons(calculators):
    options = {"supercell_matrix": np.diag([2, 2, 2]), "fmax": 0.001, "t_max": 400, "t_step": 100}
    options["write_phonon"] = False
    copper = bulk("Cu", "fcc", a=3.6)
    ours, reference = (mtc.PhononCalc(make(), **options).calc(copper) for make in calculators)

    assert np.max(reference["frequencies"]) > 3  # THz
    np.testing.assert_allclose(ours["frequencies"], reference["frequencies"], atol=2e-3)
    thermal, expected = ours["thermal_properties"], reference["thermal_properties"]
    np.testing.assert_allclose(thermal["entropy"], expected["entropy"], rtol=1e-3, atol=1e-4)


def test_adsorption_of_a_molecule_in_a_box_on_a_slab(calculators):
    def energies(calc):
        sites = mtc.AdsorptionCalc(calc, fmax=0.05, max_steps=25).calc_adslabs(
            molecule("CO"),
            bulk("Cu", "fcc", a=3.6, cubic=True),
            (1, 1, 1),
            min_slab_size=4.0,
            min_vacuum_size=10.0,
            inplane_supercell=(2, 2),
            adsorption_sites="ontop",
            height=1.8,
            fixed_height=3.0,
        )
        return [(s["adsorption_energy"], s["adsorbate_energy"], s["slab_energy"]) for s in sites]

    ours, reference = (energies(make()) for make in calculators)
    assert reference
    np.testing.assert_allclose(ours, reference, atol=1e-4)


def test_surface_energy(calculators):
    def slabs(calc):
        return mtc.SurfaceCalc(calc, fmax=0.05).calc_slabs(
            mtc.utils.to_pmg_structure(bulk("Cu", "fcc", a=3.6)),
            miller_index=(1, 1, 1),
            min_slab_size=6.0,
            min_vacuum_size=10.0,
        )

    ours, reference = (slabs(make()) for make in calculators)
    expected = [s["surface_energy"] for s in reference]
    assert min(expected) > 0
    np.testing.assert_allclose([s["surface_energy"] for s in ours], expected, rtol=1e-4)


def test_barrier_of_a_vacancy_hop_by_nudged_elastic_band(calculators):
    """Atom 0 moves into the place of a nearest neighbor."""
    crystal = bulk("Cu", "fcc", a=3.6, cubic=True) * (2, 2, 1)
    neighbor = 1 + crystal.get_distances(0, range(1, len(crystal)), mic=True).argmin()
    start, end = crystal.copy(), crystal.copy()
    end.positions[0] = crystal.positions[neighbor]
    del start[neighbor], end[neighbor]

    def band(calc):
        ends = [mtc.utils.to_pmg_structure(atoms) for atoms in (start, end)]
        return mtc.NEBCalc(calc, fmax=0.05, max_steps=30).calc_images(*ends, n_images=3)

    ours, reference = (band(make()) for make in calculators)
    assert reference["barrier"] > 0.1  # eV
    assert ours["barrier"] == pytest.approx(reference["barrier"], abs=1e-4)
    np.testing.assert_allclose(ours["mep"].energies, reference["mep"].energies, atol=1e-4)
    np.testing.assert_allclose(ours["forces"], reference["forces"], atol=1e-3)
