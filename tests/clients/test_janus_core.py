"""janus-core's Python interface: single points, relaxation, EOS, elasticity, phonons."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
pytest.importorskip("janus_core", reason="needs janus-core")


@pytest.fixture
def coppers(calculators):
    """The same copper with our calculator and with ASE's."""
    structures = []
    for make in calculators:
        atoms = bulk("Cu", "fcc", a=3.65, cubic=True)
        atoms.rattle(0.02, seed=1)
        atoms.calc = make()
        structures.append(atoms)
    return structures


def test_a_single_point_returns_the_calculators_values_and_writes_their_keys(coppers):
    from ase.io import read
    from janus_core.calculations.single_point import SinglePoint

    properties = ["energy", "forces", "stress"]
    runs = [
        SinglePoint(struct=a, properties=properties, write_results=True, file_prefix=name)
        for a, name in zip(coppers, ("ours", "reference"), strict=True)
    ]
    ours, reference = (run.run() for run in runs)
    for name in properties:
        np.testing.assert_allclose(ours[name], reference[name], atol=1e-5)

    written = read("ours-results.extxyz")
    name = written.info["arch"]
    assert written.info[f"{name}_energy"] == pytest.approx(reference["energy"], abs=1e-5)
    np.testing.assert_allclose(written.arrays[f"{name}_forces"], reference["forces"], atol=1e-5)


def test_relaxation_of_atoms_and_cell(coppers):
    from janus_core.calculations.geom_opt import GeomOpt

    for atoms in coppers:
        GeomOpt(struct=atoms, fmax=0.01).run()

    ours, reference = coppers
    assert abs(reference.get_volume() - 3.65**3) > 1  # A^3: it moved
    assert ours.get_volume() == pytest.approx(reference.get_volume(), rel=1e-5)
    assert ours.get_potential_energy() == pytest.approx(reference.get_potential_energy(), abs=1e-5)


def test_equation_of_state(coppers):
    from janus_core.calculations.eos import EoS

    ours, reference = (EoS(struct=a, minimize_kwargs={"fmax": 0.01}).run() for a in coppers)
    assert reference["bulk_modulus"] > 50  # GPa
    for name in ("bulk_modulus", "e_0", "v_0"):
        assert ours[name] == pytest.approx(reference[name], rel=1e-3, abs=1e-5), name


def test_elastic_constants(coppers):
    from janus_core.calculations.elasticity import Elasticity

    ours, reference = (Elasticity(struct=a, minimize_kwargs={"fmax": 0.01}).run() for a in coppers)
    assert reference.voigt[0, 0] > 50  # GPa
    np.testing.assert_allclose(ours.voigt, reference.voigt, atol=0.1)


def test_force_constants_of_phonons(coppers):
    from janus_core.calculations.phonons import Phonons

    constants = []
    for atoms in coppers:
        phonons = Phonons(struct=atoms, supercell=2, write_results=False)
        phonons.calc_force_constants()
        constants.append(phonons.results["phonon"].force_constants)
    assert np.abs(constants[1]).max() > 1  # eV/A^2
    np.testing.assert_allclose(*constants, atol=1e-5)
